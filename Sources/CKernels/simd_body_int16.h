// Private body, compiled once per ISA: rows of floats as 16-bit integers with one scale (cache.h), and the products of INT16 matrices.
// Integer sums are exact, so the order of a product's additions is free.

/// The largest magnitude, as bits: Inf is larger than all numbers, NaN larger than Inf.
INLINE int32_t largest_bits(const float *x, qk_int count) {
  const vi magnitude = i_set1(0x7FFFFFFF);
  vi largest = i_set1(0);
  for (qk_int i = 0; i < count; i += 16) largest = i_max(largest, i_and(bits_of_f(f_loadn(x + i, count - i)), magnitude));
  return i_hmax(largest);
}

INLINE vf add_square(vf sum, vf v) { return f_add(sum, f_mul(v, v)); }

/// Squares of x * factor in 16 chains, folded in a fixed order: the scalar variant does the same.
INLINE float sum_of_squares(const float *x, qk_int count, vf factor) {
  vf sum = f_zero();
  qk_int i = 0;
  for (; i + 16 <= count; i += 16) sum = add_square(sum, f_mul(f_load(x + i), factor));
  if (i < count) sum = add_square(sum, f_mul(f_loadn(x + i, count - i), factor));
  return f_sum(sum);
}

/// A row as integers (cache.h), then zeros up to `width`; returns its scale.
static float put_int16(const float *x, qk_int count, qk_int width, int16_t *out) {
  float squares = sum_of_squares(x, count, f_set1(1)), largest = 1;
  if (!qk_int16_is_plain(squares)) {
    largest = qk_float_of_bits((uint32_t)largest_bits(x, count));
    if (!(largest >= 1e-30f && largest <= 3.4028235e38f)) {
      memset(out, 0, (size_t)width * 2);
      return largest < 1e-30f ? 0 : NAN;
    }
    squares = sum_of_squares(x, count, f_set1(1.0f / largest));
  }
  const qk_int16_rule rule = qk_int16_scale(sqrtf(squares), largest);
  const vf first = f_set1(rule.first), second = f_set1(rule.second);
  qk_int i = 0;
  for (; i + 16 <= count; i += 16) _mm256_storeu_si256((__m256i_u *)(out + i), i16_of_i(i_of_f(f_mul(f_mul(f_load(x + i), first), second))));
  if (i < count) {
    int16_t lanes[16];
    _mm256_storeu_si256((__m256i_u *)lanes, i16_of_i(i_of_f(f_mul(f_mul(f_loadn(x + i, count - i), first), second))));
    memcpy(out + i, lanes, (size_t)(count - i) * 2);
  }
  memset(out + count, 0, (size_t)(width - count) * 2);
  return rule.scale;
}

static void load_int16(const uint8_t *scale, const uint8_t *q, qk_int count, float *out) {
  const float unit = qk_float_of_bits(qk_load32(scale));
  qk_int i = 0;
  for (; i + 16 <= count; i += 16) f_store(out + i, f_mul(f_set1(unit), f_of_i(i_of_i16(q + 2 * i))));
  for (; i < count; i++) out[i] = unit * (float)(int16_t)qk_load16(q + 2 * i);
}

/// `groups` groups of 16 rows times `tokens` tokens in registers: y[t * y_stride + row]. FETCHES: meanwhile the next as many groups are
/// fetched, for one is too short for the hardware to see where it leads.
INLINE void int16_micro(const uint8_t *group, qk_int group_bytes, const uint8_t *activations, const int32_t *index, qk_int x_bytes, qk_int pairs,
                        float *y, qk_int y_stride, qk_int rows_left, const int groups, const int tokens, const bool fetches) {
  const uint8_t *x[4];
  vi acc[4][4];
  UNROLL
  for (int t = 0; t < tokens; t++) x[t] = activations + (index ? index[t] : t) * x_bytes;
  for (int g = 0; g < groups; g++)
    for (int t = 0; t < tokens; t++) acc[g][t] = i_set1(0);
  for (qk_int k = 0; k < pairs; k++) {
    vi w[4];
    for (int g = 0; g < groups; g++) {
      const uint8_t *at = group + g * group_bytes + 64 * k;
      w[g] = i_load(at + 64);
      if (fetches) _mm_prefetch((const char *)at + groups * group_bytes, FETCH_HINT);
    }
    for (int t = 0; t < tokens; t++) {
      const vi pair = i_set1((int32_t)qk_load32(x[t] + QK_INT16_ACTIVATION_HEAD_BYTES + 4 * k));
      for (int g = 0; g < groups; g++) acc[g][t] = i_dot16(acc[g][t], w[g], pair);
    }
  }
  for (int g = 0; g < groups; g++)
    for (int t = 0; t < tokens; t++) {
      const vf scale = f_mul(f_load(group + g * group_bytes), f_set1(qk_float_of_bits(qk_load32(x[t]))));
      f_storen(y + t * y_stride + 16 * g, f_mul(f_of_i(acc[g][t]), scale), rows_left - 16 * g);
    }
}

static void int16_rows(const qk_matrix *w, qk_int begin, qk_int end, const uint8_t *activations, const int32_t *index, qk_int tokens, float *y,
                       qk_int y_stride) {
  const qk_int group_bytes = w->row_bytes * QK_ROW_GROUP, pairs = (w->columns + 1) / 2, x_bytes = qk_activation_bytes(QK_ACT_INT16, w->columns);
  for (qk_int i = begin; i < end;) {
    const int groups = qk_group_count(end - i) >= DOT_COLUMNS ? DOT_COLUMNS : 1;
    const uint8_t *group = (const uint8_t *)w->data + i / QK_ROW_GROUP * group_bytes;
    for (qk_int t = 0; t < tokens;) {
      const int count = tokens - t >= DOT_ROWS ? DOT_ROWS : 1;
      const uint8_t *x = index ? activations : activations + t * x_bytes;
#define MICRO(groups, tokens, fetches) \
  int16_micro(group, group_bytes, x, index ? index + t : NULL, x_bytes, pairs, y + t * y_stride + i, y_stride, end - i, groups, tokens, fetches)
      if (groups == DOT_COLUMNS && count == DOT_ROWS && t == 0) MICRO(DOT_COLUMNS, DOT_ROWS, true);
      else if (groups == DOT_COLUMNS && count == DOT_ROWS) MICRO(DOT_COLUMNS, DOT_ROWS, false);
      else if (groups == DOT_COLUMNS) MICRO(DOT_COLUMNS, 1, false);
      else if (count == DOT_ROWS) MICRO(1, DOT_ROWS, false);
      else MICRO(1, 1, false);
#undef MICRO
      t += count;
    }
    i += 16 * groups;
  }
}
