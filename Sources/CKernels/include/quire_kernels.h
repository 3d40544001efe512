// The numeric kernels: weight formats, matrix products, attention over latent pages, norms and conversions,
// in scalar, AVX2 and AVX-512 variants behind one table of functions chosen at run time.
// Knows nothing of models, files, sequences or layers; never allocates; never fails: sizes are the caller's duty,
// zero sizes are legal everywhere, and no bit pattern in a weight, an activation or the cache can trap.
#ifndef QUIRE_KERNELS_H
#define QUIRE_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "quire_pool.h"

#pragma clang assume_nonnull begin

// ---------------------------------------------------------------------------------------------- weights

/// Element formats; the numbers are GGUF's (SPEC 3.6), F8_E4M3 (SPEC 3.3) and INT16 are ours. INT16 is in no file: a row is a float32 scale
/// and 16-bit integers of it, an even number; the kernels' own form of matrices that are transposed at load.
typedef enum qk_type {
  QK_F32 = 0, QK_F16 = 1, QK_Q4_0 = 2, QK_Q4_1 = 3, QK_Q5_0 = 6, QK_Q5_1 = 7, QK_Q8_0 = 8, QK_Q2_K = 10, QK_Q3_K = 11,
  QK_Q4_K = 12, QK_Q5_K = 13, QK_Q6_K = 14, QK_IQ4_NL = 20, QK_IQ4_XS = 23, QK_BF16 = 30, QK_F8_E4M3 = 100, QK_INT16 = 101,
} qk_type;

/// QK_FILE: rows one after the other as in the file, any alignment (may point into a mapping). Read by `dequantize_rows`
/// and `matmul_exact`. QK_PACKED: groups of QK_ROW_GROUP rows interleaved, made by `qk_pack`. Read by `matmul_fast`.
typedef enum qk_layout { QK_FILE = 0, QK_PACKED = 1 } qk_layout;

/// Rows interleaved with each other in the packed layout. A packed matrix is padded to a multiple of this; a part of a
/// stacked tensor (one expert, one head) is packed as a matrix of its own.
#define QK_ROW_GROUP 16

/// A weight matrix [rows, columns], y = W x. A view: owns nothing. A sub-range of rows of a QK_FILE matrix is
/// `qk_rows(m, begin, end)`.
typedef struct qk_matrix {
  const void *_Nullable data;         // first byte of row 0 (QK_FILE) or of group 0 (QK_PACKED)
  qk_int rows;
  qk_int columns;                     // a multiple of qk_block_elements(type)
  qk_int row_bytes;                   // QK_FILE: distance of two rows. QK_PACKED: distance of two groups / QK_ROW_GROUP
  const float *_Nullable scales;      // F8_E4M3 only: grid [ceil(R/128), scale_stride] of the WHOLE tensor; NULL = all 1
  qk_int scale_stride;                // floats per row of the grid: ceil(columns / 128)
  qk_int scale_row;                   // index of row 0 of this matrix in the whole tensor (row i uses grid row (scale_row+i)/128)
  qk_type type;
  qk_layout layout;
} qk_matrix;

bool qk_type_known(qk_type type);
qk_int qk_block_elements(qk_type type);             // 1, 32 or 256; 0 for an unknown type
qk_int qk_block_bytes(qk_type type);
qk_int qk_row_bytes(qk_type type, qk_int columns);  // bytes of one file row; columns must be whole blocks

/// A matrix over file rows. `scales` for F8_E4M3, else NULL.
qk_matrix qk_file_matrix(qk_type type, const void *_Nullable data, qk_int rows, qk_int columns, const float *_Nullable scales);
/// Rows [begin, end) of a matrix, the F8 scale grid followed. QK_PACKED: begin a multiple of QK_ROW_GROUP.
qk_matrix qk_rows(qk_matrix m, qk_int begin, qk_int end);

