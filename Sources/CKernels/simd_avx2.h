// Private: the AVX2 (+ FMA, F16C) form of the primitives that the simd_body_*.h bodies are written in: the same 16 lanes and
// 64 bytes as AVX-512, as two halves. With QK_AVX_VNNI products are one instruction each. Included inside a target attribute region by
// simd_avx2.c and simd_avxvnni.c.

typedef struct { __m256 a, b; } vf;
typedef struct { __m256i a, b; } vi;
typedef vi vb;

// Products of bytes are added up in 16 bits where there is no VNNI (simd_body_dot.h).
#define QK_PAIR_SUMS (!QK_AVX_VNNI)
enum { DIRECT_TOKENS = QK_PAIR_SUMS ? 4 : 2, QUANT_TOKENS = QK_PAIR_SUMS ? 4 : 2, QUANT_GROUPS = 1, DOT_CHAINS = 1, DOT_ROWS = 2, DOT_COLUMNS = 2, DOT_KEYS = 4, KEY_CHAINS = 1, VALUE_ROWS = 2, DIRECT_VALUES = 0,
       BYTE_ROWS = 1, PEAK_CHAINS = 6 };

#define EACH_F(expr_a, expr_b) ((vf){expr_a, expr_b})
#define EACH_I(expr_a, expr_b) ((vi){expr_a, expr_b})

