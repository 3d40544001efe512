// Private body, compiled for every ISA with VNNI: weights of a row group unpacked in registers, several blocks' quads from one load.

/// All columns of a row group for a few tokens.
INLINE void direct_block32(const uint8_t *group, const qk_act_block *const *x, qk_int nb, float *sums, const fetch_share *share, const int tokens,
                           const qk_type type, const quant_kind kind) {
  const qk_int bytes = QK_ROW_GROUP * qk_block_bytes(type), has_fifth = type == QK_Q5_0 || type == QK_Q5_1;
  const int lines = share->lines;
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
    UNROLL
    for (int j = 0; j < 4; j++) {
      fetch(ahead, j, lines);
      fetch(ahead, 4 + j, lines);
      const vb a = quad32(type, p, high, j), c = quad32(type, p, high, j + 4);
      for (int t = 0; t < tokens; t++) {
        acc[t] = i_dot(acc[t], a, (int32_t)qk_load32(x[t][b].q + 4 * j));
        other[t] = i_dot(other[t], c, (int32_t)qk_load32(x[t][b].q + 4 * j + 16));
      }
    }
    for (int t = 0; t < tokens; t++) acc[t] = i_add(acc[t], other[t]);
    add_block32(sum, acc, x, b, scale, minimum, tokens, kind);
  }
  for (int t = 0; t < tokens; t++) f_store(sums + 16 * t, sum[t]);
}

/// As direct_block32, for Q4_K and Q5_K: a vector holds the same quad of two neighbouring blocks, one of fifth bits that of all eight.
INLINE void direct_nibbles_k(const uint8_t *group, const qk_act_block *const *x, qk_int nb, float *sums, const fetch_share *share, const int tokens,
                             const qk_type type, const quant_kind kind) {
  const qk_int bytes = QK_ROW_GROUP * qk_block_bytes(type);
  float scale[16 * 8], minimum[16 * 8];
  const int lines = share->lines;
  vf sum[DIRECT_TOKENS];
  for (int t = 0; t < tokens; t++) sum[t] = f_zero();
  for (qk_int b = 0; b < nb; b += 8) {
    const uint8_t *p = group + b / 8 * bytes, *ahead = p + AHEAD_BYTES, *fifth = p + 256, *qs = type == QK_Q5_K ? p + 768 : p + 256;
    unpack_super_scales(p, scale, minimum);
    for (int pair = 0; pair < 4; pair++) {
      const qk_int at = b + 2 * pair;
      vi low[DIRECT_TOKENS], high[DIRECT_TOKENS];
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
          low[t] = i_dot(low[t], a, (int32_t)qk_load32(x[t][at].q + 4 * j));
          high[t] = i_dot(high[t], c, (int32_t)qk_load32(x[t][at + 1].q + 4 * j));
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
INLINE void direct_block16_k(const uint8_t *group, const qk_act_block *const *x, qk_int nb, float *sums, const fetch_share *share, const int tokens,
                             const qk_type type, const quant_kind kind) {
  const qk_int bytes = QK_ROW_GROUP * qk_block_bytes(type);
  const int lines = share->lines;
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
      UNROLL
      for (int j = 4 * h; j < 4 * h + 4; j++) {
        vb v[4];
        quads_q6_k(ql + 64 * j, qh + 64 * j, v);
        UNROLL
        for (int i = 0; i < 4; i++) fetch(ahead, 4 * j + i, 4 * lines);
        UNROLL
        for (int t = 0; t < tokens; t++)
          UNROLL
          for (int i = 0; i < 4; i++) acc[i][t] = i_dot(acc[i][t], v[i], (int32_t)qk_load32(x[t][at + i].q + 4 * j));
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