/// Bytes of the packed form of `source`, a multiple of 64; the bits per weight are the file's (plus padding to 16 rows).
qk_int qk_packed_bytes(qk_type type, qk_int rows, qk_int columns);
/// The packed view over `destination` (64-byte aligned, qk_packed_bytes long). Filled by qk_pack. Keeps source.scales by reference.
qk_matrix qk_packed_matrix(qk_matrix source, void *_Nullable destination);
/// Packs groups [group_begin, group_end), group = rows [16g, 16g+16), of a QK_FILE matrix; ranges may run in parallel.
void qk_pack(qk_matrix source, void *_Nullable destination, qk_int group_begin, qk_int group_end);
static inline qk_int qk_group_count(qk_int rows) { return (rows + QK_ROW_GROUP - 1) / QK_ROW_GROUP; }
/// The inverse of qk_pack for one group: 16 file rows (missing rows are zero) at `rows_out`, qk_row_bytes apart. For tests and oracles.
void qk_unpack_group(qk_matrix packed, qk_int group, void *rows_out);

/// A file row of Q8_0: blocks of 32 with the scale that their largest magnitude asks for, as float16; `columns` a multiple of 32. A block with
/// an infinite number or a NaN decodes to NaN.
void qk_encode_q8_0(const float *x, qk_int columns, void *out);
/// out[j * out_stride + i] = in[i * in_stride + j]: for the absorbed form, which uses W_UK transposed.
void qk_transpose_f32(const float *in, qk_int rows, qk_int columns, qk_int in_stride, float *out, qk_int out_stride);

// ------------------------------------------------------------------------------------------ activations

/// What `matmul_fast` wants on its right side. QK_ACT_Q8: int8 blocks of 32 with scale and sums (all quantised types).
/// QK_ACT_BF16: bfloat16 (F32, F16, BF16, F8_E4M3 weights; any column count). QK_ACT_INT16: 16-bit integers with one scale (INT16 weights).
typedef enum qk_activation { QK_ACT_Q8 = 0, QK_ACT_BF16 = 1, QK_ACT_INT16 = 2 } qk_activation;

qk_activation qk_activation_for(qk_type weights);
/// Bytes of one token's quantised activations, a multiple of 64: token t starts at buffer + t * that.
qk_int qk_activation_bytes(qk_activation kind, qk_int columns);

/// Scratch one worker needs for any matmul of this many columns (64-byte aligned).
qk_int qk_matmul_scratch_bytes(qk_int columns);

// ---------------------------------------------------------------------------------------- latent cache

typedef enum qk_cache_type { QK_CACHE_F32 = 0, QK_CACHE_BF16 = 1, QK_CACHE_INT8 = 2, QK_CACHE_INT6 = 3, QK_CACHE_INT16 = 4 } qk_cache_type;

/// Bytes of one cache row (one token, one layer): latent [c] and rope key [r].
/// f32, bf16: c + r values. int16: f32 scales of latent and rope key, then c + r int16. int8: f32 scale and int32 offset per 128 latents, f32
/// scale of the rope key, r int16, c int8. int6: bf16 scale per 32 latents, f32 scale of the rope key, r int16, then latents of 6 bits, 4 in
/// 3 bytes. Rounded up to 4 bytes.
qk_int qk_cache_row_bytes(qk_cache_type type, qk_int c, qk_int r);

/// The rows of one sequence in one layer: position p is row p % page_tokens of page table[p / page_tokens].
typedef struct qk_pages {
  const void *_Nullable base;         // page 0 of this layer
  qk_int page_stride;                 // bytes from page i to page i + 1
  qk_int row_stride;                  // bytes from row to row, >= qk_cache_row_bytes
  const int32_t *_Nullable table;     // block table of the sequence, covering every position that is read
  int32_t page_tokens;                // 1...1024
  int32_t c;                          // latent width
  int32_t r;                          // rope width
  qk_cache_type type;
} qk_pages;

// ------------------------------------------------------------------------------------------- attention

/// Keys are taken in tiles of this many absolute positions, whatever the page size and the chunk of the prefill: the bits
/// of a result do not depend on either. `begin` of a range must be a multiple of it.
#define QK_KEY_TILE 128
/// Positions per context split. Partial results over [k * QK_SPLIT, (k + 1) * QK_SPLIT) merged in rising order give the
/// same bits as one call over the whole range (which does exactly that inside).
#define QK_SPLIT 512

