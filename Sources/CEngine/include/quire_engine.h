// The engine's own jobs for the worker pool: everything between two matrix products, row by row, plus routing and attention scheduling.
// Plain argument structs over caller-owned memory; no allocation, no failure, no knowledge of files, sequences' text or policy.
// Every result row depends on its own token's inputs only: not on how many rows there are, nor on who computes them.
#ifndef QUIRE_ENGINE_H
#define QUIRE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "quire_kernels.h"
#include "quire_sampling.h"

#pragma clang assume_nonnull begin

typedef struct qe_workers {
  qk_pool *pool;
  const qk_kernels *kernels;
} qe_workers;

/// Rows of activations in the forms that the next products read. f32 is always written; the others if not NULL.
typedef struct qe_activations {
  float *f32;             // [rows, f32_stride]
  qk_int f32_stride;
  void *_Nullable q8;     // row i at q8 + i * q8_bytes
  void *_Nullable bf16;   // row i at bf16 + i * bf16_bytes
  void *_Nullable int16;  // row i at int16 + i * int16_bytes
  qk_int q8_bytes;
  qk_int bf16_bytes;
  qk_int int16_bytes;
} qe_activations;

/// residual[t] = embedding row tokens[t], dequantised.
typedef struct qe_embed {
  const qk_matrix *table;   // QK_FILE [vocabulary, width]
  const int32_t *tokens;    // [count], each in 0 ..< vocabulary
  qk_int count;
  float *residual;          // [count, width]
} qe_embed;
void qe_run_embed(qe_workers workers, const qe_embed *job);

/// Adds what the last sub-layer made to the residual stream, then normalises (SPEC 2.1, 2.2).
/// Order of the sum, fixed per token: routed experts in slot order, then `delta`, then `bias`, then onto the residual.
typedef struct qe_residual_norm {
  qk_int count;                             // rows to make
  const int32_t *_Nullable rows;            // [count] token of each row; NULL = 0 ..< count
  qk_int width;
  float *residual;                          // [tokens, width], updated
  const float *_Nullable delta;             // [tokens, width]
  const float *_Nullable bias;              // [width]
  const float *_Nullable expert_out;        // [pairs, width]
  const int32_t *_Nullable pair_of_slot;    // [tokens, experts_per_token] row of expert_out
  const float *_Nullable slot_weights;      // [tokens, experts_per_token]
  qk_int experts_per_token;
  const float *norm;                        // [width]
  float epsilon;
  qe_activations out;
} qe_residual_norm;
void qe_run_residual_norm(qe_workers workers, const qe_residual_norm *job);

/// out = rmsnorm(in + bias) (the query's low-rank latent).
typedef struct qe_norm {
  qk_int count, width;
  float *in;                                // [count, width], bias added in place
  const float *_Nullable bias;              // [width]
  const float *norm;                        // [width]
  float epsilon;
  qe_activations out;
} qe_norm;
void qe_run_norm(qe_workers workers, const qe_norm *job);

/// Gives f32 rows their quantised forms.
typedef struct qe_quantize {
  qk_int count, width;
  qe_activations rows;
} qe_quantize;
void qe_run_quantize(qe_workers workers, const qe_quantize *job);

/// Head-major activations: (head, row) at base + (head * capacity + row) * bytes. NULL = not wanted.
typedef struct qe_head_activations {
  void *_Nullable q8;
  void *_Nullable bf16;
  void *_Nullable int16;
  qk_int q8_bytes, bf16_bytes, int16_bytes;
  qk_int capacity;                          // rows per head
} qe_head_activations;

