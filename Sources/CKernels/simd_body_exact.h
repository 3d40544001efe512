// Private body, compiled once per ISA: rows of the file layout to float32, bit for bit as SPEC 3.6, and the float32 product.
// A (row, token) product is 16 lanes over k, each one chain of fused multiply-adds, summed in a fixed order at the end:
// the same bits whatever tile it was computed in.

INLINE __m128i load_qs(const uint8_t *p) { return _mm_loadu_si128((const __m128i_u *)p); }
INLINE __m128i low4(__m128i v) { return _mm_and_si128(v, _mm_set1_epi8(15)); }
INLINE __m128i bits_right(__m128i v, int n, int mask) { return _mm_and_si128(_mm_srli_epi16(v, n), _mm_set1_epi8((char)mask)); }
INLINE __m128i bits_left(__m128i v, int n, int mask) { return _mm_and_si128(_mm_slli_epi16(v, n), _mm_set1_epi8((char)mask)); }
/// Bit i of h -> 16 in byte i.
INLINE __m128i fifth_bits(uint32_t h) {
  const __m128i spread = _mm_shuffle_epi8(_mm_cvtsi32_si128((int)h), _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
  const __m128i bit = _mm_set1_epi64x((long long)0x8040201008040201);
  return _mm_and_si128(_mm_cmpeq_epi8(_mm_and_si128(spread, bit), bit), _mm_set1_epi8(16));
}
/// out[0..<16] = scale * q (- minimum).
INLINE void put(float *out, __m128i q, float scale) { f_store(out, f_mul(f_set1(scale), f_of_i(i_of_i8(q)))); }
INLINE void put_minus(float *out, __m128i q, float scale, float minimum) {
  f_store(out, f_sub(f_mul(f_set1(scale), f_of_i(i_of_i8(q))), f_set1(minimum)));
}

static void dequantize_block32(qk_type type, const uint8_t *b, float *out) {
  const float d = _cvtsh_ss(qk_load16(b));
  const bool has_fifth = type == QK_Q5_0 || type == QK_Q5_1, has_minimum = type == QK_Q4_1 || type == QK_Q5_1;
  if (type == QK_Q8_0) {
    put(out, load_qs(b + 2), d);
    put(out + 16, load_qs(b + 18), d);
    return;
  }
  const int head = has_minimum ? 4 : 2;
  const __m128i qs = load_qs(b + head + (has_fifth ? 4 : 0));
  __m128i lo = low4(qs), hi = bits_right(qs, 4, 15);
  if (has_fifth) {
    const uint32_t h = qk_load32(b + head);
    lo = _mm_or_si128(lo, fifth_bits(h));
    hi = _mm_or_si128(hi, fifth_bits(h >> 16));
  }
  if (has_minimum) {
    const float minimum = -_cvtsh_ss(qk_load16(b + 2));
    put_minus(out, lo, d, minimum);
    put_minus(out + 16, hi, d, minimum);
    return;
  }
  if (type == QK_IQ4_NL) {
    const __m128i table = load_qs((const uint8_t *)qk_iq4_values);
    lo = _mm_shuffle_epi8(table, lo);
    hi = _mm_shuffle_epi8(table, hi);
  } else {
    const __m128i zero_point = _mm_set1_epi8(has_fifth ? 16 : 8);
    lo = _mm_sub_epi8(lo, zero_point);
    hi = _mm_sub_epi8(hi, zero_point);
  }
  put(out, lo, d);
  put(out + 16, hi, d);
}

static void dequantize_q4_q5_k(qk_type type, const uint8_t *b, float *out) {
  qk_block s;
  qk_decode_super_scales(b, &s);
  const uint8_t *qs = b + (type == QK_Q5_K ? 48 : 16);
  for (int j = 0; j < 8; j++)
    for (int half = 0; half < 2; half++) {
      const __m128i v = load_qs(qs + 32 * (j / 2) + 16 * half);
      __m128i q = j % 2 ? bits_right(v, 4, 15) : low4(v);
      if (type == QK_Q5_K) q = _mm_or_si128(q, _mm_slli_epi16(_mm_and_si128(_mm_srli_epi16(load_qs(b + 16 + 16 * half), j), _mm_set1_epi8(1)), 4));
      put_minus(out + 32 * j + 16 * half, q, s.scale[j], s.minimum[j]);
    }
}

static void dequantize_q6_k(const uint8_t *b, float *out) {
  const float d = _cvtsh_ss(qk_load16(b + 208));
  for (int s = 0; s < 16; s++) {  // 16 elements each: half h, quarter j of 32, then the lower or upper 16
    const int h = s / 8, j = s / 2 % 4, at = s % 2 * 16;
    const __m128i low = load_qs(b + 64 * h + 32 * (j % 2) + at), high = load_qs(b + 128 + 32 * h + at);
    const __m128i q = _mm_or_si128(j < 2 ? low4(low) : bits_right(low, 4, 15), _mm_slli_epi16(bits_right(high, 2 * j, 3), 4));
    put(out + 16 * s, _mm_sub_epi8(q, _mm_set1_epi8(32)), d * (float)(int8_t)b[192 + s]);
  }
}

static void dequantize_q2_q3_k(qk_type type, const uint8_t *b, float *out) {
  qk_block s;
  if (type == QK_Q2_K) qk_decode_q2_k_scales(b, &s);
  else qk_decode_q3_k_scales(b, &s);
  const uint8_t *qs = b + (type == QK_Q2_K ? 16 : 32);
  for (int k = 0; k < 16; k++) {
    const int n = k / 8, j = k / 2 % 4, at = k % 2 * 16;
    const __m128i q = bits_right(load_qs(qs + 32 * n + at), 2 * j, 3);
    if (type == QK_Q2_K) {
      put_minus(out + 16 * k, q, s.scale[k], s.minimum[k]);
    } else {
      const __m128i high = _mm_slli_epi16(bits_right(load_qs(b + at), 4 * n + j, 1), 2);
      put(out + 16 * k, _mm_sub_epi8(_mm_or_si128(q, high), _mm_set1_epi8(4)), s.scale[k]);
    }
  }
}

static void dequantize_iq4_xs(const uint8_t *b, float *out) {
  qk_block s;
  qk_decode_iq4_xs_scales(b, &s);
  const __m128i table = load_qs((const uint8_t *)qk_iq4_values);
  for (int j = 0; j < 8; j++) {
    const __m128i v = load_qs(b + 8 + 16 * j);
    put(out + 32 * j, _mm_shuffle_epi8(table, low4(v)), s.scale[j]);
    put(out + 32 * j + 16, _mm_shuffle_epi8(table, bits_right(v, 4, 15)), s.scale[j]);
  }
}

static void dequantize_block(qk_type type, const uint8_t *b, float *out) {
  switch (type) {
    case QK_Q2_K: case QK_Q3_K: dequantize_q2_q3_k(type, b, out); break;
    case QK_Q4_K: case QK_Q5_K: dequantize_q4_q5_k(type, b, out); break;
    case QK_Q6_K: dequantize_q6_k(b, out); break;
    case QK_IQ4_XS: dequantize_iq4_xs(b, out); break;
    default: dequantize_block32(type, b, out); break;
  }
}

/// E4M3 codes in the low bytes of the lanes (other bits 0) -> float, without NaN for 0x7F.
INLINE vf f_of_f8(vi code) {
  const vi bits = i_or(i_sll(i_and(code, i_set1(0x80)), 24), i_sll(i_and(code, i_set1(0x7F)), 20));
  return f_mul(f_of_bits(bits), f_set1(0x1p120f));
}

static void dequantize_f8(const qk_matrix *w, const uint8_t *from, qk_int row, float *out) {
  const float *scales = w->scales ? w->scales + (w->scale_row + row) / QK_F8_BLOCK * w->scale_stride : NULL;
  for (qk_int k = 0; k < w->columns; k += 16) {
    const float scale = scales ? scales[k / QK_F8_BLOCK] : 1.0f;
    const qk_int n = w->columns - k < 16 ? w->columns - k : 16;
    const __m128i nan_code = _mm_set1_epi8(0x7F);
    if (n == 16 && !_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_and_si128(load_qs(from + k), nan_code), nan_code)))
      f_store(out + k, f_mul(f_of_f8(i_of_u8(load_qs(from + k))), f_set1(scale)));
    else
      for (qk_int i = k; i < k + n; i++) out[i] = qk_float_of_f8(from[i]) * scale;
  }
}