/// Running softmax of `rows` query rows: u = sum of exp(score - m) * value, not yet divided by l.
typedef struct qk_softmax_state {
  float *m;                           // [rows] largest score so far; -INFINITY = nothing seen
  float *l;                           // [rows] sum of exp(score - m)
  float *u;                           // [rows, u_stride], value width used
  qk_int u_stride;
} qk_softmax_state;

/// Absorbed MLA of one sequence: row i = token i / heads, head i % heads; token t sees keys 0 ... first_position + t.
/// Keys [begin, end) only: begin a multiple of QK_KEY_TILE; if the range crosses a multiple of QK_SPLIT, begin must be one
/// too. `end` may exceed what rows see. The state is written fresh (m = -INF, l = 0, u = 0 where nothing is visible).
typedef struct qk_latent_attention {
  const float *q;                     // [tokens * heads, q_stride], c + r used; softmax scale folded in
  qk_int q_stride;
  int32_t tokens;
  int32_t heads;
  qk_int first_position;
  qk_int begin, end;
  qk_pages pages;
  qk_softmax_state state;             // value width c
  const int32_t *_Nullable next_table;  // what this worker will probably be asked next: the first keys of [next_begin, next_end) of that
  qk_int next_begin, next_end;          // block table are fetched into the cache meanwhile; NULL: nothing
  const void *_Nullable beside;         // and [beside_bytes] of anything else, evenly: the queries that are next, or weights
  qk_int beside_bytes;
  bool exact;                         // true: f32 products; false: products of 16-bit integers allowed
  bool same_queries;                  // the scratch is as the last call left it, which had the same rows of the same sequence: only keys differ
} qk_latent_attention;

/// Expanded form, ONE head: keys [begin, end) as K_nope [n] and V [v] made by the caller for just this range (row 0 of k and
/// v = position begin), the rope part straight from the pages. Continues `state` (start it with attention_reset), so that
/// the caller can expand one range after another, in rising order, each beginning at a multiple of QK_KEY_TILE.
typedef struct qk_expanded_attention {
  const float *q;                     // [tokens, q_stride], n + r used; softmax scale folded in
  qk_int q_stride;
  int32_t tokens;
  int32_t n, v;
  qk_int first_position;              // token t sees keys 0 ... first_position + t
  qk_int begin, end;
  const float *k;                     // [end - begin, k_stride], n used
  qk_int k_stride;
  const float *values;                // [end - begin, v_stride], v used
  qk_int v_stride;
  qk_pages pages;                     // for the rope keys
  qk_softmax_state state;             // [tokens], value width v
  bool exact;
  bool same_queries;                  // the scratch is as the last call left it, which had the same queries: only keys differ
} qk_expanded_attention;

/// Scratch for one call with `rows` query rows (tokens * heads, or tokens), key width (c + r or n + r) and value width.
qk_int qk_attention_scratch_bytes(qk_int rows, qk_int key_width, qk_int value_width);

// ------------------------------------------------------------------------------------------- the table

