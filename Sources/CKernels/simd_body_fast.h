// Private body, compiled once per ISA: products of packed weights with quantised activations. Integer dot products inside
// blocks of 32 (or 16), float sums over blocks in rising order, one chain per (row, token): the bits do not depend on how
// many tokens or rows are computed together. Between tiles of 256 columns the sums rest in scratch.

/// How a format's integers become numbers. `shift`: weights are stored 128 >> shift too large (if no minima).
typedef struct quant_kind {
  int sub, shift;
  bool minimum, wide, flip;
} quant_kind;

INLINE vi start_of(const int32_t *offset, quant_kind kind) {
  const bool none = kind.minimum || (SIGNED_WIDE && kind.wide);
  return none ? i_set1(0) : i_sra(i_set1(*offset), kind.shift);
}

/// `quads` vectors of weights against the same columns (from `column` of block `at`) of `tokens` tokens.
INLINE void dot_quads(vi *acc, const uint8_t *q, const qk_act_block *const *x, qk_int at, int column, int quads, int tokens, quant_kind kind) {
#pragma clang loop unroll(full)
  for (int j = 0; j < quads; j++) {
    vb w = b_load(q + 64 * j);
    if (kind.flip) w = b_wide(w);
    for (int t = 0; t < tokens; t++) acc[t] = i_dot(acc[t], w, (int32_t)qk_load32(x[t][at].q + column + 4 * j), kind.wide);
  }
}

/// Adds tile (blocks `first` ..< first + blocks) x `tokens` tokens to sums [tokens, 16].
/// `ahead`: packed bytes to fetch meanwhile, `ahead_lines` cache lines per block.
INLINE void quant_micro(const quant_tile *tile, const qk_act_block *const *x, qk_int first, qk_int blocks, float *sums,
                        const uint8_t *ahead, int ahead_lines, const int tokens, const quant_kind kind) {
  vf sum[8];
  for (int t = 0; t < tokens; t++) sum[t] = first == 0 ? f_zero() : f_load(sums + 16 * t);
  for (qk_int b = 0; b < blocks; b++) {
    const uint8_t *q = tile->q + b * tile->stride;
    const qk_int at = first + b;
    for (int i = 0; i < ahead_lines; i++, ahead += 64) _mm_prefetch((const char *)ahead, _MM_HINT_T0);
    vi acc[8];
    if (kind.sub == 32) {
      for (int t = 0; t < tokens; t++) acc[t] = start_of(&x[t][at].offset, kind);
      dot_quads(acc, q, x, at, 0, 8, tokens, kind);
      const vf scale = f_load(tile->scale + 16 * b);
      for (int t = 0; t < tokens; t++)
        sum[t] = f_fma(f_mul(f_of_i(acc[t]), scale), f_set1(x[t][at].scale), sum[t]);
      if (kind.minimum) {
        const vf minimum = f_load(tile->minimum + 16 * b);
        for (int t = 0; t < tokens; t++) sum[t] = f_fnma(minimum, f_set1(x[t][at].scaled), sum[t]);
      }
    } else {
      vf both[8];
      for (int h = 0; h < 2; h++) {
        for (int t = 0; t < tokens; t++) acc[t] = start_of(&x[t][at].half[h], kind);
        dot_quads(acc, q + 256 * h, x, at, 16 * h, 4, tokens, kind);
        const vf scale = f_load(tile->scale + 32 * b + 16 * h);
        for (int t = 0; t < tokens; t++) both[t] = h ? f_fma(f_of_i(acc[t]), scale, both[t]) : f_mul(f_of_i(acc[t]), scale);
        if (kind.minimum) {
          const vf minimum = f_load(tile->minimum + 32 * b + 16 * h);
          for (int t = 0; t < tokens; t++) {
            const float half = (float)(x[t][at].half[h] / -128);
            both[t] = f_fnma(minimum, f_set1(half), both[t]);
          }
        }
      }
      for (int t = 0; t < tokens; t++) sum[t] = f_fma(both[t], f_set1(x[t][at].scale), sum[t]);
    }
  }
  for (int t = 0; t < tokens; t++) f_store(sums + 16 * t, sum[t]);
}

