// Private body, compiled once per ISA: writing and reading latent cache rows (layout: cache.h). Bit for bit as the scalar
// variant (scalar_attention.c).

/// Up to 128 latents with one scale; returns the sum of their numbers.
INLINE int32_t store_int8_group(const float *x, qk_int count, void *scale_out, int8_t *q) {
  const int32_t bits = largest_bits(x, count);
  const float largest = qk_float_of_bits((uint32_t)bits);
  const bool finite = bits < 0x7F800000, zero = !(largest >= 1e-30f);
  const float scale = !finite ? NAN : zero ? 0 : largest / 127.0f;
  memcpy(scale_out, &scale, 4);
  const vf inverse = f_set1(127.0f / largest);
  vi sum = i_set1(0);
  for (qk_int i = 0; i < count; i += 16) {
    int8_t lanes[16];
    const vi values = finite && !zero ? i_of_f(f_mul(f_loadn(x + i, count - i), inverse)) : i_set1(0);
    sum = i_add(sum, values);
    _mm_storeu_si128((__m128i_u *)lanes, i8_of_i(values));
    memcpy(q + i, lanes, count - i < 16 ? (size_t)(count - i) : 16);
  }
  return i_hsum(sum);
}

/// 16 bytes under 64 -> their 6 bits each in the first 12 bytes: a + 64 b in pairs, then (a + 64 b) + 4096 (c + 64 d), then 3 of 4 bytes.
INLINE __m128i pack_six_bits(__m128i bytes) {
  const __m128i pairs = _mm_maddubs_epi16(bytes, _mm_set1_epi16(0x4001)), words = _mm_madd_epi16(pairs, _mm_set1_epi32(0x10000001));
  return _mm_shuffle_epi8(words, _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
}

/// Up to 32 latents with one scale.
INLINE void store_int6_group(const float *x, qk_int count, void *scale_out, uint8_t *words) {
  const int32_t bits = largest_bits(x, count);
  const float largest = qk_float_of_bits((uint32_t)bits);
  const bool finite = bits < 0x7F800000, zero = !(largest >= 1e-30f);
  const uint16_t scale = !finite ? 0x7FC0 : zero ? 0 : qk_int6_scale(largest);
  memcpy(scale_out, &scale, 2);
  const vf inverse = f_set1(1.0f / qk_float_of_bf16(scale));
  for (qk_int i = 0; i < count; i += 16) {
    uint8_t packed[16];
    const vi values = finite && !zero ? i_of_f(f_mul(f_loadn(x + i, count - i), inverse)) : i_set1(0);
    _mm_storeu_si128((__m128i_u *)packed, pack_six_bits(_mm_and_si128(i8_of_i(values), _mm_set1_epi8(63))));
    memcpy(words + qk_int6_bytes(i), packed, count - i < 16 ? (size_t)qk_int6_bytes(count - i) : 12);
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
  } else if (type == QK_CACHE_INT16) {
    int16_t *q = (int16_t *)(out + QK_INT16_SCALES_BYTES);
    const float scales[2] = {put_int16(latent, c, c, q), put_int16(rope, r, r, q + c)};
    memcpy(out, scales, sizeof scales);
  } else {
    const qk_int group = qk_cache_latents_per_scale(type);
    uint8_t *q = out + qk_cache_latent_offset(type, c, r);
    for (qk_int i = 0; i < c; i += group) {
      const qk_int count = c - i < group ? c - i : group;
      if (type == QK_CACHE_INT8) {
        const int32_t offset = QK_INT8_OFFSET * store_int8_group(latent + i, count, out + i / group * 4, (int8_t *)q + i);
        memcpy(out + 4 * qk_int8_groups(c) + i / group * 4, &offset, 4);
      } else {
        store_int6_group(latent + i, count, out + i / group * 2, q + qk_int6_bytes(i));
      }
    }
    const float scale = put_int16(rope, r, r, (int16_t *)(out + qk_cache_rope_offset(type, c)));
    memcpy(out + qk_cache_rope_scale_offset(type, c), &scale, 4);
  }
}

static void load_int8(const uint8_t *scales, const uint8_t *q, qk_int c, float *latent) {
  qk_int i = 0;
  for (; i + 16 <= c; i += 16)
    f_store(latent + i, f_mul(f_set1(qk_float_of_bits(qk_load32(scales + i / QK_INT8_LATENTS_PER_SCALE * 4))), f_of_i(i_of_i8(load_qs(q + i)))));
  for (; i < c; i++) latent[i] = qk_float_of_bits(qk_load32(scales + i / QK_INT8_LATENTS_PER_SCALE * 4)) * (float)(int8_t)q[i];
}

/// Latents i ..< i + 16 of the c in a row, i a multiple of 16. 16 bytes are read where 12 are meant, but at the end of the row, where that
/// might be one page too far.
INLINE vi load_six_bits(const uint8_t *words, qk_int i, qk_int c) {
  const uint8_t *at = words + i / 4 * 3;
  return i_of_i6(i + 32 <= c ? load_qs(at) : _mm_insert_epi32(_mm_loadl_epi64((const __m128i_u *)at), (int32_t)qk_load32(at + 8), 2));
}

static void load_int6(const uint8_t *scales, const uint8_t *words, qk_int c, float *latent) {
  qk_int i = 0;
  for (; i + 16 <= c; i += 16)
    f_store(latent + i, f_mul(f_set1(qk_float_of_bf16(qk_load16(scales + i / QK_INT6_LATENTS_PER_SCALE * 2))), f_of_i(load_six_bits(words, i, c))));
  for (; i < c; i++) latent[i] = qk_float_of_bf16(qk_load16(scales + i / QK_INT6_LATENTS_PER_SCALE * 2)) * (float)qk_int6_at(words, i);
}

static void load_latent(const qk_pages *p, const uint8_t *row, float *latent) {
  const uint8_t *q = row + qk_cache_latent_offset(p->type, p->c, p->r);
  switch (p->type) {
    case QK_CACHE_F32: memcpy(latent, row, (size_t)p->c * 4); break;
    case QK_CACHE_BF16: v_bf16_to_f32((const uint16_t *)row, latent, p->c); break;
    case QK_CACHE_INT16: load_int16(row, q, p->c, latent); break;
    case QK_CACHE_INT8: load_int8(row, q, p->c, latent); break;
    case QK_CACHE_INT6: load_int6(row, q, p->c, latent); break;
  }
}

static void load_rope(const qk_pages *p, const uint8_t *row, float *rope) {
  const uint8_t *k = row + qk_cache_rope_offset(p->type, p->c);
  if (p->type == QK_CACHE_F32) memcpy(rope, k, (size_t)p->r * 4);
  else if (p->type == QK_CACHE_BF16) v_bf16_to_f32((const uint16_t *)k, rope, p->r);
  else load_int16(row + qk_cache_rope_scale_offset(p->type, p->c), k, p->r, rope);
}

static void v_cache_load_rows(const qk_pages *pages, qk_int begin, qk_int end, float *latent, qk_int latent_stride, float *rope,
                              qk_int rope_stride) {
  for (qk_int p = begin; p < end; p++) {
    const uint8_t *row = qk_cache_row(pages, p);
    if (latent) load_latent(pages, row, latent + (p - begin) * latent_stride);
    if (rope) load_rope(pages, row, rope + (p - begin) * rope_stride);
  }
}
