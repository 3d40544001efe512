// Private body, compiled once per ISA: norms, activations, rotations, reductions, conversions.

static void v_rms_norm(const float *x, const float *weight, float epsilon, qk_int count, float *y) {
  if (count <= 0) return;
  vf sum = f_zero();
  qk_int i = 0;
  for (; i < count; i += 16) {
    const vf v = f_loadn(x + i, count - i);
    sum = f_fma(v, v, sum);
  }
  const vf inverse = f_set1(1.0f / sqrtf(f_sum(sum) / (float)count + epsilon));
  for (i = 0; i < count; i += 16) {
    const vf v = f_mul(f_loadn(x + i, count - i), inverse);
    f_storen(y + i, weight ? f_mul(v, f_loadn(weight + i, count - i)) : v, count - i);
  }
}

static float v_max(const float *x, qk_int count) {
  vf m = f_set1(-INFINITY);
  for (qk_int i = 0; i < count; i += 16) m = f_max(f_first(count - i, f_loadn(x + i, count - i), m), m);
  return f_hmax(m);
}

static qk_int v_argmax(const float *x, qk_int count) {
  const float m = v_max(x, count);
  if (m == -INFINITY) return qk_scalar_argmax(x, count);  // nothing, NaN or -Inf only
  for (qk_int i = 0; i < count; i++)
    if (x[i] == m) return i;
  return -1;
}

static void v_softmax(float *x, qk_int count) {
  if (count <= 0) return;
  const vf m = f_set1(v_max(x, count));
  vf sum = f_zero();
  for (qk_int i = 0; i < count; i += 16) {
    const vf e = f_first(count - i, f_exp(f_sub(f_loadn(x + i, count - i), m)), f_zero());
    f_storen(x + i, e, count - i);
    sum = f_add(sum, e);
  }
  const vf inverse = f_set1(1.0f / f_sum(sum));
  for (qk_int i = 0; i < count; i += 16) f_storen(x + i, f_mul(f_loadn(x + i, count - i), inverse), count - i);
}

static void v_sigmoid(float *x, qk_int count) {
  const vf one = f_set1(1);
  for (qk_int i = 0; i < count; i += 16)
    f_storen(x + i, f_div(one, f_add(one, f_exp(f_sub(f_zero(), f_loadn(x + i, count - i))))), count - i);
}

static void v_silu_mul(const float *gate, const float *up, qk_int count, float *out) {
  const vf one = f_set1(1);
  for (qk_int i = 0; i < count; i += 16) {
    const vf g = f_loadn(gate + i, count - i);
    const vf s = f_div(g, f_add(one, f_exp(f_sub(f_zero(), g))));
    f_storen(out + i, f_mul(s, f_loadn(up + i, count - i)), count - i);
  }
}

/// Chunks of 1024 in float lanes, the chunks' sums in double.
static double v_logsumexp(const float *x, qk_int count) {
  const float m = v_max(x, count);
  if (m == -INFINITY) return -INFINITY;
  const vf shift = f_set1(m);
  double total = 0;
  for (qk_int first = 0; first < count; first += 1024) {
    const qk_int end = first + 1024 < count ? first + 1024 : count;
    vf sum = f_zero();
    for (qk_int i = first; i < end; i += 16)
      sum = f_add(sum, f_first(end - i, f_exp(f_sub(f_loadn(x + i, end - i), shift)), f_zero()));
    total += (double)f_sum(sum);
  }
  return (double)m + log(total);
}

static void v_add(float *y, const float *x, qk_int count) {
  for (qk_int i = 0; i < count; i += 16) f_storen(y + i, f_add(f_loadn(y + i, count - i), f_loadn(x + i, count - i)), count - i);
}

static void v_axpy(float *y, float a, const float *x, qk_int count) {
  const vf av = f_set1(a);
  for (qk_int i = 0; i < count; i += 16) f_storen(y + i, f_fma(av, f_loadn(x + i, count - i), f_loadn(y + i, count - i)), count - i);
}

static void v_scale(float *y, float a, qk_int count) {
  const vf av = f_set1(a);
  for (qk_int i = 0; i < count; i += 16) f_storen(y + i, f_mul(f_loadn(y + i, count - i), av), count - i);
}

static void v_f32_to_bf16(const float *x, uint16_t *out, qk_int count) {
  for (qk_int i = 0; i < count; i += 16) bf16_storen(out + i, f_loadn(x + i, count - i), count - i);
}

static void v_bf16_to_f32(const uint16_t *x, float *out, qk_int count) {
  for (qk_int i = 0; i < count; i += 16) f_storen(out + i, bf16_loadn(x + i, count - i), count - i);
}

