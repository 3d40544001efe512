// Private body, compiled once per ISA: packed F32, F16, BF16 and F8 weights times bfloat16 activations, float32 sums.
// One chain of additions per (row, token), k rising (F8: per 128 columns, then scaled): the same bits in any tile.

enum { PLAIN_TOKENS = 4 };

/// The weights of columns k, k + 1 ... of 16 rows: how many columns one packed vector of 64 bytes holds.
INLINE int plain_columns(qk_type type) { return type == QK_F32 ? 1 : type == QK_F8_E4M3 ? 4 : 2; }

INLINE void plain_weights(qk_type type, vb v, vf *out) {
  switch (type) {
    case QK_F32: out[0] = f_of_bits(v); break;
    case QK_F16:
      out[0] = f_of_f16_halves(v);
      out[1] = f_of_f16_halves(i_srl(v, 16));
      break;
    case QK_BF16:
      out[0] = f_of_bits(i_sll(v, 16));
      out[1] = f_of_bits(i_and(v, i_set1((int32_t)0xFFFF0000)));
      break;
    default:
      for (int i = 0; i < 4; i++) out[i] = f_of_f8(i_srl(v, 8 * i));
  }
}

/// sum[t] += columns [k, end) of the group; the activations beyond `columns` are zero (padding), the weights' padding too.
INLINE void plain_chunk(qk_type type, const uint8_t *group, const uint16_t *const *x, qk_int k, qk_int end, int tokens, vf *sum) {
  const int step = plain_columns(type);
  for (; k < end; k += step) {
    vf w[4];
    plain_weights(type, b_load(group + k / step * 64), w);
    for (int t = 0; t < tokens; t++)
      for (int i = 0; i < step; i++) sum[t] = f_fma(w[i], f_set1(qk_float_of_bf16(x[t][k + i])), sum[t]);
  }
}

INLINE void plain_micro(const qk_matrix *w, qk_int row, const uint8_t *group, const uint16_t *const *x, float *const *y, qk_int rows,
                        const int tokens, const qk_type type) {
  vf sum[PLAIN_TOKENS];
  for (int t = 0; t < tokens; t++) sum[t] = f_zero();
  if (type != QK_F8_E4M3 || !w->scales) {
    plain_chunk(type, group, x, 0, w->columns, tokens, sum);
  } else {
    for (qk_int k = 0; k < w->columns; k += QK_F8_BLOCK) {
      vf part[PLAIN_TOKENS];
      for (int t = 0; t < tokens; t++) part[t] = f_zero();
      plain_chunk(type, group, x, k, w->columns - k < QK_F8_BLOCK ? w->columns : k + QK_F8_BLOCK, tokens, part);
      float scale[16];
      for (int r = 0; r < 16; r++)
        scale[r] = w->scales[(w->scale_row + row + (r < rows ? r : 0)) / QK_F8_BLOCK * w->scale_stride + k / QK_F8_BLOCK];
      for (int t = 0; t < tokens; t++) sum[t] = f_fma(part[t], f_load(scale), sum[t]);
    }
  }
  for (int t = 0; t < tokens; t++) f_storen(y[t], sum[t], rows);
}

INLINE void plain_rows(const qk_matrix *w, qk_int begin, qk_int end, const uint8_t *activations, qk_int x_bytes, const int32_t *index,
                       qk_int tokens, float *y, qk_int y_stride, const qk_type type) {
  for (qk_int i = begin; i < end; i += QK_ROW_GROUP) {
    const uint8_t *group = (const uint8_t *)w->data + i * w->row_bytes;
    const qk_int rows = end - i < QK_ROW_GROUP ? end - i : QK_ROW_GROUP;
    for (qk_int t = 0; t < tokens;) {
      const int count = tokens - t >= PLAIN_TOKENS ? PLAIN_TOKENS : 1;
      const uint16_t *x[PLAIN_TOKENS];
      float *out[PLAIN_TOKENS];
      for (int j = 0; j < count; j++) {
        x[j] = (const uint16_t *)(activations + (index ? index[t + j] : t + j) * x_bytes);
        out[j] = y + (t + j) * y_stride + i;
      }
      if (count == PLAIN_TOKENS) plain_micro(w, i, group, x, out, rows, PLAIN_TOKENS, type);
      else plain_micro(w, i, group, x, out, rows, 1, type);
      t += count;
    }
  }
}

