// Private body, compiled once per ISA: packed weights times the quantised activations of a few tokens, weights unpacked in registers (they are used
// once or twice). The same sums in the same order as those of simd_body_quant.h.

/// What a pass over a row group fetches ahead: of the `all` cache lines per block of 32 columns, `lines` from `skip` on.
typedef struct fetch_share {
  int lines, skip, all;
} fetch_share;

#if QK_PAIR_SUMS
#include "simd_body_direct_pairs.h"
#else
#include "simd_body_direct_vnni.h"
#endif

typedef void (*direct_function)(const uint8_t *, const qk_act_block *const *, qk_int, qk_int, float *, const fetch_share *);

/// Tokens of a pass in registers: the sums of Q6_K's four blocks leave room for few with VNNI, without it tiles are as fast.
INLINE int direct_tokens(qk_type type) { return type != QK_Q6_K ? DIRECT_TOKENS : DIRECT_TOKENS / 2; }

#define DIRECT_STEP(n, body, type) \
  if (n <= direct_tokens(type)) body(group, x, nb, sums, share, n <= direct_tokens(type) ? n : 1, type, kind)
#define DIRECT_MATMUL(name, body, type, ...)                                                                                         \
  static void name(const uint8_t *group, const qk_act_block *const *x, qk_int tokens, qk_int nb, float *sums,                      \
                   const fetch_share *share) {                                                                                       \
    const quant_kind kind = {__VA_ARGS__};                                                                                           \
    FOR_COUNT(tokens, DIRECT_STEP, body, type)                                                                                       \
  }
DIRECT_MATMUL(direct_q4_0, direct_block32, QK_Q4_0, .bits = 4)
DIRECT_MATMUL(direct_q5_0, direct_block32, QK_Q5_0, .bits = 5)
DIRECT_MATMUL(direct_q4_1, direct_block32, QK_Q4_1, .bits = 4, .minimum = true)
DIRECT_MATMUL(direct_q5_1, direct_block32, QK_Q5_1, .bits = 5, .minimum = true)
DIRECT_MATMUL(direct_q4_k, direct_nibbles_k, QK_Q4_K, .bits = 4, .minimum = true)
DIRECT_MATMUL(direct_q5_k, direct_nibbles_k, QK_Q5_K, .bits = 5, .minimum = true)
DIRECT_MATMUL(direct_q6_k, direct_block16_k, QK_Q6_K, .bits = 6, .sub = 16)

/// What multiplies `tokens` tokens without an unpacked tile, in one or two passes; NULL: nothing that is faster.
static direct_function direct_function_for(qk_type type, qk_int tokens) {
  const int passes = type == QK_Q5_K || (QK_PAIR_SUMS && type == QK_Q6_K) ? 1 : 2;  // bits are put together anew in each
  if (tokens > passes * direct_tokens(type)) return NULL;
  switch (type) {
    case QK_Q4_0: return direct_q4_0;
    case QK_Q5_0: return direct_q5_0;
    case QK_Q4_1: return direct_q4_1;
    case QK_Q5_1: return direct_q5_1;
    case QK_Q4_K: return direct_q4_k;
    case QK_Q5_K: return direct_q5_k;
    case QK_Q6_K: return DIRECT_TOKENS >= 4 ? direct_q6_k : NULL;  // not with VNNI and 16 registers
    default: return NULL;
  }
}

/// As quantised_tiles for few tokens, weights unpacked in registers.
static void quantised_direct(const qk_matrix *w, direct_function direct, qk_int begin, qk_int end, const qk_act_block *const *x, qk_int count,
                             float *y, qk_int y_stride, uint8_t *scratch) {
  float *sums = (float *)scratch;
  const qk_int nb = w->columns / 32;
  const int lines = lines_to_fetch(w->type, count);
  const qk_int half = count <= direct_tokens(w->type) ? count : (count + 1) / 2;
  const int of_first = QK_PAIR_SUMS && half < count ? (lines + 1) / 2 : lines;
  const fetch_share first = {of_first, 0, lines}, second = {lines - of_first, of_first, lines};
  for (qk_int i = begin; i < end; i += QK_ROW_GROUP) {
    const uint8_t *group = (const uint8_t *)w->data + i * w->row_bytes;
    direct(group, x, half, nb, sums, &first);
    if (half < count) direct(group, x + half, count - half, nb, sums + 16 * half, &second);
    for (qk_int t = 0; t < count; t++) f_storen(y + t * y_stride + i, f_load(sums + 16 * t), end - i);
  }
}