/// Between the attention input products and the absorbed product, per token: bias and norm of the latent, rotation of the keys' and the
/// queries' rope parts, the softmax scale folded into the queries, one cache row stored (SPEC 2.4 "common part").
typedef struct qe_latent_rows {
  qk_int count, heads, n, r, c;
  float *q;                                 // [count, heads * (n + r)], rotated and scaled in place
  float *q_latent;                          // [count * heads, c + r]; columns c ..< c + r written here
  float *latent;                            // [count, c + r] = kv_a product, normalised and rotated in place
  const float *_Nullable latent_bias;       // [c + r]
  const float *latent_norm;                 // [c]
  float epsilon;
  const float *cosine, *sine;               // [count, r / 2]
  bool interleaved;
  float scale;
  qk_cache_type cache_type;
  uint8_t *cache;                           // this layer's pool
  qk_int row_stride;
  const int64_t *cache_rows;                // [count] row of each token in the pool
  qe_head_activations nope;                 // the scaled q_nope [n] of each head
} qe_latent_rows;
void qe_run_latent_rows(qe_workers workers, const qe_latent_rows *job);

/// One call of the attention kernel. A direct item covers all its keys and writes finished rows; a partial one leaves its running softmax
/// in `slot`, to be merged by qe_attention_merge in rising order of the keys.
typedef struct qe_attention_item {
  int32_t token;                            // first token (row of the batch)
  int32_t tokens;                           // > 1 only with all heads
  int32_t head, heads;                      // head range
  int64_t first_position;                   // of `token` in its sequence
  int64_t begin, end;                       // keys
  int32_t table;                            // offset of the sequence's blocks in `tables`
  int32_t slot;                             // -1: direct
} qe_attention_item;

/// A token whose keys were split: slots [slot, slot + slots) in rising order of the keys.
typedef struct qe_attention_merge {
  int32_t token;
  int32_t slot, slots;
} qe_attention_merge;

typedef struct qe_attention {
  const qe_attention_item *items;
  qk_int item_count;
  const qe_attention_merge *merges;
  qk_int merge_count;
  const int32_t *tables;                    // all block tables of the batch
  qk_int heads, c, r;
  const float *q_latent;                    // [tokens * heads, c + r]
  qk_pages pages;                           // of this layer; table is set per item
  bool exact;
  float *m, *l;                             // [tokens * heads]
  float *u;                                 // [tokens * heads, c]: the result; not of items of one token if `out` wants any form of it
  float *slot_m, *slot_l;                   // [slots * heads]
  float *slot_u;                            // [slots * heads, c]
  qe_head_activations out;                  // u of each head
  const void *_Nullable ahead;              // [ahead_bytes] that the next stages read: into the caches while attention computes
  qk_int ahead_bytes;
} qe_attention;
void qe_run_attention(qe_workers workers, const qe_attention *job);
/// Bytes at the head of a worker's scratch in which sums of one token are added up: they stay in the core's cache from token to token.
qk_int qe_attention_state_bytes(qk_int heads, qk_int c);

/// Keys that are expanded at once: K and V stay in a core's cache until they are consumed.
#define QE_EXPANDED_KEYS 512

/// Expanded attention of one sequence's tokens (SPEC 2.8): the latents of one range of keys are loaded, then expanded per head and consumed,
/// QE_EXPANDED_KEYS at a time.
typedef struct qe_expanded {
  qk_int tokens, heads, n, r, c, v;
  int64_t first_position;
  int64_t begin, end;                       // this range of keys
  const float *q;                           // [tokens, heads * (n + r)], scaled and rotated
  qk_pages pages;
  const qk_matrix *key_heads;               // [heads] of [n, c]
  const qk_matrix *value_heads;             // [heads] of [v, c]
  float *latents;                           // [end - begin, c]
  qe_activations latent_forms;              // f32 = latents, with the quantised forms that key_heads and value_heads read
  float *m, *l;                             // [heads, tokens_capacity]
  float *u;                                 // [heads, tokens_capacity, v]
  qk_int tokens_capacity;
  bool first, last;                         // reset before, finish after
  bool exact;                               // float32 products
  float *out;                               // [tokens, heads * v]
} qe_expanded;
void qe_run_expanded(qe_workers workers, const qe_expanded *job);
/// Bytes at the head of a worker's scratch that qe_run_expanded needs for the keys.
qk_int qe_expanded_keys_bytes(qk_int n, qk_int v, qk_int c);

