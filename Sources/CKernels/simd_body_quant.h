// Private body, compiled once per ISA: packed weights times quantised activations, a tile of up to 256 columns at a time. Integer dot products
// inside blocks of 32 (or 16), float sums over blocks in rising order, one chain per (row, token): the bits do not depend on how many tokens or
// rows are computed together. Between tiles the sums rest in scratch.

/// How a format's integers become numbers: `bits` of an unpacked weight, which is half of 2^bits too large unless there are minima.
typedef struct quant_kind {
  int sub, bits;
  bool minimum, scale_inside;
} quant_kind;

INLINE vi start_of(const int32_t *offset, quant_kind kind) {
  const bool none = kind.minimum || (QK_PAIR_SUMS && kind.bits == 8);
  return none ? i_set1(0) : i_sra(i_set1(*offset), 8 - kind.bits);
}

/// Weights to fetch while a tile is multiplied: of each group (at most 2), `lines` cache lines per block, blocks `stride` bytes apart.
typedef struct fetch_plan {
  const uint8_t *at[2];
  int lines, stride;
} fetch_plan;

/// Bytes of 16 rows of 256 columns.
INLINE qk_int quant_tile_bytes(qk_type type) { return QK_ROW_GROUP * qk_row_bytes(type, 256); }

/// Cache lines to fetch per block of 32 columns for a product of `tokens` tokens, a little more than a block has.
INLINE int lines_to_fetch(qk_type type, qk_int tokens) { return tokens <= hardware_fetches(type) ? 0 : (int)(quant_tile_bytes(type) / 512) + 1; }

/// Cache line `line` of the `lines` that a block fetches ahead: between the products, one at a time, because only some misses can be under
/// way and a burst of them holds up the loads of what is at hand [M: Q4_K from memory, 6 tokens: 10.4 GB/s a core in bursts, 12.5 spread].
INLINE void fetch(const uint8_t *ahead, int line, int lines) {
  if (line < lines) _mm_prefetch((const char *)ahead + 64 * line, FETCH_HINT);
}

/// Whether a block's lines are fetched before its products in place of between them. Two groups have so much to do that a burst costs little, and
/// so many sums that branches between would cost more; so has one without VNNI.
INLINE bool fetches_in_bursts(int groups) { return groups > 1 || QK_PAIR_SUMS; }

/// Independent sums per token, so that few tokens do not wait for the dot product's latency. Integers: the order changes nothing.
INLINE int chains_of(int sums) { return DOT_CHAINS == 1 || sums > 4 ? 1 : sums > 2 ? 2 : 4; }

/// `quads` vectors of weights of each group against the same columns (from `column` of block `at`) of `tokens` tokens.
INLINE void dot_quads(vi (*acc)[8], const uint8_t *const *q, const qk_act_block *const *x, qk_int at, int column, int quads, int groups,
                      int tokens, quant_kind kind, const uint8_t *ahead, int lines) {
  const int chains = chains_of(groups * tokens);
  vi part[4][2][8], pairs[2][8];
  for (int c = 1; c < chains; c++)
    for (int g = 0; g < groups; g++)
      for (int t = 0; t < tokens; t++) part[c][g][t] = i_set1(0);
  UNROLL
  for (int j = 0; j < quads; j++) {
    vb w[2];
    if (!fetches_in_bursts(groups)) {
      fetch(ahead, j, lines);
      if (quads < 8 || j == 0) fetch(ahead, quads + j, lines);
    }
    for (int g = 0; g < groups; g++) {
      w[g] = b_load(q[g] + 64 * j);
      if (QK_PAIR_SUMS && kind.scale_inside) w[g] = b_signed(w[g]);
    }
    for (int t = 0; t < tokens; t++)
      for (int g = 0; g < groups; g++) {
        vi *sum = j % chains == 0 ? &acc[g][t] : &part[j % chains][g][t];
        dot_add(sum, &pairs[g][t], j, w[g], (int32_t)qk_load32(x[t][at].q + column + 4 * j), kind.bits);
      }
  }
  for (int g = 0; g < groups; g++)
    for (int t = 0; t < tokens; t++) {
      if (chains == 4) part[2][g][t] = i_add(part[2][g][t], part[3][g][t]), acc[g][t] = i_add(acc[g][t], part[2][g][t]);
      if (chains > 1) acc[g][t] = i_add(acc[g][t], part[1][g][t]);
      acc[g][t] = dot_end(acc[g][t], pairs[g][t], kind.bits);
    }
}