#if QK_BF16_DOT
/// GROUPS x tokens register tile of vdpbf16ps: pairs of columns, k rising.
INLINE void bf16_micro(const uint8_t *const *group, const uint16_t *const *x, qk_int columns, float *const *y, qk_int rows_left,
                       const int groups, const int tokens) {
  vf sum[4][8];
  for (int g = 0; g < groups; g++)
    for (int t = 0; t < tokens; t++) sum[g][t] = f_zero();
  for (qk_int k = 0; k < columns; k += 2) {
    vb w[4];
    for (int g = 0; g < groups; g++) w[g] = b_load(group[g] + 32 * k);
    for (int t = 0; t < tokens; t++) {
      const __m512bh pair = (__m512bh)_mm512_set1_epi32((int32_t)qk_load32(x[t] + k));
      for (int g = 0; g < groups; g++) sum[g][t] = _mm512_dpbf16_ps(sum[g][t], (__m512bh)w[g], pair);
    }
  }
  for (int g = 0; g < groups; g++)
    for (int t = 0; t < tokens; t++) f_storen(y[t] + 16 * g, sum[g][t], rows_left - 16 * g);
}

static void bf16_rows(const qk_matrix *w, qk_int begin, qk_int end, const uint8_t *activations, qk_int x_bytes, const int32_t *index,
                      qk_int tokens, float *y, qk_int y_stride) {
  const qk_int group_bytes = w->row_bytes * QK_ROW_GROUP;
  for (qk_int i = begin; i < end;) {
    const qk_int left = qk_group_count(end - i);
    const int groups = left >= 4 && tokens < 8 ? 4 : left >= 2 ? 2 : 1;
    const uint8_t *group[4];
    for (int g = 0; g < groups; g++) group[g] = (const uint8_t *)w->data + (i / QK_ROW_GROUP + g) * group_bytes;
    for (qk_int t = 0; t < tokens;) {
      const qk_int more = tokens - t;
      const int count = groups < 4 && more >= 8 ? 8 : more >= 4 ? 4 : more >= 2 ? 2 : 1;
      const uint16_t *x[8];
      float *out[8];
      for (int j = 0; j < count; j++) {
        x[j] = (const uint16_t *)(activations + (index ? index[t + j] : t + j) * x_bytes);
        out[j] = y + (t + j) * y_stride + i;
      }
      switch (groups * 16 + count) {
        case 4 * 16 + 4: bf16_micro(group, x, w->columns, out, end - i, 4, 4); break;
        case 4 * 16 + 2: bf16_micro(group, x, w->columns, out, end - i, 4, 2); break;
        case 4 * 16 + 1: bf16_micro(group, x, w->columns, out, end - i, 4, 1); break;
        case 2 * 16 + 8: bf16_micro(group, x, w->columns, out, end - i, 2, 8); break;
        case 2 * 16 + 4: bf16_micro(group, x, w->columns, out, end - i, 2, 4); break;
        case 2 * 16 + 2: bf16_micro(group, x, w->columns, out, end - i, 2, 2); break;
        case 2 * 16 + 1: bf16_micro(group, x, w->columns, out, end - i, 2, 1); break;
        case 16 + 8: bf16_micro(group, x, w->columns, out, end - i, 1, 8); break;
        case 16 + 4: bf16_micro(group, x, w->columns, out, end - i, 1, 4); break;
        case 16 + 2: bf16_micro(group, x, w->columns, out, end - i, 1, 2); break;
        default: bf16_micro(group, x, w->columns, out, end - i, 1, 1); break;
      }
      t += count;
    }
    i += 16 * groups;
  }
}
#endif

static void v_matmul_fast(const qk_matrix *w, qk_int begin, qk_int end, const void *activations, const int32_t *index, qk_int tokens,
                          float *y, qk_int y_stride, void *scratch) {
  if (tokens <= 0) return;
  const qk_int x_bytes = qk_activation_bytes(QK_ACT_BF16, w->columns);
  switch (w->type) {
    case QK_F32: plain_rows(w, begin, end, activations, x_bytes, index, tokens, y, y_stride, QK_F32); break;
    case QK_F16: plain_rows(w, begin, end, activations, x_bytes, index, tokens, y, y_stride, QK_F16); break;
    case QK_F8_E4M3: plain_rows(w, begin, end, activations, x_bytes, index, tokens, y, y_stride, QK_F8_E4M3); break;
    case QK_INT16: int16_rows(w, begin, end, activations, index, tokens, y, y_stride); break;
    case QK_BF16:
#if QK_BF16_DOT
      bf16_rows(w, begin, end, activations, x_bytes, index, tokens, y, y_stride);
#else
      plain_rows(w, begin, end, activations, x_bytes, index, tokens, y, y_stride, QK_BF16);
#endif
      break;
    default: matmul_quantised(w, begin, end, activations, index, tokens, y, y_stride, scratch);
  }
}
