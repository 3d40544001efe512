// Private body, compiled once per ISA: products of packed weights with quantised activations. Integer dot products inside
// blocks of 32 (or 16), float sums over blocks in rising order, one chain per (row, token): the bits do not depend on how
// many tokens or rows are computed together. Between tiles of 256 columns the sums rest in scratch.

/// Tokens that share an unpacked tile: their activations for 256 columns and their sums stay in the first-level cache.
enum { TOKEN_BLOCK = 36 };

/// How a format's integers become numbers. `shift`: weights are stored 128 >> shift too large (if no minima).
typedef struct quant_kind {
  int sub, shift;
  bool minimum, wide, scale_inside;
} quant_kind;

INLINE vi start_of(const int32_t *offset, quant_kind kind) {
  const bool none = kind.minimum || (SIGNED_WIDE && kind.wide);
  return none ? i_set1(0) : i_sra(i_set1(*offset), kind.shift);
}

/// Weights to fetch while a tile is multiplied: of each group (at most 2), `lines` cache lines per block, blocks `stride` bytes apart.
typedef struct fetch_plan {
  const uint8_t *at[2];
  int lines, stride;
} fetch_plan;

/// Cache line `line` of the `lines` that a block fetches ahead: between the products, one at a time, because only some misses can be under
/// way and a burst of them holds up the loads of what is at hand [M: Q4_K from memory, 6 tokens: 10.4 GB/s a core in bursts, 12.5 spread].
INLINE void fetch(const uint8_t *ahead, int line, int lines) {
  if (line < lines) _mm_prefetch((const char *)ahead + 64 * line, _MM_HINT_T1);
}

/// Independent sums per token, so that few tokens do not wait for the dot product's latency. Integers: the order changes nothing.
INLINE int chains_of(int sums) { return DOT_CHAINS == 1 || sums > 4 ? 1 : sums > 2 ? 2 : 4; }