/// hidden = silu(gate) * up, in place of gate, then its quantised forms.
typedef struct qe_silu {
  qk_int count, width;
  const float *up;                          // [count, width]
  qe_activations rows;                      // f32 = gate [count, width], f32_stride = width
} qe_silu;
/// One or two sets (routed and shared) in one pass.
void qe_run_silu(qe_workers workers, const qe_silu *first, const qe_silu *_Nullable second);

// ------------------------------------------------------------------------------------------------ routing

typedef enum qe_selection { QE_GREEDY = 0, QE_GROUP_MAX = 1, QE_GROUP_BIASED = 2 } qe_selection;

/// The router (SPEC 2.5): scores of all experts, choice, weights. All float32.
typedef struct qe_route {
  qk_int count, experts, chosen, groups, groups_kept;
  float *logits;                            // [count, experts] in; scores out
  const float *_Nullable bias;              // [experts]: for the choice only
  bool sigmoid;
  qe_selection selection;
  bool normalize;
  float scale;
  int32_t *slots;                           // [count, chosen] expert ids, best first
  float *weights;                           // [count, chosen]
} qe_route;
/// Limits of the fixed buffers on the stack; a model beyond them is refused at load.
#define QE_MAX_EXPERTS 4096
#define QE_MAX_GROUPS 4096
void qe_run_route(qe_workers workers, const qe_route *job);

/// Pairs (token, slot) sorted by expert, tokens rising inside an expert.
typedef struct qe_grouping {
  qk_int count, experts, chosen;
  const int32_t *slots;                     // [count, chosen]
  int32_t *first;                           // [experts + 1] first pair of each expert
  int32_t *pair_token;                      // [count * chosen]
  int32_t *pair_of_slot;                    // [count, chosen]
  uint64_t *load;                           // [experts] running totals of pairs
} qe_grouping;
void qe_group_by_expert(const qe_grouping *job);

// ------------------------------------------------------------------------------------------------ sampling

/// Rows of logits to tokens, a row a job. Worker scratch: qe_sample_scratch_bytes of the longest row.
typedef struct qe_sampling {
  qe_sampled_row *rows;                     // [count]
  qk_int count;
} qe_sampling;
void qe_run_sampling(qe_workers workers, const qe_sampling *job);

// ------------------------------------------------------------------------------------------------ loading

typedef enum qe_load_kind {
  QE_LOAD_COPY = 0,             // destination = source as it is
  QE_LOAD_FLOATS = 1,           // destination = source as float32 [rows, columns]
  QE_LOAD_PACK = 2,             // destination = qk_pack of source
  QE_LOAD_TRANSPOSE_F32 = 3,    // destination = transposed source as float32 [columns, rows]
  QE_LOAD_TRANSPOSE_PACK = 4,   // destination = transposed source [columns, rows], packed, of its qe_transposed_type
} qe_load_kind;

/// What transposed rows are packed as: Q8_0 where the source is multiplied in int8 blocks itself, else INT16. A block then lies across what were
/// blocks of the source, so its integers are rounded anew.
qk_type qe_transposed_type(qk_matrix source);

/// Rows of a tensor, and the file that they are read from.
typedef struct qe_file_rows {
  qk_matrix matrix;         // QK_FILE, over the mapped file
  int descriptor;
  qk_int offset;            // bytes from the beginning of the file to row 0
} qe_file_rows;

typedef struct qe_load_piece {
  qe_file_rows source;      // of a matrix that is packed: whole groups, but for its end; of one that is transposed: all
  void *destination;
  qe_load_kind kind;
} qe_load_piece;
/// Worker scratch for a piece.
qk_int qe_load_scratch_bytes(qk_matrix source, qe_load_kind kind);
/// 0, or the errno of a read that failed; ENODATA: a file ended before its rows did.
int qe_run_load(qe_workers workers, const qe_load_piece *pieces, qk_int count);

#pragma clang assume_nonnull end
#endif