static void v_rope_half_split(float *x, qk_int stride, qk_int heads, qk_int width, const float *cosine, const float *sine) {
  const qk_int half = width / 2;
  for (qk_int h = 0; h < heads; h++) {
    float *a = x + h * stride, *b = a + half;
    for (qk_int j = 0; j < half; j += 16) {
      const qk_int n = half - j;
      const vf va = f_loadn(a + j, n), vb_ = f_loadn(b + j, n), c = f_loadn(cosine + j, n), s = f_loadn(sine + j, n);
      f_storen(a + j, f_sub(f_mul(va, c), f_mul(vb_, s)), n);
      f_storen(b + j, f_add(f_mul(va, s), f_mul(vb_, c)), n);
    }
  }
}

/// Pairs lie side by side; the compiler vectorises this well enough for r = 64 per head.
static void v_rope_interleaved(float *x, qk_int stride, qk_int heads, qk_int width, const float *cosine, const float *sine) {
  for (qk_int h = 0; h < heads; h++) {
    float *p = x + h * stride;
    for (qk_int j = 0; j < width / 2; j++) {
      const float a = p[2 * j], b = p[2 * j + 1];
      p[2 * j] = a * cosine[j] - b * sine[j];
      p[2 * j + 1] = a * sine[j] + b * cosine[j];
    }
  }
}

/// `count` blocks of 32 numbers, at most 16, to int8, bit for bit as the scalar variant does it (scalar_matmul.c). What there is one of per block is
/// computed for all at once.
static void quantize_blocks(const float *const *x, int count, qk_act_block *const *out) {
  const vi magnitude = i_set1(0x7FFFFFFF), zero = i_set1(0);
  const vf least = f_set1(1e-30f), most = f_set1(127.0f);
  vi v[16], low[16], high[16];
  for (int b = 0; b < 16; b++)
    v[b] = b < count ? i_max(i_and(bits_of_f(f_load(x[b])), magnitude), i_and(bits_of_f(f_load(x[b] + 16)), magnitude)) : zero;
  const vi bits = i_fold16(v, false);
  const vf largest = f_of_bits(bits);
  float factor[16], scale[16];
  int32_t sums[2][16];
  f_store(factor, f_zero_below(largest, least, f_div(most, largest)));
  f_store(scale, f_zero_below(largest, least, f_div(largest, most)));
  for (int b = 0; b < 16; b++) {
    low[b] = b < count ? i_of_f(f_mul(f_load(x[b]), f_set1(factor[b]))) : zero;
    high[b] = b < count ? i_of_f(f_mul(f_load(x[b] + 16), f_set1(factor[b]))) : zero;
  }
  if (i_hmax(bits) >= 0x7F800000) {  // infinite or not a number
    int32_t each[16];
    b_store(each, bits);
    for (int b = 0; b < count; b++)
      if (each[b] >= 0x7F800000) scale[b] = NAN, low[b] = high[b] = zero;
  }
  b_store(sums[0], i_fold16(low, true));
  b_store(sums[1], i_fold16(high, true));
  for (int b = 0; b < count; b++) {
    _mm_storeu_si128((__m128i_u *)out[b]->q, i8_of_i(low[b]));
    _mm_storeu_si128((__m128i_u *)(out[b]->q + 16), i8_of_i(high[b]));
    qk_act_finish(out[b], scale[b], (const int32_t[2]){sums[0][b], sums[1][b]});
  }
}

static void quantize_q8(const float *x, qk_int x_stride, qk_int tokens, qk_int columns, uint8_t *out, qk_int out_stride) {
  const float *from[16];
  qk_act_block *to[16];
  int count = 0;
  for (qk_int t = 0; t < tokens; t++)
    for (qk_int b = 0; b < columns / 32; b++) {
      from[count] = x + t * x_stride + 32 * b;
      to[count] = (qk_act_block *)(out + t * out_stride) + b;
      if (++count < 16) continue;
      quantize_blocks(from, 16, to);
      count = 0;
    }
  if (count > 0) quantize_blocks(from, count, to);
}

static void v_quantize_activations(qk_activation kind, const float *x, qk_int x_stride, qk_int tokens, qk_int columns, void *out, qk_int out_stride) {
  const qk_int bytes = qk_activation_bytes(kind, columns);
  if (kind == QK_ACT_Q8) {
    quantize_q8(x, x_stride, tokens, columns, out, out_stride);
    return;
  }
  for (qk_int t = 0; t < tokens; t++) {
    uint8_t *at = (uint8_t *)out + t * out_stride;
    if (kind == QK_ACT_INT16) {
      int16_t *q = (int16_t *)(at + QK_INT16_ACTIVATION_HEAD_BYTES);
      memset(at, 0, QK_INT16_ACTIVATION_HEAD_BYTES);
      const float scale = put_int16(x + t * x_stride, columns, (bytes - QK_INT16_ACTIVATION_HEAD_BYTES) / 2, q);
      memcpy(at, &scale, 4);
    } else {
      memset(at + columns * 2, 0, (size_t)(bytes - columns * 2));
      v_f32_to_bf16(x + t * x_stride, (uint16_t *)at, columns);
    }
  }
}
