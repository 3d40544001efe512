// Loops of the sampler over a whole vocabulary: sanitise, maximum, exponentials, selection by count and by mass.
// Pure functions over caller-owned buffers; they know nothing of sequences and generators.
#ifndef QUIRE_SAMPLING_H
#define QUIRE_SAMPLING_H

#include <stddef.h>
#include <stdint.h>

/// One token that may still be sampled. `key` is a logit or a weight: larger is better, equal keys: the lower id wins.
typedef struct qe_candidate {
  float key;
  int32_t id;
} qe_candidate;

/// Copies `count` logits, non-finite ones as -inf, and sets the `masked_count` ids (within 0 ..< count) to -inf.
void qe_sanitize_logits(const float *logits, int32_t count, const int32_t *masked, int32_t masked_count, float *clean);

/// The lowest index of the largest finite value; -1 if there is none. NaN and +inf are ignored.
int32_t qe_argmax_finite(const float *values, int32_t count);

/// log(sum(exp(values))) over the finite values, in double; -inf if there is none.
double qe_log_sum_exp(const float *values, int32_t count);

/// weights[i] = exp((clean[i] - maximum) / temperature), 0 for -inf. Returns the sum in a fixed order.
double qe_softmax_weights(const float *clean, int32_t count, float maximum, float temperature, float *weights);

/// The same over candidates: key becomes the weight. Returns the sum.
double qe_candidate_weights(qe_candidate *candidates, int32_t count, float maximum, float temperature);

/// Writes the `k` best finite values (unordered); returns how many there are (<= k).
/// `candidates` has room for min(count, max(2 * k, 1024)) entries.
int32_t qe_select_top(const float *clean, int32_t count, int32_t k, qe_candidate *candidates);

/// Writes every i with weights[i] >= floor and > 0; returns how many. Room for `count` entries.
int32_t qe_collect_at_least(const float *weights, int32_t count, float floor, qe_candidate *candidates);

/// Reorders so that the best candidates stand first and returns the size of the smallest best set whose keys sum to at least `mass`
/// (at least 1, at most count). Expected linear time whatever the values.
int32_t qe_select_mass(qe_candidate *candidates, int32_t count, double mass);

/// Keeps the candidates with key >= floor, in order; returns how many.
int32_t qe_keep_at_least(qe_candidate *candidates, int32_t count, float floor);

/// The id at which the running sum of keys passes `uniform` (in [0, 1)) times their total; -1 if count is 0 or the total is 0.
int32_t qe_draw_candidate(const qe_candidate *candidates, int32_t count, double uniform);

/// The same over all weights, whose sum is `total`.
int32_t qe_draw_weight(const float *weights, int32_t count, double total, double uniform);

/// The `k` best finite values in order (best first, equal values: lower id first), for small k; returns how many.
int32_t qe_top_sorted(const float *values, int32_t count, int32_t k, qe_candidate *best);

/// Log-probabilities that one row may ask for, beside its token's.
#define QE_TOP_MAX 20

/// One row of logits on its way to a token. Filters in vLLM's order: temperature, top-k, top-p over what top-k left, min-p relative to the
/// most probable token.
typedef struct qe_sampled_row {
  const float *logits;     // [count]; what is not finite counts as -inf
  int32_t count;           // 0: the fallback
  const int32_t *masked;   // [masked_count] ids never sampled, rising, within 0 ..< count; NULL if none
  int32_t masked_count;
  int32_t fallback;        // the token if no logit is usable
  float temperature;       // 0: greedy; else above 0 and finite
  int32_t top_k;           // 0: off
  double top_p;            // 0 ... 1; 1: off
  float min_p;             // 0 ... 1; 0: off
  double uniform;          // in [0, 1), from the sequence's generator
  int32_t top_wanted;      // -1: no log-probabilities, else 0 ... QE_TOP_MAX of the best
  int32_t token;           // result
  double normaliser;       // result: qe_log_sum_exp of all raw logits
  int32_t top_count;       // result
  qe_candidate top[QE_TOP_MAX];  // result: best first, keys are raw logits
} qe_sampled_row;

/// Bytes of scratch that qe_sample_row needs, 4-byte aligned.
ptrdiff_t qe_sample_scratch_bytes(ptrdiff_t count);

/// Fills in the results of a row. Depends on nothing but the row.
void qe_sample_row(qe_sampled_row *row, void *scratch);

#endif