INLINE __m256i f_mask_half(qk_int n) {
  const int32_t limit = n >= 8 ? 8 : n <= 0 ? 0 : (int32_t)n;
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(limit), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
INLINE vf f_load(const void *p) { return EACH_F(_mm256_loadu_ps(p), _mm256_loadu_ps((const float *)p + 8)); }
INLINE void f_store(float *p, vf v) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}
/// Whole vectors apart: AMD's masked stores take many times as long as others.
INLINE vf f_loadn(const void *p, qk_int n) {
  if (n >= 16) return f_load(p);
  return EACH_F(_mm256_maskload_ps(p, f_mask_half(n)), _mm256_maskload_ps((const float *)p + 8, f_mask_half(n - 8)));
}
INLINE void f_storen(float *p, vf v, qk_int n) {
  if (n >= 16) {
    f_store(p, v);
    return;
  }
  _mm256_maskstore_ps(p, f_mask_half(n), v.a);
  _mm256_maskstore_ps(p + 8, f_mask_half(n - 8), v.b);
}
INLINE vf f_set1(float x) { return EACH_F(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
INLINE vf f_zero(void) { return f_set1(0); }
INLINE vf f_add(vf x, vf y) { return EACH_F(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)); }
INLINE vf f_sub(vf x, vf y) { return EACH_F(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)); }
INLINE vf f_mul(vf x, vf y) { return EACH_F(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)); }
INLINE vf f_div(vf x, vf y) { return EACH_F(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)); }
INLINE vf f_fma(vf x, vf y, vf z) { return EACH_F(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)); }
INLINE vf f_fnma(vf x, vf y, vf z) { return EACH_F(_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)); }
/// x > y ? x : y, so y where either is NaN.
INLINE vf f_max(vf x, vf y) { return EACH_F(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)); }
INLINE vf f_min(vf x, vf y) { return EACH_F(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)); }
#define ROUND_NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)
INLINE vf f_round(vf x) { return EACH_F(_mm256_round_ps(x.a, ROUND_NEAREST), _mm256_round_ps(x.b, ROUND_NEAREST)); }
/// x < limit ? 0 : y.
INLINE vf f_zero_below(vf x, vf limit, vf y) {
  return EACH_F(_mm256_and_ps(_mm256_cmp_ps(x.a, limit.a, _CMP_NLT_UQ), y.a), _mm256_and_ps(_mm256_cmp_ps(x.b, limit.b, _CMP_NLT_UQ), y.b));
}
/// First n lanes of x, the others of y.
INLINE vf f_first(qk_int n, vf x, vf y) {
  return EACH_F(_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(f_mask_half(n))),
                _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(f_mask_half(n - 8))));
}
/// Lanes of a where x > y, the others of b.
INLINE vf f_where_above(vi x, vi y, vf a, vf b) {
  return EACH_F(_mm256_blendv_ps(b.a, a.a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(x.a, y.a))),
                _mm256_blendv_ps(b.b, a.b, _mm256_castsi256_ps(_mm256_cmpgt_epi32(x.b, y.b))));
}
INLINE float f_hmax(vf x) {
  const __m256 h = _mm256_max_ps(x.a, x.b);
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
INLINE __m128 f_fold(vf x) {
  const __m256 h = _mm256_add_ps(x.a, x.b);
  return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}

INLINE vi i_set1(int32_t x) { return EACH_I(_mm256_set1_epi32(x), _mm256_set1_epi32(x)); }
INLINE vi i_load(const void *p) { return EACH_I(_mm256_loadu_si256(p), _mm256_loadu_si256((const __m256i_u *)p + 1)); }
INLINE vi i_and(vi x, vi y) { return EACH_I(_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)); }
INLINE vi i_or(vi x, vi y) { return EACH_I(_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)); }
INLINE vi i_add(vi x, vi y) { return EACH_I(_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)); }
INLINE vi i_max(vi x, vi y) { return EACH_I(_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)); }
INLINE vi i_sll(vi x, int n) { return EACH_I(_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)); }
INLINE vi i_srl(vi x, int n) { return EACH_I(_mm256_srli_epi32(x.a, n), _mm256_srli_epi32(x.b, n)); }
INLINE vi i_sra(vi x, int n) { return EACH_I(_mm256_srai_epi32(x.a, n), _mm256_srai_epi32(x.b, n)); }
INLINE int32_t i_hmax(vi x) {
  const __m256i h = _mm256_max_epi32(x.a, x.b);
  __m128i q = _mm_max_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  q = _mm_max_epi32(q, _mm_shuffle_epi32(q, 0x4E));
  return _mm_cvtsi128_si32(_mm_max_epi32(q, _mm_shuffle_epi32(q, 0xB1)));
}
INLINE int32_t i_hsum(vi x) {
  const __m256i h = _mm256_add_epi32(x.a, x.b);
  __m128i q = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xB1)));
}
INLINE __m256i fold_half(__m256i x, __m256i y, bool sum) { return sum ? _mm256_add_epi32(x, y) : _mm256_max_epi32(x, y); }
INLINE __m256i fold8(const vi *v, bool sum) {
  __m256i four[2];  // lane 4 k + i: a half of vector i of these four
  for (int i = 0; i < 8; i += 4) {
    __m256i h[4];
    for (int j = 0; j < 4; j++) h[j] = fold_half(v[i + j].a, v[i + j].b, sum);
    const __m256i x = fold_half(_mm256_unpacklo_epi32(h[0], h[1]), _mm256_unpackhi_epi32(h[0], h[1]), sum);
    const __m256i y = fold_half(_mm256_unpacklo_epi32(h[2], h[3]), _mm256_unpackhi_epi32(h[2], h[3]), sum);
    four[i / 4] = fold_half(_mm256_unpacklo_epi64(x, y), _mm256_unpackhi_epi64(x, y), sum);
  }
  return fold_half(_mm256_permute2x128_si256(four[0], four[1], 0x20), _mm256_permute2x128_si256(four[0], four[1], 0x31), sum);
}
/// Lane i: the sum of the lanes of v[i], or the largest of them. In each step half as many vectors hold half as many parts of each.
INLINE vi i_fold16(const vi *v, bool sum) { return EACH_I(fold8(v, sum), fold8(v + 8, sum)); }
INLINE vf f_of_bits(vi x) { return EACH_F(_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)); }
INLINE vi bits_of_f(vf x) { return EACH_I(_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)); }
INLINE vf f_of_i(vi x) { return EACH_F(_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)); }
INLINE vi i_of_f(vf x) { return EACH_I(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)); }  // nearest even
INLINE vi i_of_u8(__m128i x) { return EACH_I(_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))); }
INLINE vi i_of_i8(__m128i x) { return EACH_I(_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))); }
/// 16 signed 6-bit numbers in 12 bytes (cache.h): each 24-bit word to four lanes, its number to the top, and down with the sign.
INLINE vi i_of_i6(__m128i x) {
  const int a = (int)0x80020100, b = (int)0x80050403, c = (int)0x80080706, d = (int)0x800B0A09;
  const __m256i both = _mm256_broadcastsi128_si256(x), up = _mm256_setr_epi32(26, 20, 14, 8, 26, 20, 14, 8);
  const __m256i low = _mm256_shuffle_epi8(both, _mm256_setr_epi32(a, a, a, a, b, b, b, b));
  const __m256i high = _mm256_shuffle_epi8(both, _mm256_setr_epi32(c, c, c, c, d, d, d, d));
  return i_sra(EACH_I(_mm256_sllv_epi32(low, up), _mm256_sllv_epi32(high, up)), 26);
}
INLINE __m256i i16_of_i(vi x) { return _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xD8); }
INLINE vi i_of_i16(const void *p) {
  return EACH_I(_mm256_cvtepi16_epi32(_mm_loadu_si128(p)), _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i_u *)p + 1)));
}
/// The low 16 bits of each lane.
INLINE __m256i u16_of_i(vi x) {
  const __m256i low = _mm256_set1_epi32(0xFFFF);
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(_mm256_and_si256(x.a, low), _mm256_and_si256(x.b, low)), 0xD8);
}
INLINE __m128i i8_of_i(vi x) {
  const __m256i h = i16_of_i(x);
  return _mm_packs_epi16(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
}
INLINE vf f_of_f16(const void *p) {
  return EACH_F(_mm256_cvtph_ps(_mm_loadu_si128(p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u *)p + 1)));
}
INLINE vf f_of_bf16(const void *p) {
  return f_of_bits(i_sll(EACH_I(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i_u *)p + 1))), 16));
}
INLINE vf f_of_f16_halves(vi x) {
  const __m256i h = u16_of_i(x);
  return EACH_F(_mm256_cvtph_ps(_mm256_castsi256_si128(h)), _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)));
}
/// NaN lanes of `test` take y, the others x.
INLINE vi i_where_nan(vf test, vi x, vi y) {
  const __m256i ma = _mm256_castps_si256(_mm256_cmp_ps(test.a, test.a, _CMP_UNORD_Q)), mb = _mm256_castps_si256(_mm256_cmp_ps(test.b, test.b, _CMP_UNORD_Q));
  return EACH_I(_mm256_blendv_epi8(x.a, y.a, ma), _mm256_blendv_epi8(x.b, y.b, mb));
}
/// 2^n for -126 <= n <= 127.
INLINE vf f_power_of_two(vf n) { return f_of_bits(i_sll(i_add(i_of_f(n), i_set1(127)), 23)); }

