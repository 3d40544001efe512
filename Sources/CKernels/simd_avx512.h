// Private: the AVX-512 form of the primitives that the simd_body_*.h bodies are written in: 16 floats (vf), 16 int32 (vi),
// 64 bytes (vb). Included inside a target attribute region by the simd_avx512*.c files.

typedef __m512 vf;
typedef __m512i vi;
typedef __m512i vb;

enum { DIRECT_TOKENS = 8, QUANT_TOKENS = 8, QUANT_GROUPS = QK_QUANT_GROUPS, DOT_CHAINS = 4, DOT_ROWS = 4, DOT_COLUMNS = 4, DOT_KEYS = 8, KEY_CHAINS = 2, VALUE_ROWS = 8, DIRECT_VALUES = 1,
       BYTE_ROWS = 4, PEAK_CHAINS = 16 };
#define QK_PAIR_SUMS 0

INLINE __mmask16 f_mask(qk_int n) { return n >= 16 ? 0xFFFF : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }
INLINE vf f_load(const void *p) { return _mm512_loadu_ps(p); }
INLINE void f_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
INLINE vf f_loadn(const void *p, qk_int n) { return _mm512_maskz_loadu_ps(f_mask(n), p); }
INLINE void f_storen(float *p, vf v, qk_int n) { _mm512_mask_storeu_ps(p, f_mask(n), v); }
INLINE vf f_set1(float x) { return _mm512_set1_ps(x); }
INLINE vf f_zero(void) { return _mm512_setzero_ps(); }
INLINE vf f_add(vf a, vf b) { return _mm512_add_ps(a, b); }
INLINE vf f_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
INLINE vf f_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
INLINE vf f_div(vf a, vf b) { return _mm512_div_ps(a, b); }
INLINE vf f_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vf f_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
/// a > b ? a : b, so b where either is NaN.
INLINE vf f_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf f_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf f_round(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/// a < limit ? 0 : b.
INLINE vf f_zero_below(vf a, vf limit, vf b) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, limit, _CMP_NLT_UQ), b); }
/// First n lanes of a, the others of b.
INLINE vf f_first(qk_int n, vf a, vf b) { return _mm512_mask_mov_ps(b, f_mask(n), a); }
/// Lanes of a where x > y, the others of b.
INLINE vf f_where_above(vi x, vi y, vf a, vf b) { return _mm512_mask_mov_ps(b, _mm512_cmpgt_epi32_mask(x, y), a); }
INLINE float f_hmax(vf a) { return _mm512_reduce_max_ps(a); }
INLINE __m128 f_fold(vf a) {
  const __m256 h = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  return _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
}

