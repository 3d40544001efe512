// Private body, compiled once per ISA: packed weights times the quantised activations of a few tokens, weights unpacked in registers (they are used
// once). The same sums in the same order as those of simd_body_quant.h.

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

/// All columns of a row group for a few tokens.
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
    vi acc[DIRECT_TOKENS], other[DIRECT_TOKENS], pairs[2][DIRECT_TOKENS];
    for (int t = 0; t < tokens; t++) acc[t] = start_of(&x[t][b].offset, kind), other[t] = i_set1(0);
    UNROLL
    for (int j = 0; j < 4; j++) {
      vb a, c;
      fetch(ahead, j, lines);
      fetch(ahead, 4 + j, lines);
      quad_pair32(type, p, high, j, &a, &c);
      for (int t = 0; t < tokens; t++) {
        dot_add(&acc[t], &pairs[0][t], j, a, (int32_t)qk_load32(x[t][b].q + 4 * j), kind.bits);
        dot_add(&other[t], &pairs[1][t], j, c, (int32_t)qk_load32(x[t][b].q + 4 * j + 16), kind.bits);
      }
    }
    for (int t = 0; t < tokens; t++) acc[t] = i_add(dot_end(acc[t], pairs[0][t], kind.bits), dot_end(other[t], pairs[1][t], kind.bits));
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
      vi low[DIRECT_TOKENS], high[DIRECT_TOKENS], pairs[2][DIRECT_TOKENS];
      for (int t = 0; t < tokens; t++) low[t] = high[t] = i_set1(0);
      UNROLL
      for (int j = 0; j < 8; j++) {
        const vb v = b_load(qs + 64 * (8 * pair + j));
        fetch(ahead, j, 2 * lines);
        fetch(ahead, 8 + j, 2 * lines);
        vb a = b_and(v, b_set1(15)), c = b_right(v, 4, 15);
        if (type == QK_Q5_K) {
          const vb bits = b_load(fifth + 64 * j);
          a = b_or(a, fifth_bit(bits, 2 * pair));
          c = b_or(c, fifth_bit(bits, 2 * pair + 1));
        }
        for (int t = 0; t < tokens; t++) {
          dot_add(&low[t], &pairs[0][t], j, a, (int32_t)qk_load32(x[t][at].q + 4 * j), kind.bits);
          dot_add(&high[t], &pairs[1][t], j, c, (int32_t)qk_load32(x[t][at + 1].q + 4 * j), kind.bits);
        }
      }
      for (int t = 0; t < tokens; t++) low[t] = dot_end(low[t], pairs[0][t], kind.bits), high[t] = dot_end(high[t], pairs[1][t], kind.bits);
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
  const qk_int bytes = QK_ROW_GROUP * qk_block_bytes(type);
  vf sum[DIRECT_TOKENS];
  UNROLL
  for (int t = 0; t < tokens; t++) sum[t] = f_zero();
  for (qk_int at = 0; at < nb; at += 4) {
    const uint8_t *p = group + at / 8 * bytes, *ahead = p + AHEAD_BYTES + at % 8 * 64 * lines;
    const uint8_t *ql = p + 288 + at % 8 * 256, *qh = p + 288 + 2048 + at % 8 * 128;
    const vf d = f_of_f16(p);
    vf both[4][DIRECT_TOKENS];
    for (int h = 0; h < 2; h++) {
      vi acc[4][DIRECT_TOKENS], pairs[4][DIRECT_TOKENS];
      UNROLL
      for (int i = 0; i < 4; i++)
        UNROLL
        for (int t = 0; t < tokens; t++) acc[i][t] = start_of(&x[t][at + i].half[h], kind);
      UNROLL
      for (int j = 4 * h; j < 4 * h + 4; j++) {
        vb v[4];
        quads_q6_k(ql + 64 * j, qh + 64 * j, v);
        UNROLL
        for (int i = 0; i < 4; i++) fetch(ahead, 4 * j + i, 4 * lines);
        UNROLL
        for (int t = 0; t < tokens; t++)
          UNROLL
          for (int i = 0; i < 4; i++) dot_add(&acc[i][t], &pairs[i][t], j % 4, v[i], (int32_t)qk_load32(x[t][at + i].q + 4 * j), kind.bits);
      }
      UNROLL
      for (int i = 0; i < 4; i++) {
        const vf scale = f_mul(d, f_of_i8_column(column16(p + 32 + 16 * (2 * (at % 8 + i) + h))));
        UNROLL
        for (int t = 0; t < tokens; t++) acc[i][t] = dot_end(acc[i][t], pairs[i][t], kind.bits);
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
DIRECT_MATMUL(direct_q4_0, direct_block32, QK_Q4_0, .bits = 4)
DIRECT_MATMUL(direct_q5_0, direct_block32, QK_Q5_0, .bits = 5)
DIRECT_MATMUL(direct_q4_1, direct_block32, QK_Q4_1, .bits = 4, .minimum = true)
DIRECT_MATMUL(direct_q5_1, direct_block32, QK_Q5_1, .bits = 5, .minimum = true)
DIRECT_MATMUL(direct_q4_k, direct_nibbles_k, QK_Q4_K, .bits = 4, .minimum = true)
DIRECT_MATMUL(direct_q5_k, direct_nibbles_k, QK_Q5_K, .bits = 5, .minimum = true)
DIRECT_MATMUL(direct_q6_k, direct_block16_k, QK_Q6_K, .bits = 6, .sub = 16)

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

/// As quantised_tiles for few tokens, weights unpacked in registers.
static void quantised_direct(const qk_matrix *w, direct_function direct, qk_int begin, qk_int end, const qk_act_block *const *x, qk_int count,
                             float *y, qk_int y_stride, uint8_t *scratch) {
  float *sums = (float *)scratch;
  const qk_int nb = w->columns / 32;
  const int lines = lines_to_fetch(w->type, count);
  const qk_int half = count <= direct_tokens(w->type) ? count : (count + 1) / 2;
  for (qk_int i = begin; i < end; i += QK_ROW_GROUP) {
    const uint8_t *group = (const uint8_t *)w->data + i * w->row_bytes;
    direct(group, x, half, nb, sums, lines);
    if (half < count) direct(group, x + half, count - half, nb, sums + 16 * half, 0);
    for (qk_int t = 0; t < count; t++) f_storen(y + t * y_stride + i, f_load(sums + 16 * t), end - i);
  }
}