/// One ISA variant. All arrays are float32 and may be unaligned unless said otherwise; in-place use (out == in) is fine for
/// the element-wise ones. "Invariant" = the bits of one (row, token) do not depend on tokens, ranges or neighbours.
typedef struct qk_kernels {
  const char *name;                   // "scalar", "avx2", "avxvnni", "avx512", "avx512bf16", "avx512zen4", "avx512zen5"

  /// out[(i - begin) * out_stride + k] = W[i, k] for rows [begin, end) of a QK_FILE matrix. Bit-exact to SPEC 3.6.
  void (*dequantize_rows)(const qk_matrix *w, qk_int begin, qk_int end, float *out, qk_int out_stride);

  /// y[t * y_stride + i] = sum_k W[i, k] x[index ? index[t] : t][k], rows i in [begin, end) of a QK_FILE matrix; y is addressed
  /// by the absolute row i. float32 throughout. Invariant.
  void (*matmul_exact)(const qk_matrix *w, qk_int begin, qk_int end, const float *x, qk_int x_stride, const int32_t *_Nullable index,
                       qk_int tokens, float *y, qk_int y_stride, void *scratch);

  /// Rounds x [tokens, x_stride] into `out` (64-byte aligned), tokens out_stride bytes apart: qk_activation_bytes, or more where they are parts
  /// of longer rows. QK_ACT_Q8: columns % 32 == 0.
  void (*quantize_activations)(qk_activation kind, const float *x, qk_int x_stride, qk_int tokens, qk_int columns, void *out, qk_int out_stride);

  /// As matmul_exact for a QK_PACKED matrix and activations of kind qk_activation_for(w->type). begin must be a multiple of
  /// QK_ROW_GROUP, end too or equal to rows. Invariant.
  void (*matmul_fast)(const qk_matrix *w, qk_int begin, qk_int end, const void *activations, const int32_t *_Nullable index, qk_int tokens,
                      float *y, qk_int y_stride, void *scratch);

  /// y_j = weight_j x_j / sqrt(mean(x^2) + epsilon) (SPEC 2.2); weight NULL = ones.
  void (*rms_norm)(const float *x, const float *_Nullable weight, float epsilon, qk_int count, float *y);
  void (*softmax)(float *x, qk_int count);                                       // in place, max subtracted
  void (*sigmoid)(float *x, qk_int count);                                       // in place
  void (*silu_mul)(const float *gate, const float *up, qk_int count, float *out);  // out = silu(gate) * up
  /// `heads` vectors of `width` (even), `stride` apart, rotated in place. cosine, sine [width / 2] (magnitude folded in). SPEC 2.3.
  void (*rope_interleaved)(float *x, qk_int stride, qk_int heads, qk_int width, const float *cosine, const float *sine);
  void (*rope_half_split)(float *x, qk_int stride, qk_int heads, qk_int width, const float *cosine, const float *sine);
  void (*add)(float *y, const float *x, qk_int count);                           // y += x
  void (*axpy)(float *y, float a, const float *x, qk_int count);                 // y += a x
  void (*scale)(float *y, float a, qk_int count);                                // y *= a
  void (*f32_to_bf16)(const float *x, uint16_t *out, qk_int count);              // nearest even; NaN stays NaN (quiet)
  void (*bf16_to_f32)(const uint16_t *x, float *out, qk_int count);
  float (*max)(const float *x, qk_int count);                                    // -INFINITY if count == 0; NaN ignored
  qk_int (*argmax)(const float *x, qk_int count);                                // lowest index of the largest; NaN ignored; -1 if none
  double (*logsumexp)(const float *x, qk_int count);                             // summed in double; -INFINITY if count == 0

  /// Writes one cache row: latent [c] (normalised), rope [r] (rotated).
  void (*cache_store_row)(qk_cache_type type, qk_int c, qk_int r, const float *latent, const float *rope, void *row);
  /// Reads positions [begin, end) as float32: latent [end - begin, latent_stride] and rope [.., rope_stride] (either may be NULL).
  void (*cache_load_rows)(const qk_pages *pages, qk_int begin, qk_int end, float *_Nullable latent, qk_int latent_stride,
                          float *_Nullable rope, qk_int rope_stride);

  void (*attention_latent)(const qk_latent_attention *a, void *scratch);         // invariant
  void (*attention_expanded)(const qk_expanded_attention *a, void *scratch);     // invariant
  void (*attention_reset)(const qk_softmax_state *s, qk_int rows, qk_int width);
  /// into := into merged with `from` (later keys). Merge splits in rising order.
  void (*attention_merge)(const qk_softmax_state *into, const qk_softmax_state *from, qk_int rows, qk_int width);
  /// out[i * out_stride + j] = u[i, j] / l[i]; zero for rows that saw nothing. out may be u.
  void (*attention_finish)(const qk_softmax_state *s, qk_int rows, qk_int width, float *out, qk_int out_stride);

  /// Keeps the arithmetic units busy, without memory: `rounds` times the dot product instruction of quantised (int8), bfloat16 and int16
  /// products; without VNNI, int8 as 4-bit weights are multiplied, which is the fastest. Returns the operations done (a multiplication
  /// and an addition are two). For rooflines.
  qk_int (*peak_int8)(qk_int rounds);
  qk_int (*peak_bf16)(qk_int rounds);
  qk_int (*peak_int16)(qk_int rounds);
  /// Reads memory as fast as it can: a sum of it, so that nothing is left out. `bytes` a multiple of 256.
  uint64_t (*peak_read)(const void *memory, qk_int bytes);
} qk_kernels;