INLINE vi i_set1(int32_t x) { return _mm512_set1_epi32(x); }
INLINE vi i_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE vi i_and(vi a, vi b) { return _mm512_and_si512(a, b); }
INLINE vi i_or(vi a, vi b) { return _mm512_or_si512(a, b); }
INLINE vi i_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
INLINE vi i_max(vi a, vi b) { return _mm512_max_epi32(a, b); }
INLINE vi i_sll(vi a, int n) { return _mm512_slli_epi32(a, (unsigned)n); }
INLINE vi i_srl(vi a, int n) { return _mm512_srli_epi32(a, (unsigned)n); }
INLINE vi i_sra(vi a, int n) { return _mm512_srai_epi32(a, (unsigned)n); }
INLINE int32_t i_hmax(vi a) { return _mm512_reduce_max_epi32(a); }
INLINE int32_t i_hsum(vi a) { return _mm512_reduce_add_epi32(a); }
INLINE vi i_fold(vi a, vi b, bool sum) { return sum ? i_add(a, b) : i_max(a, b); }
/// Lane i: the sum of the lanes of v[i], or the largest of them. In each step half as many vectors hold half as many parts of each.
INLINE vi i_fold16(const vi *v, bool sum) {
  vi four[4];  // lane 4 k + i: a quarter of vector i of these four
  for (int i = 0; i < 16; i += 4) {
    const vi a = i_fold(_mm512_unpacklo_epi32(v[i], v[i + 1]), _mm512_unpackhi_epi32(v[i], v[i + 1]), sum);
    const vi b = i_fold(_mm512_unpacklo_epi32(v[i + 2], v[i + 3]), _mm512_unpackhi_epi32(v[i + 2], v[i + 3]), sum);
    four[i / 4] = i_fold(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b), sum);
  }
  const vi a = i_fold(_mm512_shuffle_i32x4(four[0], four[1], 0x44), _mm512_shuffle_i32x4(four[0], four[1], 0xEE), sum);
  const vi b = i_fold(_mm512_shuffle_i32x4(four[2], four[3], 0x44), _mm512_shuffle_i32x4(four[2], four[3], 0xEE), sum);
  return i_fold(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xDD), sum);
}
INLINE vf f_of_bits(vi a) { return _mm512_castsi512_ps(a); }
INLINE vi bits_of_f(vf a) { return _mm512_castps_si512(a); }
INLINE vf f_of_i(vi a) { return _mm512_cvtepi32_ps(a); }
INLINE vi i_of_f(vf a) { return _mm512_cvtps_epi32(a); }  // nearest even
INLINE vi i_of_u8(__m128i a) { return _mm512_cvtepu8_epi32(a); }
INLINE vi i_of_i8(__m128i a) { return _mm512_cvtepi8_epi32(a); }
/// 16 signed 6-bit numbers in 12 bytes (cache.h): each 24-bit word to four lanes, its number to the top, and down with the sign.
INLINE vi i_of_i6(__m128i a) {
  const __m512i word = _mm512_setr_epi32(0x80020100, 0x80020100, 0x80020100, 0x80020100, 0x80050403, 0x80050403, 0x80050403, 0x80050403,
                                         0x80080706, 0x80080706, 0x80080706, 0x80080706, 0x800B0A09, 0x800B0A09, 0x800B0A09, 0x800B0A09);
  const __m512i up = _mm512_broadcast_i32x4(_mm_setr_epi32(26, 20, 14, 8));
  return i_sra(_mm512_sllv_epi32(_mm512_shuffle_epi8(_mm512_broadcast_i32x4(a), word), up), 26);
}
INLINE __m256i i16_of_i(vi a) { return _mm512_cvtsepi32_epi16(a); }
INLINE vi i_of_i16(const void *p) { return _mm512_cvtepi16_epi32(_mm256_loadu_si256(p)); }
INLINE __m128i i8_of_i(vi a) { return _mm512_cvtsepi32_epi8(a); }
INLINE vf f_of_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
INLINE vf f_of_bf16(const void *p) { return f_of_bits(i_sll(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16)); }
INLINE __m256i u16_of_i(vi a) { return _mm512_cvtepi32_epi16(a); }
INLINE vf f_of_f16_halves(vi a) { return _mm512_cvtph_ps(u16_of_i(a)); }
/// NaN lanes of `test` take `b`, the others `a`.
INLINE vi i_where_nan(vf test, vi a, vi b) { return _mm512_mask_mov_epi32(a, _mm512_cmp_ps_mask(test, test, _CMP_UNORD_Q), b); }
/// 2^n for -126 <= n <= 127.
INLINE vf f_power_of_two(vf n) { return f_of_bits(i_sll(i_add(i_of_f(n), i_set1(127)), 23)); }

/// x 2^n for whole -126 <= n <= 0.
INLINE vf f_scale2(vf x, vf n) { return _mm512_scalef_ps(x, n); }

INLINE vb b_load(const void *p) { return _mm512_loadu_si512(p); }
INLINE void b_store(void *p, vb v) { _mm512_storeu_si512(p, v); }
INLINE vb b_set1(uint8_t x) { return _mm512_set1_epi8((char)x); }
INLINE vb b_set4(uint32_t x) { return _mm512_set1_epi32((int32_t)x); }
INLINE vb b_and(vb a, vb b) { return _mm512_and_si512(a, b); }
INLINE vb b_or(vb a, vb b) { return _mm512_or_si512(a, b); }
/// (byte >> n) & mask and (byte << n) & mask.
INLINE vb b_right(vb a, int n, uint8_t mask) { return b_and(_mm512_srli_epi16(a, (unsigned)n), b_set1(mask)); }
INLINE vb b_left(vb a, int n, uint8_t mask) { return b_and(_mm512_slli_epi16(a, (unsigned)n), b_set1(mask)); }
INLINE vb b_lookup(__m128i table, vb index) { return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), index); }
INLINE vb b_shuffle4(vb a, __m128i index) { return _mm512_shuffle_epi8(a, _mm512_broadcast_i32x4(index)); }
/// `value` in the bytes that have a bit of mask, 0 elsewhere.
INLINE vb b_where_bit(vb a, vb mask, uint8_t value) { return _mm512_maskz_mov_epi8(_mm512_test_epi8_mask(a, mask), b_set1(value)); }
/// Bytes that are 128 too large as signed ones, and back.
INLINE vb b_signed(vb a) { return _mm512_xor_si512(a, b_set1(0x80)); }

