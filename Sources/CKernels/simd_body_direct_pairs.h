// Private body, compiled for AVX2 without VNNI: as simd_body_direct_vnni.h, but block after block and with all of a block's products in one sum
// per token. 16 registers hold that for 4 tokens; two sums, of the low and the high nibbles of one load, only for 2 [M: one core of Zen 3, GOP/s
// of 3 and 4 tokens, by two sums in two passes and so: Q4_K 110 and 128, 142 and 157; Q5_0 75 and 86, 102 and 110].

/// A block of 32 columns of a packed group.
typedef struct packed_block {
  const uint8_t *nibbles, *bits;  // bits beyond the fourth, where the format has them
  int place;                      // among the blocks that share vectors of nibbles: known when compiled
  int fifth;                      // Q5_K: which bit is the block's
} packed_block;

/// Quad j (columns 4j ..< 4j + 4) of 16 rows.
INLINE vb quad_of(packed_block p, int j, const qk_type type) {
  switch (type) {
    case QK_Q4_K:
    case QK_Q5_K: {
      const vb v = b_load(p.nibbles + 64 * j), w = p.place ? b_right(v, 4, 15) : b_and(v, b_set1(15));
      return type == QK_Q4_K ? w : b_or(w, b_where_bit(b_load(p.bits + 64 * j), b_set1((uint8_t)(1 << p.fifth)), 16));
    }
    case QK_Q6_K: {
      vb v[4];
      quads_q6_k(p.nibbles + 64 * j, p.bits + 64 * j, v);
      return v[p.place];
    }
    default: return quad32(type, p.nibbles, b_load(p.bits), j);
  }
}

/// acc[t] + the products of quads first ..< first + quads with block `at` of the tokens.
INLINE void direct_quads(vi *acc, packed_block p, int first, int quads, const qk_act_block *const *x, qk_int at, int tokens, const qk_type type,
                         quant_kind kind) {
  vi pairs[DIRECT_TOKENS];
  UNROLL
  for (int j = 0; j < quads; j++) {
    const vb w = quad_of(p, first + j, type);
    for (int t = 0; t < tokens; t++) dot_add(&acc[t], &pairs[t], j, w, (int32_t)qk_load32(x[t][at].q + 4 * (first + j)), kind.bits);
  }
  for (int t = 0; t < tokens; t++) acc[t] = dot_end(acc[t], pairs[t], kind.bits);
}

/// Fetches the pass's share for `blocks` blocks of 32 columns, in a burst: spread over the products, as with VNNI, costs more here [M: two cores of
/// Zen 3, GB/s of Q4_K from memory, 1 and 2 tokens: spread 14.3 and 12.6, in bursts of two blocks 17.6 and 17.0, of eight 16 and 14].
INLINE void fetch_burst(const uint8_t *packed, int first, int blocks, const fetch_share *share) {
  const uint8_t *at = packed + AHEAD_BYTES + 64 * (first * share->all + blocks * share->skip);
  for (int i = 0; i < blocks * share->lines; i++) _mm_prefetch((const char *)at + 64 * i, FETCH_HINT);
}

/// All columns of a row group for a few tokens.
INLINE void direct_block32(const uint8_t *group, const qk_act_block *const *x, qk_int nb, float *sums, const fetch_share *share, const int tokens,
                           const qk_type type, const quant_kind kind) {
  const qk_int bytes = QK_ROW_GROUP * qk_block_bytes(type), scales = kind.minimum ? 64 : 32;
  vf sum[DIRECT_TOKENS];
  for (int t = 0; t < tokens; t++) sum[t] = f_zero();
  for (qk_int b = 0; b < nb; b++, group += bytes) {
    fetch_burst(group, 0, 1, share);
    const vf scale = f_of_f16(group), minimum = kind.minimum ? f_sub(f_zero(), f_of_f16(group + 32)) : scale;
    const packed_block p = {.bits = group + scales, .nibbles = group + scales + (kind.bits == 5 ? 64 : 0)};
    vi acc[DIRECT_TOKENS];
    for (int t = 0; t < tokens; t++) acc[t] = start_of(&x[t][b].offset, kind);
    direct_quads(acc, p, 0, 8, x, b, tokens, type, kind);
    add_block32(sum, acc, x, b, scale, minimum, tokens, kind);
  }
  for (int t = 0; t < tokens; t++) f_store(sums + 16 * t, sum[t]);
}