static void dequantize_row(const qk_matrix *w, qk_int row, float *out) {
  const uint8_t *from = (const uint8_t *)w->data + row * w->row_bytes;
  const qk_int n = w->columns;
  qk_int k = 0;
  switch (w->type) {
    case QK_F32: memcpy(out, from, (size_t)n * 4); return;
    case QK_F16:
      for (; k + 16 <= n; k += 16) f_store(out + k, f_of_f16(from + 2 * k));
      for (; k < n; k++) out[k] = qk_float_of_f16(qk_load16(from + 2 * k));
      return;
    case QK_BF16:
      for (; k + 16 <= n; k += 16) f_store(out + k, f_of_bf16(from + 2 * k));
      for (; k < n; k++) out[k] = qk_float_of_bf16(qk_load16(from + 2 * k));
      return;
    case QK_F8_E4M3: dequantize_f8(w, from, row, out); return;
    case QK_INT16: load_int16(from, from + QK_INT16_HEAD_BYTES, n, out); return;
    default: break;
  }
  const qk_format *f = qk_format_of(w->type);
  for (; k < n; k += f->elements, from += f->bytes) dequantize_block(w->type, from, out + k);
}

static void v_dequantize_rows(const qk_matrix *w, qk_int begin, qk_int end, float *out, qk_int out_stride) {
  for (qk_int i = begin; i < end; i++) dequantize_row(w, i, out + (i - begin) * out_stride);
}