/// The same bits, but the compiler does not know it.
INLINE void b_opaque(vb *v) { __asm__ volatile("" : "+v"(*v)); }
/// 32 words of two rows -> pairs (a, b): of each 8 words the first 4, and the last 4. The sums of such pairs in their order again.
INLINE void w_interleave(vb a, vb b, vb *low, vb *high) {
  *low = _mm512_unpacklo_epi16(a, b);
  *high = _mm512_unpackhi_epi16(a, b);
}
/// 64 bytes of four rows -> quads, byte i of each: vector j has those of the columns 16 k + 4 j ... + 3. The sums of such quads in their order.
INLINE void b_interleave4(vb a, vb b, vb c, vb d, vb *out) {
  const vb ab = _mm512_unpacklo_epi8(a, b), cd = _mm512_unpacklo_epi8(c, d), ef = _mm512_unpackhi_epi8(a, b), gh = _mm512_unpackhi_epi8(c, d);
  out[0] = _mm512_unpacklo_epi16(ab, cd);
  out[1] = _mm512_unpackhi_epi16(ab, cd);
  out[2] = _mm512_unpacklo_epi16(ef, gh);
  out[3] = _mm512_unpackhi_epi16(ef, gh);
}
INLINE void f_uninterleave4(vf *v) {
  const vf a = _mm512_shuffle_f32x4(v[0], v[1], 0x44), b = _mm512_shuffle_f32x4(v[2], v[3], 0x44);
  const vf c = _mm512_shuffle_f32x4(v[0], v[1], 0xEE), d = _mm512_shuffle_f32x4(v[2], v[3], 0xEE);
  v[0] = _mm512_shuffle_f32x4(a, b, 0x88);
  v[1] = _mm512_shuffle_f32x4(a, b, 0xDD);
  v[2] = _mm512_shuffle_f32x4(c, d, 0x88);
  v[3] = _mm512_shuffle_f32x4(c, d, 0xDD);
}
INLINE void f_uninterleave(vf low, vf high, vf *first, vf *last) {
  const vf a = _mm512_shuffle_f32x4(low, high, 0x44), b = _mm512_shuffle_f32x4(low, high, 0xEE);  // low 0, 1, high 0, 1; low 2, 3, high 2, 3
  *first = _mm512_shuffle_f32x4(a, a, 0xD8);
  *last = _mm512_shuffle_f32x4(b, b, 0xD8);
}

/// Sixteen rows of 16 words (32 bits, any alignment) -> out[j * stride + i] = row i, word j. Quarters of four rows are brought together
/// by loads, which leaves half the shuffles.
INLINE void transpose_words(const uint32_t *const *rows, uint32_t *out, qk_int stride) {
  vb a[16], b[16];
  for (int q = 0; q < 4; q++)
    for (int i = 0; i < 4; i++) {
      vb v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i_u *)(rows[i] + 4 * q)));
      v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i_u *)(rows[4 + i] + 4 * q)), 1);
      v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i_u *)(rows[8 + i] + 4 * q)), 2);
      a[4 * q + i] = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i_u *)(rows[12 + i] + 4 * q)), 3);
    }
  for (int q = 0; q < 16; q += 4) {  // four words of rows i, 4 + i, 8 + i, 12 + i: a transposition of 4 by 4 in each lane
    b[q] = _mm512_unpacklo_epi32(a[q], a[q + 1]);
    b[q + 1] = _mm512_unpackhi_epi32(a[q], a[q + 1]);
    b[q + 2] = _mm512_unpacklo_epi32(a[q + 2], a[q + 3]);
    b[q + 3] = _mm512_unpackhi_epi32(a[q + 2], a[q + 3]);
    _mm512_storeu_si512(out + q * stride, _mm512_unpacklo_epi64(b[q], b[q + 2]));
    _mm512_storeu_si512(out + (q + 1) * stride, _mm512_unpackhi_epi64(b[q], b[q + 2]));
    _mm512_storeu_si512(out + (q + 2) * stride, _mm512_unpacklo_epi64(b[q + 1], b[q + 3]));
    _mm512_storeu_si512(out + (q + 3) * stride, _mm512_unpackhi_epi64(b[q + 1], b[q + 3]));
  }
}

/// acc + for each of 16 lanes: 2 products of 16-bit numbers.
INLINE vi i_dot16(vi acc, vi a, vi b) { return _mm512_dpwssd_epi32(acc, a, b); }
/// The same as one instruction for sure: clang takes the intrinsic apart into two where it believes that to be shorter, as in a loop that
/// measures it. (Everywhere, this form is slower.)
INLINE vi i_dot16_alone(vi acc, vi a, vi b) {
  __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b));
  return acc;
}
/// acc + for each of 16 lanes: 2 products with the word at `p`, which is read by the instruction itself.
INLINE vi i_dot16_word(vi acc, vi a, const uint8_t *p) {
  __asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(a), "m"(*(const uint32_t *)p));
  return acc;
}

/// acc + for each of 16 lanes: 4 products of unsigned with signed bytes; with the signed word at `p`, which the instruction itself reads.
INLINE vi i_dot8(vi acc, vi a, vi b) { return _mm512_dpbusd_epi32(acc, a, b); }
INLINE vi i_dot8_word(vi acc, vi a, const uint8_t *p) {
  __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(a), "m"(*(const uint32_t *)p));
  return acc;
}

/// acc + for each of 16 rows: 4 weights (unsigned) times 4 activations (signed).
INLINE vi i_dot(vi acc, vb w, int32_t x) { return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x)); }
