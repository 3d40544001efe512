// Private body, compiled once per ISA: writing and reading latent cache rows (layout: cache.h). Bit for bit as the scalar
// variant (scalar_attention.c).

/// Up to 64 latents with one scale.
INLINE void store_int8_group(const float *x, qk_int count, void *scale_out, int8_t *q) {
  const vi magnitude = i_set1(0x7FFFFFFF);
  vi largest_bits = i_set1(0);
  for (qk_int i = 0; i < count; i += 16) largest_bits = i_max(largest_bits, i_and(bits_of_f(f_loadn(x + i, count - i)), magnitude));
  const int32_t bits = i_hmax(largest_bits);
  const float largest = qk_float_of_bits((uint32_t)bits);
  const bool finite = bits < 0x7F800000, zero = !(largest >= 1e-30f);
  const float scale = !finite ? NAN : zero ? 0 : largest / 127.0f;
  memcpy(scale_out, &scale, 4);
  const vf inverse = f_set1(127.0f / largest);
  for (qk_int i = 0; i < count; i += 16) {
    int8_t lanes[16];
    const vi values = finite && !zero ? i_of_f(f_mul(f_loadn(x + i, count - i), inverse)) : i_set1(0);
    _mm_storeu_si128((__m128i_u *)lanes, i8_of_i(values));
    memcpy(q + i, lanes, count - i < 16 ? (size_t)(count - i) : 16);
  }
}

static void v_cache_store_row(qk_cache_type type, qk_int c, qk_int r, const float *latent, const float *rope, void *row) {
  uint8_t *out = row;
  if (type == QK_CACHE_F32) {
    memcpy(out, latent, (size_t)c * 4);
    memcpy(out + 4 * c, rope, (size_t)r * 4);
  } else if (type == QK_CACHE_BF16) {
    v_f32_to_bf16(latent, (uint16_t *)out, c);
    v_f32_to_bf16(rope, (uint16_t *)out + c, r);
  } else {
    int8_t *q = (int8_t *)out + qk_int8_latent_offset(c, r);
    for (qk_int i = 0; i < c; i += QK_INT8_LATENTS_PER_SCALE)
      store_int8_group(latent + i, c - i < QK_INT8_LATENTS_PER_SCALE ? c - i : QK_INT8_LATENTS_PER_SCALE,
                       out + i / QK_INT8_LATENTS_PER_SCALE * 4, q + i);
    v_f32_to_bf16(rope, (uint16_t *)(out + qk_int8_rope_offset(c)), r);
  }
}

static void load_latent(const qk_pages *p, const uint8_t *row, float *latent) {
  const qk_int c = p->c;
  if (p->type == QK_CACHE_F32) {
    memcpy(latent, row, (size_t)c * 4);
  } else if (p->type == QK_CACHE_BF16) {
    v_bf16_to_f32((const uint16_t *)row, latent, c);
  } else {
    const int8_t *q = (const int8_t *)row + qk_int8_latent_offset(c, p->r);
    qk_int i = 0;
    for (; i + 16 <= c; i += 16)
      f_store(latent + i, f_mul(f_set1(qk_float_of_bits(qk_load32(row + i / QK_INT8_LATENTS_PER_SCALE * 4))), f_of_i(i_of_i8(load_qs((const uint8_t *)q + i)))));
    for (; i < c; i++) latent[i] = qk_float_of_bits(qk_load32(row + i / QK_INT8_LATENTS_PER_SCALE * 4)) * (float)q[i];
  }
}

static void load_rope(const qk_pages *p, const uint8_t *row, float *rope) {
  if (p->type == QK_CACHE_F32) memcpy(rope, row + 4 * (qk_int)p->c, (size_t)p->r * 4);
  else v_bf16_to_f32((const uint16_t *)(row + (p->type == QK_CACHE_BF16 ? 2 * (qk_int)p->c : qk_int8_rope_offset(p->c))), rope, p->r);
}

static void v_cache_load_rows(const qk_pages *pages, qk_int begin, qk_int end, float *latent, qk_int latent_stride, float *rope,
                              qk_int rope_stride) {
  for (qk_int p = begin; p < end; p++) {
    const uint8_t *row = qk_cache_row(pages, p);
    if (latent) load_latent(pages, row, latent + (p - begin) * latent_stride);
    if (rope) load_rope(pages, row, rope + (p - begin) * rope_stride);
  }
}