const qk_kernels *qk_kernels_scalar(void);
const qk_kernels *_Nullable qk_kernels_avx2(void);       // NULL if the CPU lacks AVX2, FMA, F16C
const qk_kernels *_Nullable qk_kernels_avxvnni(void);    // and AVX-VNNI
const qk_kernels *_Nullable qk_kernels_avx512(void);     // F, BW, DQ, VL, VNNI
const qk_kernels *_Nullable qk_kernels_avx512bf16(void); // and BF16 products
const qk_kernels *_Nullable qk_kernels_avx512zen4(void); // the same instructions, in the order that AMD's Zen 4 likes,
const qk_kernels *_Nullable qk_kernels_avx512zen5(void); // and Zen 5; run wherever qk_kernels_avx512bf16 does
/// The variant named ("scalar", "avx2", "avxvnni", "avx512", "avx512bf16", "avx512zen4", "avx512zen5"); NULL if unknown or not on this CPU.
const qk_kernels *_Nullable qk_kernels_named(const char *name);
/// The vector variant named, whether or not this CPU has its instructions; NULL if unknown. For tests where those it lacks are emulated
/// (Tests/Emulation).
const qk_kernels *_Nullable qk_kernels_unchecked(const char *name);
/// The widest, or what the environment variable QUIRE_KERNELS names if this CPU has it.
const qk_kernels *qk_kernels_best(void);

// ------------------------------------------------------------------------------- work for all workers

/// One product of a batch of products: all tokens of one matrix. `w->layout` decides: QK_FILE = matmul_exact with float x
/// (x_stride), QK_PACKED = matmul_fast with quantised activations (x_stride ignored).
/// With `up`, a gated pair (both packed, rows a multiple of 32, the same columns and x): y is not written, but silu(w x) * (up x) is, as
/// QK_ACT_Q8 rows [tokens] of all rows of w, hidden_bytes apart: the numbers of silu_mul and quantize_activations, made where the products
/// are still in the cache.
typedef struct qk_matmul_task {
  const qk_matrix *w;
  const void *x;
  qk_int x_stride;
  const int32_t *_Nullable index;
  qk_int tokens;
  float *y;
  qk_int y_stride;
  const qk_matrix *_Nullable up;
  void *_Nullable hidden;
  qk_int hidden_bytes;
  qk_int first_job, job_rows;         // filled in by qk_pool_matmul
} qk_matmul_task;

/// Runs all products, row tiles claimed dynamically (one pool run, no allocation): one matrix, gate+up, or the touched
/// experts of a step. The pool's per-worker scratch must hold qk_pool_matmul_scratch_bytes of the widest matrix.
qk_int qk_pool_matmul_scratch_bytes(qk_int columns);
void qk_pool_matmul(qk_pool *pool, const qk_kernels *kernels, qk_matmul_task *tasks, qk_int count);
/// What all workers together can do at best: bytes read from memory, int8, bfloat16 and int16 operations, per second. Takes a fifth of a second
/// and 256 MiB; zeros if that memory is not to be had.
typedef struct qk_limits {
  double bytes_per_second, int8_per_second, bf16_per_second, int16_per_second;
} qk_limits;
qk_limits qk_pool_measure(qk_pool *pool, const qk_kernels *kernels);
/// qk_pack of a whole matrix on all workers.
void qk_pool_pack(qk_pool *pool, qk_matrix source, void *_Nullable destination);

#pragma clang assume_nonnull end
#endif