/// x 2^n for whole -126 <= n <= 0.
INLINE vf f_scale2(vf x, vf n) { return f_mul(x, f_power_of_two(n)); }

INLINE vb b_load(const void *p) { return i_load(p); }
INLINE void b_store(void *p, vb v) {
  _mm256_storeu_si256(p, v.a);
  _mm256_storeu_si256((__m256i_u *)p + 1, v.b);
}
INLINE vb b_set1(uint8_t x) { return EACH_I(_mm256_set1_epi8((char)x), _mm256_set1_epi8((char)x)); }
INLINE vb b_set4(uint32_t x) { return i_set1((int32_t)x); }
INLINE vb b_and(vb x, vb y) { return i_and(x, y); }
INLINE vb b_or(vb x, vb y) { return i_or(x, y); }
/// (byte >> n) & mask and (byte << n) & mask.
INLINE vb b_right(vb x, int n, uint8_t mask) { return b_and(EACH_I(_mm256_srli_epi16(x.a, n), _mm256_srli_epi16(x.b, n)), b_set1(mask)); }
INLINE vb b_left(vb x, int n, uint8_t mask) { return b_and(EACH_I(_mm256_slli_epi16(x.a, n), _mm256_slli_epi16(x.b, n)), b_set1(mask)); }
INLINE vb b_lookup(__m128i table, vb index) {
  const __m256i t = _mm256_broadcastsi128_si256(table);
  return EACH_I(_mm256_shuffle_epi8(t, index.a), _mm256_shuffle_epi8(t, index.b));
}
INLINE vb b_shuffle4(vb x, __m128i index) {
  const __m256i s = _mm256_broadcastsi128_si256(index);
  return EACH_I(_mm256_shuffle_epi8(x.a, s), _mm256_shuffle_epi8(x.b, s));
}
/// `value` in the bytes that have the (one) bit of mask, 0 elsewhere.
INLINE vb b_where_bit(vb x, vb mask, uint8_t value) {
  const vb hit = b_and(x, mask);
  return b_and(EACH_I(_mm256_cmpeq_epi8(hit.a, mask.a), _mm256_cmpeq_epi8(hit.b, mask.b)), b_set1(value));
}
/// Bytes that are 128 too large as signed ones, and back.
INLINE vb b_signed(vb x) {
  const __m256i top = _mm256_set1_epi8((char)0x80);
  return EACH_I(_mm256_xor_si256(x.a, top), _mm256_xor_si256(x.b, top));
}