/// As direct_block32, for Q4_K and Q5_K.
INLINE void direct_nibbles_k(const uint8_t *group, const qk_act_block *const *x, qk_int nb, float *sums, const fetch_share *share, const int tokens,
                             const qk_type type, const quant_kind kind) {
  const qk_int bytes = QK_ROW_GROUP * qk_block_bytes(type);
  float scale[16 * 8], minimum[16 * 8];
  vf sum[DIRECT_TOKENS];
  for (int t = 0; t < tokens; t++) sum[t] = f_zero();
  for (qk_int b = 0; b < nb; b += 8, group += bytes) {
    unpack_super_scales(group, scale, minimum);
    for (int pair = 0; pair < 4; pair++) {
      fetch_burst(group, 2 * pair, 2, share);
      UNROLL
      for (int h = 0; h < 2; h++) {
        const int i = 2 * pair + h;
        const packed_block p = {.nibbles = group + (kind.bits == 5 ? 768 : 256) + 512 * pair, .bits = group + 256, .place = h, .fifth = i};
        vi acc[DIRECT_TOKENS];
        for (int t = 0; t < tokens; t++) acc[t] = i_set1(0);
        direct_quads(acc, p, 0, 8, x, b + i, tokens, type, kind);
        add_block32(sum, acc, x, b + i, f_load(scale + 16 * i), f_load(minimum + 16 * i), tokens, kind);
      }
    }
  }
  for (int t = 0; t < tokens; t++) f_store(sums + 16 * t, sum[t]);
}

/// As direct_block32, for Q6_K: scales per 16 columns.
INLINE void direct_block16_k(const uint8_t *group, const qk_act_block *const *x, qk_int nb, float *sums, const fetch_share *share, const int tokens,
                             const qk_type type, const quant_kind kind) {
  const qk_int bytes = QK_ROW_GROUP * qk_block_bytes(type);
  vf sum[DIRECT_TOKENS];
  for (int t = 0; t < tokens; t++) sum[t] = f_zero();
  for (qk_int b = 0; b < nb; b += 8, group += bytes) {
    const vf d = f_of_f16(group);
    for (int four = 0; four < 2; four++) {
      UNROLL
      for (int i = 0; i < 4; i++) {
        const packed_block p = {.nibbles = group + 288 + 1024 * four, .bits = group + 288 + 2048 + 512 * four, .place = i};
        const int index = 4 * four + i;
        vf both[DIRECT_TOKENS];
        fetch_burst(group, index, 1, share);
        UNROLL
        for (int h = 0; h < 2; h++) {
          vi acc[DIRECT_TOKENS];
          for (int t = 0; t < tokens; t++) acc[t] = start_of(&x[t][b + index].half[h], kind);
          direct_quads(acc, p, 4 * h, 4, x, b + index, tokens, type, kind);
          const vf scale = f_mul(d, f_of_i8_column(column16(group + 32 + 16 * (2 * index + h))));
          for (int t = 0; t < tokens; t++) both[t] = h ? f_fma(f_of_i(acc[t]), scale, both[t]) : f_mul(f_of_i(acc[t]), scale);
        }
        for (int t = 0; t < tokens; t++) sum[t] = f_fma(both[t], f_set1(x[t][b + index].scale), sum[t]);
      }
    }
  }
  for (int t = 0; t < tokens; t++) f_store(sums + 16 * t, sum[t]);
}
