// One row of logits to a token: the filters in their order, over the loops of sampling.c; and the rows of a batch on all workers.
#include <math.h>
#include <stdbool.h>

#include "engine_jobs.h"

/// The parts of a worker's scratch.
typedef struct {
  float *clean;              // [count] finite logits or -inf
  float *weights;            // [count]
  qe_candidate *candidates;  // [count]
} sample_scratch;

ptrdiff_t qe_sample_scratch_bytes(ptrdiff_t count) { return count * (ptrdiff_t)(2 * sizeof(float) + sizeof(qe_candidate)); }

static sample_scratch carve(void *scratch, int32_t count) {
  float *clean = scratch;
  return (sample_scratch){.clean = clean, .weights = clean + count, .candidates = (qe_candidate *)(clean + 2 * (ptrdiff_t)count)};
}

static bool is_masked(const qe_sampled_row *row, int32_t id) {
  int32_t low = 0, high = row->masked_count;
  while (low < high) {
    const int32_t middle = low + (high - low) / 2;
    if (row->masked[middle] < id) low = middle + 1;
    else high = middle;
  }
  return low < row->masked_count && row->masked[low] == id;
}

/// A token by its weight among what the filters leave; -1 if that is nothing.
static int32_t draw(const qe_sampled_row *row, float maximum, const sample_scratch *s) {
  const int32_t count = row->count;
  int32_t kept;
  double total;
  if (row->top_k > 0 && row->top_k < count) {
    kept = qe_select_top(s->clean, count, row->top_k, s->candidates);
    total = qe_candidate_weights(s->candidates, kept, maximum, row->temperature);
  } else {
    total = qe_softmax_weights(s->clean, count, maximum, row->temperature, s->weights);
    if (row->top_p >= 1 && row->min_p == 0) return qe_draw_weight(s->weights, count, total, row->uniform);
    // Tokens below this floor weigh less than (1 - top_p) in sum, so the nucleus lies above it; min-p's floor is relative to the best weight, 1.
    const float floor = row->top_p < 1 ? (float)((1 - row->top_p) * total / (double)count) : row->min_p;
    kept = qe_collect_at_least(s->weights, count, floor, s->candidates);
  }
  if (row->top_p < 1) kept = qe_select_mass(s->candidates, kept, row->top_p * total);
  if (row->min_p > 0) kept = qe_keep_at_least(s->candidates, kept, row->min_p);
  return qe_draw_candidate(s->candidates, kept, row->uniform);
}

static int32_t choose(const qe_sampled_row *row, const sample_scratch *s) {
  const bool greedy = !(row->temperature > 0);
  if (greedy) {
    const int32_t best = qe_argmax_finite(row->logits, row->count);
    if (best < 0) return row->fallback;
    if (!is_masked(row, best)) return best;
  }
  qe_sanitize_logits(row->logits, row->count, row->masked, row->masked_count, s->clean);
  const int32_t best = qe_argmax_finite(s->clean, row->count);
  if (best < 0) return row->fallback;
  if (greedy) return best;
  const int32_t token = draw(row, s->clean[best], s);
  return token < 0 ? best : token;
}

void qe_sample_row(qe_sampled_row *row, void *scratch) {
  const sample_scratch s = carve(scratch, row->count);
  row->token = choose(row, &s);
  row->top_count = 0;
  row->normaliser = -INFINITY;
  if (row->top_wanted < 0) return;
  row->normaliser = qe_log_sum_exp(row->logits, row->count);
  row->top_count = qe_top_sorted(row->logits, row->count, row->top_wanted < QE_TOP_MAX ? row->top_wanted : QE_TOP_MAX, row->top);
}

typedef struct {
  qe_workers workers;
  const qe_sampling *job;
} sampling_context;

static void sample_one(void *context, qk_int i, qk_int worker) {
  const sampling_context *c = context;
  qe_sample_row(&c->job->rows[i], qk_pool_scratch(c->workers.pool, worker));
}

void qe_run_sampling(qe_workers workers, const qe_sampling *job) {
  if (job->count <= 0) return;
  sampling_context context = {workers, job};
  qe_run_rows(workers, sample_one, &context, job->count, job->rows[0].count);
}