/// The same bits, but the compiler does not know it.
INLINE void b_opaque(vb *v) { __asm__ volatile("" : "+x"(v->a), "+x"(v->b)); }
/// 32 words of two rows -> pairs (x, y): of each 8 words the first 4, and the last 4. The sums of such pairs in their order again.
INLINE void w_interleave(vb x, vb y, vb *low, vb *high) {
  *low = EACH_I(_mm256_unpacklo_epi16(x.a, y.a), _mm256_unpacklo_epi16(x.b, y.b));
  *high = EACH_I(_mm256_unpackhi_epi16(x.a, y.a), _mm256_unpackhi_epi16(x.b, y.b));
}
/// 64 bytes of four rows -> quads, byte i of each: vector j has those of the columns 16 k + 4 j ... + 3. The sums of such quads in their order.
INLINE void interleave4_half(__m256i x, __m256i y, __m256i z, __m256i w, __m256i *out) {
  const __m256i a = _mm256_unpacklo_epi8(x, y), b = _mm256_unpacklo_epi8(z, w), c = _mm256_unpackhi_epi8(x, y), d = _mm256_unpackhi_epi8(z, w);
  out[0] = _mm256_unpacklo_epi16(a, b);
  out[1] = _mm256_unpackhi_epi16(a, b);
  out[2] = _mm256_unpacklo_epi16(c, d);
  out[3] = _mm256_unpackhi_epi16(c, d);
}
INLINE void b_interleave4(vb x, vb y, vb z, vb w, vb *out) {
  __m256i a[4], b[4];
  interleave4_half(x.a, y.a, z.a, w.a, a);
  interleave4_half(x.b, y.b, z.b, w.b, b);
  for (int i = 0; i < 4; i++) out[i] = EACH_I(a[i], b[i]);
}
INLINE void f_uninterleave4(vf *v) {
  const vf first = EACH_F(_mm256_permute2f128_ps(v[0].a, v[1].a, 0x20), _mm256_permute2f128_ps(v[2].a, v[3].a, 0x20));
  const vf second = EACH_F(_mm256_permute2f128_ps(v[0].a, v[1].a, 0x31), _mm256_permute2f128_ps(v[2].a, v[3].a, 0x31));
  const vf third = EACH_F(_mm256_permute2f128_ps(v[0].b, v[1].b, 0x20), _mm256_permute2f128_ps(v[2].b, v[3].b, 0x20));
  v[3] = EACH_F(_mm256_permute2f128_ps(v[0].b, v[1].b, 0x31), _mm256_permute2f128_ps(v[2].b, v[3].b, 0x31));
  v[0] = first, v[1] = second, v[2] = third;
}
INLINE void f_uninterleave(vf low, vf high, vf *first, vf *last) {
  *first = EACH_F(_mm256_permute2f128_ps(low.a, high.a, 0x20), _mm256_permute2f128_ps(low.a, high.a, 0x31));
  *last = EACH_F(_mm256_permute2f128_ps(low.b, high.b, 0x20), _mm256_permute2f128_ps(low.b, high.b, 0x31));
}