/// What one block of 32 columns adds to the sums of 16 rows.
INLINE void add_block32(vf *sum, const vi *acc, const qk_act_block *const *x, qk_int at, vf scale, vf minimum, int tokens, quant_kind kind) {
  for (int t = 0; t < tokens; t++) sum[t] = f_fma(f_mul(f_of_i(acc[t]), scale), f_set1(x[t][at].scale), sum[t]);
  for (int t = 0; kind.minimum && t < tokens; t++) sum[t] = f_fnma(minimum, f_set1(x[t][at].scaled), sum[t]);
}

/// Two halves of 16 columns with scales of their own.
INLINE void add_block16(vf (*sum)[8], const quant_tile *tile, const uint8_t *const *q, const qk_act_block *const *x, qk_int b, qk_int at,
                        int groups, int tokens, quant_kind kind, const uint8_t *ahead, int lines) {
  vf both[2][8];
  UNROLL
  for (int h = 0; h < 2; h++) {
    vi acc[2][8];
    const uint8_t *half[2] = {q[0] + 256 * h, q[groups - 1] + 256 * h};
    UNROLL
    for (int g = 0; g < groups; g++)
      UNROLL
      for (int t = 0; t < tokens; t++) acc[g][t] = start_of(&x[t][at].half[h], kind);
    dot_quads(acc, half, x, at, 16 * h, 4, groups, tokens, kind, ahead, h == 0 ? lines : 0);
    UNROLL
    for (int g = 0; g < groups; g++) {
      const vf scale = f_load(tile[g].scale + 32 * b + 16 * h);
      UNROLL
      for (int t = 0; t < tokens; t++) both[g][t] = h ? f_fma(f_of_i(acc[g][t]), scale, both[g][t]) : f_mul(f_of_i(acc[g][t]), scale);
      if (!kind.minimum) continue;
      const vf minimum = f_load(tile[g].minimum + 32 * b + 16 * h);
      UNROLL
      for (int t = 0; t < tokens; t++) both[g][t] = f_fnma(minimum, f_set1((float)(x[t][at].half[h] / -128)), both[g][t]);
    }
  }
  UNROLL
  for (int g = 0; g < groups; g++)
    UNROLL
    for (int t = 0; t < tokens; t++) sum[g][t] = f_fma(both[g][t], f_set1(x[t][at].scale), sum[g][t]);
}

/// Adds tiles (blocks `first` ..< first + blocks) of `groups` groups x `tokens` tokens to sums [groups][QK_TOKEN_BLOCK, 16]: a token's columns,
/// once in a register, serve all groups.
INLINE void quant_micro(const quant_tile *tile, const qk_act_block *const *x, qk_int first, qk_int blocks, float *sums,
                        fetch_plan plan, const int groups, const int tokens, const quant_kind kind) {
  vf sum[2][8];
  for (int g = 0; g < groups; g++)
    for (int t = 0; t < tokens; t++) sum[g][t] = first == 0 ? f_zero() : f_load(sums + 16 * (g * QK_TOKEN_BLOCK + t));
  for (qk_int b = 0; b < blocks; b++) {
    const uint8_t *q[2] = {tile[0].q + b * tile[0].stride, tile[groups - 1].q + b * tile[groups - 1].stride};
    const qk_int at = first + b;
    const uint8_t *ahead = plan.at[0] + b * plan.stride;
    for (int g = 0; fetches_in_bursts(groups) && g < groups; g++)
      for (int i = 0; i < plan.lines; i++) _mm_prefetch((const char *)plan.at[g] + b * plan.stride + 64 * i, _MM_HINT_T1);
    if (kind.sub != 32) {
      add_block16(sum, tile, q, x, b, at, groups, tokens, kind, ahead, plan.lines);
      continue;
    }
    vi acc[2][8];
    for (int t = 0; t < tokens; t++) {
      acc[0][t] = start_of(&x[t][at].offset, kind);
      if (groups > 1) acc[1][t] = acc[0][t];
    }
    dot_quads(acc, q, x, at, 0, 8, groups, tokens, kind, ahead, plan.lines);
    for (int g = 0; g < groups; g++) {
      // Q8_0 is used as it lies: the scales stand before the integers.
      const vf scale = kind.scale_inside ? f_of_f16(q[g] - 32) : f_load(tile[g].scale + 16 * b);
      add_block32(sum[g], acc[g], x, at, scale, kind.minimum ? f_load(tile[g].minimum + 16 * b) : scale, tokens, kind);
    }
  }
  for (int g = 0; g < groups; g++)
    for (int t = 0; t < tokens; t++) f_store(sums + 16 * (g * QK_TOKEN_BLOCK + t), sum[g][t]);
}