/// `quads` vectors of weights of each group against the same columns (from `column` of block `at`) of `tokens` tokens.
INLINE void dot_quads(vi (*acc)[8], const uint8_t *const *q, const qk_act_block *const *x, qk_int at, int column, int quads, int groups,
                      int tokens, quant_kind kind, const uint8_t *ahead, int lines) {
  const int chains = chains_of(groups * tokens);
  vi part[4][2][8];
  for (int c = 1; c < chains; c++)
    for (int g = 0; g < groups; g++)
      for (int t = 0; t < tokens; t++) part[c][g][t] = i_set1(0);
#pragma clang loop unroll(full)
  for (int j = 0; j < quads; j++) {
    vb w[2];
    if (groups == 1) {  // two have so much to do that a burst costs little, and so many sums that branches between would cost more
      fetch(ahead, j, lines);
      if (quads < 8 || j == 0) fetch(ahead, quads + j, lines);
    }
    for (int g = 0; g < groups; g++) {
      w[g] = b_load(q[g] + 64 * j);
      if (SIGNED_WIDE && kind.scale_inside) w[g] = b_signed(w[g]);
    }
    for (int t = 0; t < tokens; t++)
      for (int g = 0; g < groups; g++) {
        vi *sum = j % chains == 0 ? &acc[g][t] : &part[j % chains][g][t];
        *sum = i_dot(*sum, w[g], (int32_t)qk_load32(x[t][at].q + column + 4 * j), kind.wide);
      }
  }
  for (int g = 0; g < groups; g++)
    for (int t = 0; t < tokens; t++) {
      if (chains == 4) part[2][g][t] = i_add(part[2][g][t], part[3][g][t]), acc[g][t] = i_add(acc[g][t], part[2][g][t]);
      if (chains > 1) acc[g][t] = i_add(acc[g][t], part[1][g][t]);
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

/// Adds tiles (blocks `first` ..< first + blocks) of `groups` groups x `tokens` tokens to sums [groups][TOKEN_BLOCK, 16]: a token's columns,
/// once in a register, serve all groups.
INLINE void quant_micro(const quant_tile *tile, const qk_act_block *const *x, qk_int first, qk_int blocks, float *sums,
                        fetch_plan plan, const int groups, const int tokens, const quant_kind kind) {
  vf sum[2][8];
  for (int g = 0; g < groups; g++)
    for (int t = 0; t < tokens; t++) sum[g][t] = first == 0 ? f_zero() : f_load(sums + 16 * (g * TOKEN_BLOCK + t));
  for (qk_int b = 0; b < blocks; b++) {
    const uint8_t *q[2] = {tile[0].q + b * tile[0].stride, tile[groups - 1].q + b * tile[groups - 1].stride};
    const qk_int at = first + b;
    const uint8_t *ahead = plan.at[0] + b * plan.stride;
    for (int g = 0; groups > 1 && g < groups; g++)
      for (int i = 0; i < plan.lines; i++) fetch(plan.at[g] + b * plan.stride, i, plan.lines);
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
    for (int t = 0; t < tokens; t++) f_store(sums + 16 * (g * TOKEN_BLOCK + t), sum[g][t]);
}

/// Up to TOKEN_BLOCK tokens against one tile of each group, as evenly cut as the registers allow: 9 tokens are 5 and 4, not 8 and 1.
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
#define QUANT_MATMUL(name, constant_shift, ...)                                                                                      \
  static void name(const quant_tile *tile, int groups, const qk_act_block *const *x, qk_int tokens, qk_int first, qk_int blocks,     \
                   float *sums, const fetch_plan *plan, int shift) {                                                                 \
    const quant_kind kind = {.shift = constant_shift, __VA_ARGS__};                                                                  \
    (void)shift;                                                                                                                     \
    if (groups > 1 && QUANT_GROUPS > 1 && kind.sub == 32) quant_tokens(tile, x, tokens, first, blocks, sums, *plan, QUANT_GROUPS, kind); \
    else quant_tokens(tile, x, tokens, first, blocks, sums, *plan, 1, kind);                                                         \
  }
QUANT_MATMUL(matmul_q8_0, 0, .sub = 32, .wide = true, .scale_inside = true)
QUANT_MATMUL(matmul_iq4, 0, .sub = 32, .wide = true)
QUANT_MATMUL(matmul_symmetric32, shift, .sub = 32)
QUANT_MATMUL(matmul_minimum32, 0, .sub = 32, .minimum = true)
QUANT_MATMUL(matmul_symmetric16, shift, .sub = 16)
QUANT_MATMUL(matmul_minimum16, 0, .sub = 16, .minimum = true)

typedef void (*quant_function)(const quant_tile *, int, const qk_act_block *const *, qk_int, qk_int, qk_int, float *, const fetch_plan *, int);

static quant_function quant_function_for(qk_type type, int *shift) {
  *shift = 0;
  switch (type) {
    case QK_Q8_0: return matmul_q8_0;
    case QK_IQ4_NL: case QK_IQ4_XS: return matmul_iq4;
    case QK_Q4_0: *shift = 4; return matmul_symmetric32;
    case QK_Q5_0: *shift = 3; return matmul_symmetric32;
    case QK_Q6_K: *shift = 2; return matmul_symmetric16;
    case QK_Q3_K: *shift = 5; return matmul_symmetric16;
    case QK_Q2_K: return matmul_minimum16;
    default: return matmul_minimum32;
  }
}

enum { Q8_0_BLOCKS = 8 };
/// How far ahead weights are fetched into the second-level cache: AHEAD_BYTES for one row group at a time, TILES_AHEAD tiles of 256 columns for
/// a pair of them. The arithmetic of several tokens takes so long that the hardware's own prefetch stops at every page [M: 2 cores, Q8_0
/// 2048x2048, 8 tokens: 28.7 GB/s with one tile into the first level, 37.6 with two into the second; one core of Zen 5, Q4_K from memory, 1 and
/// 3 tokens: 36.5 and 30.5 GB/s with 3.5 KiB, 37.7 and 32.5 with 4.5, 38.3 and 36 with 6, no more with 6.5].
enum { TILES_AHEAD = 2, AHEAD_BYTES = 6144 };

/// Quads j and j + 4 of a block of 32.
INLINE void quad_pair32(qk_type type, const uint8_t *qs, vb high, int j, vb *low_quad, vb *high_quad) {
  const vb v = b_load(qs + 64 * j);
  *low_quad = b_and(v, b_set1(15));
  *high_quad = b_right(v, 4, 15);
  if (type == QK_Q5_0 || type == QK_Q5_1) {
    *low_quad = b_or(*low_quad, fifth_bits_of_quad(high, j));
    *high_quad = b_or(*high_quad, fifth_bits_of_quad(high, j + 4));
  }
}

/// All columns of a row group for a few tokens, weights unpacked in registers (they are used once): the same sums as quant_micro's.
INLINE void direct_block32(const uint8_t *group, const qk_act_block *const *x, qk_int nb, float *sums, int lines, const int tokens,
                           const qk_type type, const quant_kind kind) {
  const qk_int bytes = QK_ROW_GROUP * qk_block_bytes(type), has_fifth = type == QK_Q5_0 || type == QK_Q5_1;
  vf sum[DIRECT_TOKENS];
  for (int t = 0; t < tokens; t++) sum[t] = f_zero();
  for (qk_int b = 0; b < nb; b++) {
    const uint8_t *p = group + b * bytes, *ahead = p + AHEAD_BYTES;
    const vf scale = f_of_f16(p), minimum = kind.minimum ? f_sub(f_zero(), f_of_f16(p + 32)) : scale;
    p += kind.minimum ? 64 : 32;
    const vb high = has_fifth ? b_load(p) : b_set1(0);
    p += has_fifth ? 64 : 0;
    vi acc[DIRECT_TOKENS], other[DIRECT_TOKENS];
    for (int t = 0; t < tokens; t++) acc[t] = start_of(&x[t][b].offset, kind), other[t] = i_set1(0);
#pragma clang loop unroll(full)
    for (int j = 0; j < 4; j++) {
      vb a, c;
      fetch(ahead, j, lines);
      fetch(ahead, 4 + j, lines);
      quad_pair32(type, p, high, j, &a, &c);
      for (int t = 0; t < tokens; t++) {
        acc[t] = i_dot(acc[t], a, (int32_t)qk_load32(x[t][b].q + 4 * j), kind.wide);
        other[t] = i_dot(other[t], c, (int32_t)qk_load32(x[t][b].q + 4 * j + 16), kind.wide);
      }
    }
    for (int t = 0; t < tokens; t++) acc[t] = i_add(acc[t], other[t]);
    add_block32(sum, acc, x, b, scale, minimum, tokens, kind);
  }
  for (int t = 0; t < tokens; t++) f_store(sums + 16 * t, sum[t]);
}

/// As direct_block32, for Q4_K and Q5_K: a vector holds the same quad of two neighbouring blocks, one of fifth bits that of all eight.
INLINE void direct_nibbles_k(const uint8_t *group, const qk_act_block *const *x, qk_int nb, float *sums, int lines, const int tokens,
                        const qk_type type, const quant_kind kind) {
  const qk_int bytes = QK_ROW_GROUP * qk_block_bytes(type);
  float scale[16 * 8], minimum[16 * 8];
  vf sum[DIRECT_TOKENS];
  for (int t = 0; t < tokens; t++) sum[t] = f_zero();
  for (qk_int b = 0; b < nb; b += 8) {
    const uint8_t *p = group + b / 8 * bytes, *ahead = p + AHEAD_BYTES, *fifth = p + 256, *qs = type == QK_Q5_K ? p + 768 : p + 256;
    unpack_super_scales(p, scale, minimum);
    for (int pair = 0; pair < 4; pair++) {
      const qk_int at = b + 2 * pair;
      vi low[DIRECT_TOKENS], high[DIRECT_TOKENS];
      for (int t = 0; t < tokens; t++) low[t] = high[t] = i_set1(0);
#pragma clang loop unroll(full)
      for (int j = 0; j < 8; j++) {
        const vb v = b_load(qs + 64 * (8 * pair + j));
        fetch(ahead, j, 2 * lines);
        fetch(ahead, 8 + j, 2 * lines);
        vb a = b_and(v, b_set1(15)), c = b_right(v, 4, 15);
        if (type == QK_Q5_K) {
          const vb bits = b_load(fifth + 64 * j);
          a = b_or(a, b_left(b_right(bits, 2 * pair, 1), 4, 16));
          c = b_or(c, b_left(b_right(bits, 2 * pair + 1, 1), 4, 16));
        }
        for (int t = 0; t < tokens; t++) {
          low[t] = i_dot(low[t], a, (int32_t)qk_load32(x[t][at].q + 4 * j), false);
          high[t] = i_dot(high[t], c, (int32_t)qk_load32(x[t][at + 1].q + 4 * j), false);
        }
      }
      ahead += 128 * lines;
      for (int h = 0; h < 2; h++)
        add_block32(sum, h ? high : low, x, at + h, f_load(scale + 16 * (2 * pair + h)), f_load(minimum + 16 * (2 * pair + h)), tokens, kind);
    }
  }
  for (int t = 0; t < tokens; t++) f_store(sums + 16 * t, sum[t]);
}

/// As direct_block32, for Q6_K: two vectors of nibbles and one of high bits hold the same quad of four neighbouring blocks. Scales per 16 columns.
INLINE void direct_block16_k(const uint8_t *group, const qk_act_block *const *x, qk_int nb, float *sums, int lines, const int tokens,
                        const qk_type type, const quant_kind kind) {
  (void)type;
  const qk_int bytes = QK_ROW_GROUP * qk_block_bytes(QK_Q6_K);
  vf sum[DIRECT_TOKENS];
  UNROLL
  for (int t = 0; t < tokens; t++) sum[t] = f_zero();
  for (qk_int at = 0; at < nb; at += 4) {
    const uint8_t *p = group + at / 8 * bytes, *ahead = p + AHEAD_BYTES + at % 8 * 64 * lines;
    const uint8_t *ql = p + 288 + at % 8 * 256, *qh = p + 288 + 2048 + at % 8 * 128;
    const vf d = f_of_f16(p);
    vf both[4][DIRECT_TOKENS];
    for (int h = 0; h < 2; h++) {
      vi acc[4][DIRECT_TOKENS];
      UNROLL
      for (int i = 0; i < 4; i++)
        UNROLL
        for (int t = 0; t < tokens; t++) acc[i][t] = start_of(&x[t][at + i].half[h], kind);
#pragma clang loop unroll(full)
      for (int j = 4 * h; j < 4 * h + 4; j++) {
        const vb a = b_load(ql + 64 * j), b = b_load(ql + 512 + 64 * j), high = b_load(qh + 64 * j);
        const vb v[4] = {b_or(b_and(a, b_set1(15)), b_left(high, 4, 0x30)), b_or(b_and(b, b_set1(15)), b_left(high, 2, 0x30)),
                         b_or(b_right(a, 4, 15), b_and(high, b_set1(0x30))), b_or(b_right(b, 4, 15), b_right(high, 2, 0x30))};
        UNROLL
        for (int i = 0; i < 4; i++) fetch(ahead, 4 * j + i, 4 * lines);
        UNROLL
        for (int t = 0; t < tokens; t++)
          UNROLL
          for (int i = 0; i < 4; i++) acc[i][t] = i_dot(acc[i][t], v[i], (int32_t)qk_load32(x[t][at + i].q + 4 * j), kind.wide);
      }
      UNROLL
      for (int i = 0; i < 4; i++) {
        const vf scale = f_mul(d, f_of_i8_column(column16(p + 32 + 16 * (2 * (at % 8 + i) + h))));
        UNROLL
        for (int t = 0; t < tokens; t++) both[i][t] = h ? f_fma(f_of_i(acc[i][t]), scale, both[i][t]) : f_mul(f_of_i(acc[i][t]), scale);
      }
    }
    UNROLL
    for (int i = 0; i < 4; i++)
      UNROLL
      for (int t = 0; t < tokens; t++) sum[t] = f_fma(both[i][t], f_set1(x[t][at + i].scale), sum[t]);
  }
  UNROLL
  for (int t = 0; t < tokens; t++) f_store(sums + 16 * t, sum[t]);
}

typedef void (*direct_function)(const uint8_t *, const qk_act_block *const *, qk_int, qk_int, float *, int);

/// Tokens of a pass in registers: the sums of Q6_K's four blocks leave room for few.
INLINE int direct_tokens(qk_type type) { return type != QK_Q6_K ? DIRECT_TOKENS : DIRECT_TOKENS / 2; }

#define DIRECT_STEP(n, body, type) \
  if (n <= direct_tokens(type)) body(group, x, nb, sums, lines, n <= direct_tokens(type) ? n : 1, type, kind)
#define DIRECT_MATMUL(name, body, type, ...)                                                                                         \
  static void name(const uint8_t *group, const qk_act_block *const *x, qk_int tokens, qk_int nb, float *sums, int lines) {           \
    const quant_kind kind = {__VA_ARGS__};                                                                                           \
    FOR_COUNT(tokens, DIRECT_STEP, body, type)                                                                                       \
  }
DIRECT_MATMUL(direct_q4_0, direct_block32, QK_Q4_0, .shift = 4)
DIRECT_MATMUL(direct_q5_0, direct_block32, QK_Q5_0, .shift = 3)
DIRECT_MATMUL(direct_q4_1, direct_block32, QK_Q4_1, .minimum = true)
DIRECT_MATMUL(direct_q5_1, direct_block32, QK_Q5_1, .minimum = true)
DIRECT_MATMUL(direct_q4_k, direct_nibbles_k, QK_Q4_K, .minimum = true)
DIRECT_MATMUL(direct_q5_k, direct_nibbles_k, QK_Q5_K, .minimum = true)
DIRECT_MATMUL(direct_q6_k, direct_block16_k, QK_Q6_K, .shift = 2, .sub = 16)

/// What multiplies `tokens` tokens without an unpacked tile, in one or two passes; NULL: nothing that is faster.
static direct_function direct_function_for(qk_type type, qk_int tokens) {
  const int passes = type == QK_Q5_K ? 1 : 2;  // its bits are put together anew in each
  if (tokens > passes * direct_tokens(type)) return NULL;
  switch (type) {
    case QK_Q4_0: return direct_q4_0;
    case QK_Q5_0: return direct_q5_0;
    case QK_Q4_1: return direct_q4_1;
    case QK_Q5_1: return direct_q5_1;
    case QK_Q4_K: return direct_q4_k;
    case QK_Q5_K: return direct_q5_k;
    case QK_Q6_K: return DIRECT_TOKENS >= 4 ? direct_q6_k : NULL;  // 32 registers
    default: return NULL;
  }
}

/// All of `w` for up to TOKEN_BLOCK tokens, by way of unpacked tiles of 256 columns; pairs of row groups where the registers allow it.
static void quantised_tiles(const qk_matrix *w, qk_int begin, qk_int end, const qk_act_block *const *x, qk_int count, float *y, qk_int y_stride,
                            uint8_t *scratch) {
  enum { TILE_BYTES = 16 * TILE_COLUMNS, SCALES = 16 * 16 };
  float *scales = (float *)(scratch + 2 * TILE_BYTES), *sums = scales + 4 * SCALES;
  const qk_int nb = w->columns / 32, tile_bytes = QK_ROW_GROUP * qk_row_bytes(w->type, 256), group_bytes = w->row_bytes * QK_ROW_GROUP;
  int shift;
  const quant_function run = quant_function_for(w->type, &shift);
  // Few tokens read a Q8_0 row group in one go; many share pieces of it that stay in the first-level cache.
  // Scales per 16 columns need more registers than a pair of row groups leaves.
  const bool pairs = QUANT_GROUPS > 1 && count > QUANT_TOKENS && qk_format_of(w->type)->sub == 32;
  const qk_int most = w->type != QK_Q8_0 ? 8 : count <= QUANT_TOKENS ? nb : Q8_0_BLOCKS;
  for (qk_int i = begin; i < end;) {
    const int groups = pairs && end - i > QK_ROW_GROUP ? 2 : 1;
    const uint8_t *group = (const uint8_t *)w->data + i * w->row_bytes;
    for (qk_int first = 0; first < nb; first += most) {
      const qk_int blocks = nb - first < most ? nb - first : most;
      quant_tile tile[2];
      for (int g = 0; g < groups; g++)
        tile[g] = unpack_tile(w->type, group + g * group_bytes, first, blocks, scratch + g * TILE_BYTES, scales + 2 * g * SCALES,
                              scales + (2 * g + 1) * SCALES);
      // Beyond a group's last tile, the first ones of the group that is next; of two, of the next two.
      const qk_int tile_at = first / 8 * tile_bytes, ahead = groups > 1 ? TILES_AHEAD * tile_bytes : AHEAD_BYTES;
      const qk_int beyond = groups > 1 && first + 8 * TILES_AHEAD >= nb ? group_bytes : 0;
      fetch_plan plan = {.lines = (int)(tile_bytes / 512) + 1};
      for (int g = 0; g < 2; g++) plan.at[g] = group + g * group_bytes + beyond + tile_at + ahead;
      plan.stride = 64 * plan.lines;
      run(tile, groups, x, count, first, blocks, sums, &plan, shift);
    }
    for (int g = 0; g < groups; g++, i += QK_ROW_GROUP)
      for (qk_int t = 0; t < count; t++) f_storen(y + t * y_stride + i, f_load(sums + 16 * (g * TOKEN_BLOCK + t)), end - i);
  }
}

/// As quantised_tiles for few tokens, weights unpacked in registers.
static void quantised_direct(const qk_matrix *w, direct_function direct, qk_int begin, qk_int end, const qk_act_block *const *x, qk_int count,
                             float *y, qk_int y_stride, uint8_t *scratch) {
  float *sums = (float *)scratch;
  const qk_int nb = w->columns / 32, tile_bytes = QK_ROW_GROUP * qk_row_bytes(w->type, 256);
  const qk_int half = count <= direct_tokens(w->type) ? count : (count + 1) / 2;
  for (qk_int i = begin; i < end; i += QK_ROW_GROUP) {
    const uint8_t *group = (const uint8_t *)w->data + i * w->row_bytes;
    direct(group, x, half, nb, sums, (int)(tile_bytes / 512) + 1);
    if (half < count) direct(group, x + half, count - half, nb, sums + 16 * half, 0);
    for (qk_int t = 0; t < count; t++) f_storen(y + t * y_stride + i, f_load(sums + 16 * t), end - i);
  }
}

static void matmul_quantised(const qk_matrix *w, qk_int begin, qk_int end, const void *activations, const int32_t *index, qk_int tokens,
                             float *y, qk_int y_stride, void *scratch) {
  const qk_int x_bytes = qk_activation_bytes(QK_ACT_Q8, w->columns);
  qk_int passes = (tokens + TOKEN_BLOCK - 1) / TOKEN_BLOCK, count;
  for (qk_int t0 = 0; t0 < tokens; t0 += count, passes--) {
    count = (tokens - t0 + passes - 1) / passes;
    const qk_act_block *x[TOKEN_BLOCK];
    for (qk_int t = 0; t < count; t++)
      x[t] = (const qk_act_block *)((const uint8_t *)activations + (index ? index[t0 + t] : t0 + t) * x_bytes);
    float *out = y + t0 * y_stride;
    const direct_function direct = direct_function_for(w->type, count);
    if (w->columns < 32)
      for (qk_int t = 0; t < count; t++) memset(out + t * y_stride + begin, 0, (size_t)(end - begin) * 4);
    else if (direct) quantised_direct(w, direct, begin, end, x, count, out, y_stride, scratch);
    else quantised_tiles(w, begin, end, x, count, out, y_stride, scratch);
  }
}