/// out[i * out_stride + j] = a_i . b_j for ROWS rows of a and COLUMNS rows of b, all `count` long.
INLINE void dot_tile(const float *const *a, const float *const *b, qk_int count, int rows, int columns, float (*out)[4]) {
  vf acc[4][4];
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < columns; j++) acc[i][j] = f_zero();
  qk_int k = 0;
  for (; k + 16 <= count; k += 16) {
    vf bv[4];
    for (int j = 0; j < columns; j++) bv[j] = f_load(b[j] + k);
    for (int i = 0; i < rows; i++) {
      const vf av = f_load(a[i] + k);
      for (int j = 0; j < columns; j++) acc[i][j] = f_fma(av, bv[j], acc[i][j]);
    }
  }
  if (k < count)
    for (int i = 0; i < rows; i++)
      for (int j = 0; j < columns; j++) acc[i][j] = f_fma(f_loadn(a[i] + k, count - k), f_loadn(b[j] + k, count - k), acc[i][j]);
  for (int i = 0; i < rows; i++)
    _mm_storeu_ps(out[i], f_sum4(acc[i][0], columns > 1 ? acc[i][1] : f_zero(), columns > 2 ? acc[i][2] : f_zero(), columns > 3 ? acc[i][3] : f_zero()));
}

enum { EXACT_ROWS = 16 };

/// Weight rows w[0 ..< rows] (float32, `count` long) times all tokens.
static void exact_rows(const float *const *w, int rows, qk_int count, const float *x, qk_int x_stride, const int32_t *index, qk_int tokens,
                       float *y, qk_int y_stride) {
  float out[4][4];
  qk_int t = 0;
  for (; t < tokens; t += DOT_COLUMNS) {
    const float *xt[4];
    const int columns = tokens - t < DOT_COLUMNS ? (int)(tokens - t) : DOT_COLUMNS;
    for (int j = 0; j < columns; j++) xt[j] = x + (index ? index[t + j] : t + j) * x_stride;
    for (int i = 0; i < rows; i += DOT_ROWS) {
      const int live = rows - i < DOT_ROWS ? rows - i : DOT_ROWS;
      if (live == DOT_ROWS && columns == DOT_COLUMNS) {
        dot_tile(w + i, xt, count, DOT_ROWS, DOT_COLUMNS, out);
      } else if (live == DOT_ROWS) {
        for (int j = 0; j < columns; j++) {
          float one[4][4];
          dot_tile(w + i, xt + j, count, DOT_ROWS, 1, one);
          for (int r = 0; r < DOT_ROWS; r++) out[r][j] = one[r][0];
        }
      } else {
        for (int r = 0; r < live; r++)
          for (int j = 0; j < columns; j++) {
            float one[4][4];
            dot_tile(w + i + r, xt + j, count, 1, 1, one);
            out[r][j] = one[0][0];
          }
      }
      for (int r = 0; r < live; r++)
        for (int j = 0; j < columns; j++) y[(t + j) * y_stride + i + r] = out[r][j];
    }
  }
}

static void v_matmul_exact(const qk_matrix *w, qk_int begin, qk_int end, const float *x, qk_int x_stride, const int32_t *index,
                           qk_int tokens, float *y, qk_int y_stride, void *scratch) {
  if (tokens <= 0) return;
  const qk_int stride = (w->columns + 15) / 16 * 16;
  for (qk_int i = begin; i < end; i += EXACT_ROWS) {
    const int rows = end - i < EXACT_ROWS ? (int)(end - i) : EXACT_ROWS;
    const float *row[EXACT_ROWS];
    for (int r = 0; r < rows; r++) {
      if (w->type == QK_F32) {
        row[r] = (const float *)((const uint8_t *)w->data + (i + r) * w->row_bytes);
      } else {
        float *out = (float *)scratch + r * stride;
        dequantize_row(w, i + r, out);
        row[r] = out;
      }
    }
    exact_rows(row, rows, w->columns, x, x_stride, index, tokens, y + i, y_stride);
  }
}