/// Up to QK_TOKEN_BLOCK tokens against one tile of each group, as evenly cut as the registers allow: 9 tokens are 5 and 4, not 8 and 1.
INLINE void quant_tokens(const quant_tile *tile, const qk_act_block *const *x, qk_int tokens, qk_int first, qk_int blocks, float *sums,
                         fetch_plan plan, const int groups, const quant_kind kind) {
  enum { PAIR_TOKENS = QUANT_TOKENS == 8 ? 6 : QUANT_TOKENS };
  const qk_int most = groups > 1 ? PAIR_TOKENS : QUANT_TOKENS;
  qk_int passes = (tokens + most - 1) / most;
  plan.lines = (int)((plan.lines + passes - 1) / passes);  // each pass fetches its share
  for (qk_int t = 0; t < tokens; passes--, plan.at[0] += 64 * plan.lines, plan.at[1] += 64 * plan.lines) {
    const int count = (int)((tokens - t + passes - 1) / passes);
#define STEP(n) \
  if (n <= most) quant_micro(tile, x + t, first, blocks, sums + 16 * t, plan, groups, n <= QUANT_TOKENS ? n : 1, kind)
    FOR_COUNT(count, STEP)
#undef STEP
    t += count;
  }
}

/// One function per kind of format and number of groups, so that the micro-kernels are specialised.
#define QUANT_MATMUL(name, ...)                                                                                                      \
  static void name(const quant_tile *tile, int groups, const qk_act_block *const *x, qk_int tokens, qk_int first, qk_int blocks,     \
                   float *sums, const fetch_plan *plan) {                                                                            \
    const quant_kind kind = {__VA_ARGS__};                                                                                           \
    if (groups > 1 && QUANT_GROUPS > 1 && kind.sub == 32) quant_tokens(tile, x, tokens, first, blocks, sums, *plan, QUANT_GROUPS, kind); \
    else quant_tokens(tile, x, tokens, first, blocks, sums, *plan, 1, kind);                                                         \
  }
QUANT_MATMUL(matmul_q8_0, .sub = 32, .bits = 8, .scale_inside = true)
QUANT_MATMUL(matmul_iq4, .sub = 32, .bits = 8)
QUANT_MATMUL(matmul_q4_0, .sub = 32, .bits = 4)
QUANT_MATMUL(matmul_q5_0, .sub = 32, .bits = 5)
QUANT_MATMUL(matmul_q4_minimum, .sub = 32, .bits = 4, .minimum = true)
QUANT_MATMUL(matmul_q5_minimum, .sub = 32, .bits = 5, .minimum = true)
QUANT_MATMUL(matmul_q2_k, .sub = 16, .bits = 2, .minimum = true)
QUANT_MATMUL(matmul_q3_k, .sub = 16, .bits = 3)
QUANT_MATMUL(matmul_q6_k, .sub = 16, .bits = 6)

typedef void (*quant_function)(const quant_tile *, int, const qk_act_block *const *, qk_int, qk_int, qk_int, float *, const fetch_plan *);

static quant_function quant_function_for(qk_type type) {
  switch (type) {
    case QK_Q8_0: return matmul_q8_0;
    case QK_IQ4_NL: case QK_IQ4_XS: return matmul_iq4;
    case QK_Q4_0: return matmul_q4_0;
    case QK_Q5_0: return matmul_q5_0;
    case QK_Q5_1: case QK_Q5_K: return matmul_q5_minimum;
    case QK_Q2_K: return matmul_q2_k;
    case QK_Q3_K: return matmul_q3_k;
    case QK_Q6_K: return matmul_q6_k;
    default: return matmul_q4_minimum;
  }
}

/// How far ahead weights are fetched: AHEAD_BYTES, into the first-level cache, for one row group at a time; TILES_AHEAD tiles of 256 columns, into
/// the second, for a pair of them. The arithmetic of several tokens takes so long that the hardware's own prefetch stops at every page [M: 2
/// cores, Q8_0 2048x2048, 8 tokens: 28.7 GB/s with one tile into the first level, 37.6 with two into the second. Two cores of Zen 5, memory at
/// 87 GB/s, GB/s of 1, 2, 3, 4, 6 tokens: Q4_K 1408x2048 76 75 67 64 54 with 6144 into the second level, 82 80 77 72 58 with 7680 into the first,
/// 77 81 82 76 58 with 12288; Q8_0 2048x1408 76 74 70 67 67, 74 76 75 73 71 and 72 73 72 69 68; Q5_0 82 78 74 68 58, 81 79 78 75 65 and
/// 79 78 79 81 69].
enum { TILES_AHEAD = 2, AHEAD_BYTES = 7680 };