/// Eight rows of 8 words -> out[j * stride + i] = row i, word j.
INLINE void transpose_words8(const uint32_t *const *rows, qk_int at, uint32_t *out, qk_int stride) {
  __m256i a[8], b[8];
  for (int i = 0; i < 8; i++) a[i] = _mm256_loadu_si256((const __m256i_u *)(rows[i] + at));
  for (int i = 0; i < 8; i += 2) {
    b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    a[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  for (int w = 0; w < 4; w++) {
    _mm256_storeu_si256((__m256i_u *)(out + w * stride), _mm256_permute2x128_si256(a[w], a[4 + w], 0x20));
    _mm256_storeu_si256((__m256i_u *)(out + (4 + w) * stride), _mm256_permute2x128_si256(a[w], a[4 + w], 0x31));
  }
}
/// Sixteen rows of 16 words (32 bits, any alignment) -> out[j * stride + i] = row i, word j.
INLINE void transpose_words(const uint32_t *const *rows, uint32_t *out, qk_int stride) {
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 16; j += 8) transpose_words8(rows + i, j, out + j * stride + i, stride);
}

/// acc + for each of 16 lanes: 2 products of 16-bit numbers.
INLINE vi i_dot16(vi acc, vi x, vi y) {
#if QK_AVX_VNNI
  return EACH_I(_mm256_dpwssd_avx_epi32(acc.a, x.a, y.a), _mm256_dpwssd_avx_epi32(acc.b, x.b, y.b));
#else
  return EACH_I(_mm256_add_epi32(acc.a, _mm256_madd_epi16(x.a, y.a)), _mm256_add_epi32(acc.b, _mm256_madd_epi16(x.b, y.b)));
#endif
}
/// The same with the word at `p` in all lanes.
INLINE vi i_dot16_word(vi acc, vi x, const uint8_t *p) { return i_dot16(acc, x, i_set1((int32_t)qk_load32(p))); }
INLINE vi i_dot16_alone(vi acc, vi x, vi y) { return i_dot16(acc, x, y); }

#if QK_AVX_VNNI
/// acc + for each of 16 lanes: 4 products of unsigned with signed bytes; with the signed word at `p`.
INLINE vi i_dot8(vi acc, vi x, vi y) { return EACH_I(_mm256_dpbusd_avx_epi32(acc.a, x.a, y.a), _mm256_dpbusd_avx_epi32(acc.b, x.b, y.b)); }
INLINE vi i_dot8_word(vi acc, vi x, const uint8_t *p) { return i_dot8(acc, x, i_set1((int32_t)qk_load32(p))); }

/// acc + for each of 16 rows: 4 weights (unsigned) times 4 activations (signed).
INLINE vi i_dot(vi acc, vb w, int32_t x) { return i_dot8(acc, w, i_set1(x)); }
#else
/// Unsigned bytes times signed ones, pairs of products added up, saturated to 16 bits.
INLINE vi b_dot_pairs(vb x, vb y) { return EACH_I(_mm256_maddubs_epi16(x.a, y.a), _mm256_maddubs_epi16(x.b, y.b)); }
INLINE vb b_abs(vb x) { return EACH_I(_mm256_abs_epi8(x.a), _mm256_abs_epi8(x.b)); }
/// x, with the sign of y.
INLINE vb b_sign(vb x, vb y) { return EACH_I(_mm256_sign_epi8(x.a, y.a), _mm256_sign_epi8(x.b, y.b)); }
/// Sums of 16-bit lanes.
INLINE vi w_add(vi x, vi y) { return EACH_I(_mm256_add_epi16(x.a, y.a), _mm256_add_epi16(x.b, y.b)); }
#endif