/// Up to TOKEN_BLOCK tokens against one tile.
INLINE void quant_tokens(const quant_tile *tile, const qk_act_block *const *x, qk_int tokens, qk_int first, qk_int blocks, float *sums,
                         const uint8_t *ahead, int lines, const quant_kind kind) {
  qk_int t = 0;
#define STEP(n) quant_micro(tile, x + t, first, blocks, sums + 16 * t, ahead, t == 0 ? lines : 0, n, kind)
  for (; t + QUANT_TOKENS <= tokens; t += QUANT_TOKENS) STEP(QUANT_TOKENS);
  for (; QUANT_TOKENS > 4 && t + 4 <= tokens; t += 4) STEP(4);
  for (; QUANT_TOKENS > 2 && t + 2 <= tokens; t += 2) STEP(2);
  for (; t < tokens; t++) STEP(1);
#undef STEP
}

/// One function per kind of format, so that the micro-kernels are specialised.
#define QUANT_MATMUL(name, ...)                                                                                                      \
  static void name(const quant_tile *tile, const qk_act_block *const *x, qk_int tokens, qk_int first, qk_int blocks, float *sums,    \
                   const uint8_t *ahead, int lines, int shift) {                                                                                                      \
    quant_tokens(tile, x, tokens, first, blocks, sums, ahead, lines, (quant_kind){.shift = shift, __VA_ARGS__});                                   \
  }
QUANT_MATMUL(matmul_q8_0, .sub = 32, .wide = true, .flip = true)
QUANT_MATMUL(matmul_iq4, .sub = 32, .wide = true)
QUANT_MATMUL(matmul_symmetric32, .sub = 32)
QUANT_MATMUL(matmul_minimum32, .sub = 32, .minimum = true)
QUANT_MATMUL(matmul_symmetric16, .sub = 16)
QUANT_MATMUL(matmul_minimum16, .sub = 16, .minimum = true)

typedef void (*quant_function)(const quant_tile *, const qk_act_block *const *, qk_int, qk_int, qk_int, float *, const uint8_t *, int, int);

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

/// Tokens that share an unpacked tile: their activations for 256 columns and their sums stay in the first-level cache.
enum { TOKEN_BLOCK = 32 };
/// Whether to fetch the next tile by hand. With several tokens arithmetic takes so long that the hardware's own prefetch
/// stops [M: Q8_0, 16 tokens 163 -> 260 GOP/s]; it also loses the blocks whose high bits lie apart [M: Q6_K, 1 token 9 -> 13
/// GB/s, Q3_K 7 -> 15]. For the others at 1 to 3 tokens it does better alone.
INLINE bool fetches_ahead(qk_type type, qk_int tokens) {
  return tokens >= 4 || type == QK_Q3_K || type == QK_Q5_K || type == QK_Q6_K;
}

static void matmul_quantised(const qk_matrix *w, qk_int begin, qk_int end, const void *activations, const int32_t *index, qk_int tokens,
                             float *y, qk_int y_stride, void *scratch) {
  uint8_t *q = scratch;
  float *scale = (float *)(q + 16 * TILE_COLUMNS), *minimum = scale + 16 * 16, *sums = minimum + 16 * 16;
  const qk_int nb = w->columns / 32, x_bytes = qk_activation_bytes(QK_ACT_Q8, w->columns);
  const qk_int tile_bytes = QK_ROW_GROUP * qk_row_bytes(w->type, 256);
  int shift;
  const quant_function run = quant_function_for(w->type, &shift);
  for (qk_int t0 = 0; t0 < tokens; t0 += TOKEN_BLOCK) {
    const qk_int count = tokens - t0 < TOKEN_BLOCK ? tokens - t0 : TOKEN_BLOCK;
    const qk_act_block *x[TOKEN_BLOCK];
    for (qk_int t = 0; t < count; t++)
      x[t] = (const qk_act_block *)((const uint8_t *)activations + (index ? index[t0 + t] : t0 + t) * x_bytes);
    for (qk_int i = begin; i < end; i += QK_ROW_GROUP) {
      const uint8_t *group = (const uint8_t *)w->data + i * w->row_bytes;
      if (nb == 0) memset(sums, 0, (size_t)count * 64);
      for (qk_int first = 0; first < nb; first += 8) {
        const qk_int blocks = nb - first < 8 ? nb - first : 8;
        const quant_tile tile = unpack_tile(w->type, group, first, blocks, q, scale, minimum);
        const uint8_t *ahead = group + (first / 8 + 1) * tile_bytes;  // groups follow each other: also right at a group's end
        run(&tile, x, count, first, blocks, sums, ahead, fetches_ahead(w->type, count) ? (int)(tile_bytes / 512) + 1 : 0, shift);
      }
      for (qk_int t = 0; t < count; t++) f_storen(y + (t0 + t) * y_stride + i, f_load(sums + 16 * t), end - i);
    }
  }
}
