// Private: helpers over the primitives of simd_avx2.h / simd_avx512.h that look the same for every ISA.
// Included inside a target attribute region.

/// Loops over sums in registers, of lengths known when compiled: left as loops, the sums would be arrays in memory.
#define UNROLL _Pragma("clang loop unroll(full)")

/// How weights are fetched from memory between the products. Into the second-level cache, where many lines can be under way at once: the misses
/// of a first-level cache are few on most processors, and waiting for memory they leave none for the rest. Zen 5 has enough of them [M: two cores
/// of Zen 4, GB/s of 1, 2, 4 and 8 tokens, each core on a die of its own: Q4_K 1408x2048 25 24 21 17 into the first level, 51 49 33 18 into the
/// second; Q8_0 512x1024 32 27 25 21 and 38 40 45 39].
enum { FETCH_HINT = QK_FETCH_INTO_L1 ? _MM_HINT_T0 : _MM_HINT_T1 };

/// Tokens up to which weights are read so fast that the hardware's own prefetch does better without ours: on Zen 4 [M: two cores, GB/s with ours
/// and without, each core on a die of its own: Q8_0 512x1024 of 1 to 4 tokens 38 40 44 48, 51 48 50 36; of 1 and 2 tokens Q4_K 2048x2048 52 50,
/// 57 41; Q5_0 2048x1408 50 56, 60 56; Q4_1 2048x2048 47 46, 57 51; Q5_1 46 50, 42 29; Q6_K, whose blocks are two streams, 48 53, 17 16; Q5_K as
/// much with as without. Both on one die: Q8_0 of 3 and 4 tokens 32.9 33.1, 35.1 32.3; of 1 token Q4_K 32.5, 35.2; Q5_0 32.7, 35.2; Q4_0 26.6,
/// 29.0]. Not on Intel [M: two cores of Emerald Rapids: Q4_K of 1 token 23.2, 14.2 and 29.2, 17.3; Q5_0 29.3, 18.6; Q8_0 of 3 27.7, 19.0].
INLINE int hardware_fetches(qk_type type) {
  if (!QK_HARDWARE_FETCHES) return 0;
  switch (type) {
    case QK_Q8_0: return 3;
    case QK_Q4_0:
    case QK_Q4_1:
    case QK_Q5_0:
    case QK_Q4_K: return 1;
    default: return 0;
  }
}

/// step(n, ...) for the n = 1 ... 8 that `count` is, so that loops over n can be unrolled.
#define FOR_COUNT(count, step, ...)               \
  switch (count) {                                \
    case 1: step(1 __VA_OPT__(,) __VA_ARGS__); break; \
    case 2: step(2 __VA_OPT__(,) __VA_ARGS__); break; \
    case 3: step(3 __VA_OPT__(,) __VA_ARGS__); break; \
    case 4: step(4 __VA_OPT__(,) __VA_ARGS__); break; \
    case 5: step(5 __VA_OPT__(,) __VA_ARGS__); break; \
    case 6: step(6 __VA_OPT__(,) __VA_ARGS__); break; \
    case 7: step(7 __VA_OPT__(,) __VA_ARGS__); break; \
    case 8: step(8 __VA_OPT__(,) __VA_ARGS__); break; \
    default: __builtin_unreachable();             \
  }

/// The sums of four vectors, in one fixed order of additions (so a sum's bits do not depend on its neighbours).
INLINE __m128 f_sum4(vf a, vf b, vf c, vf d) {
  return _mm_hadd_ps(_mm_hadd_ps(f_fold(a), f_fold(b)), _mm_hadd_ps(f_fold(c), f_fold(d)));
}
INLINE float f_sum(vf a) {
  const __m128 f = f_fold(a), h = _mm_hadd_ps(f, f);
  return _mm_cvtss_f32(_mm_hadd_ps(h, h));
}

/// e^x, about 1 ulp; 0 below -86.6 (no denormals), +Inf above 88.7, NaN stays NaN.
INLINE vf f_exp(vf x) {
  const vf n = f_round(f_mul(f_max(f_set1(-87.4f), f_min(f_set1(88.8f), x)), f_set1(1.44269504f)));
  vf r = f_fnma(n, f_set1(0.693359375f), f_max(f_set1(-87.4f), f_min(f_set1(88.8f), x)));
  r = f_fnma(n, f_set1(-2.12194440e-4f), r);
  vf p = f_fma(f_set1(1.9875691500e-4f), r, f_set1(1.3981999507e-3f));
  p = f_fma(p, r, f_set1(8.3334519073e-3f));
  p = f_fma(p, r, f_set1(4.1665795894e-2f));
  p = f_fma(p, r, f_set1(1.6666665459e-1f));
  p = f_fma(p, r, f_set1(5.0000001201e-1f));
  p = f_add(f_fma(p, f_mul(r, r), r), f_set1(1.0f));
  const vf half = f_power_of_two(f_sub(n, f_set1(1.0f)));  // n may be 128: scale in two steps
  return f_zero_below(x, f_set1(-86.6f), f_mul(f_mul(p, half), f_set1(2.0f)));
}

/// e^x for x <= 0, about 2 ulp; e^-87 for all below, NaN stays NaN. For weights of a softmax, which need no more.
INLINE vf f_exp_negative(vf x) {
  const vf t = f_mul(f_max(f_set1(-87), x), f_set1(1.44269504f)), n = f_round(t), r = f_sub(t, n);
  vf p = f_fma(f_set1(1.535336188e-4f), r, f_set1(1.339887440e-3f));
  p = f_fma(p, r, f_set1(9.618437357e-3f));
  p = f_fma(p, r, f_set1(5.550332471e-2f));
  p = f_fma(p, r, f_set1(2.402264791e-1f));
  p = f_fma(p, r, f_set1(6.931472028e-1f));
  return f_scale2(f_fma(p, r, f_set1(1.0f)), n);
}

/// 16 floats to bfloat16 in the low half of each lane: nearest even, NaN quiet.
INLINE vi bf16_lanes(vf x) {
  const vi u = bits_of_f(x);
  const vi rounded = i_srl(i_add(i_add(u, i_set1(0x7FFF)), i_and(i_srl(u, 16), i_set1(1))), 16);
  return i_where_nan(x, rounded, i_or(i_srl(u, 16), i_set1(0x40)));
}
INLINE void bf16_store(uint16_t *out, vf x) { _mm256_storeu_si256((__m256i_u *)out, u16_of_i(bf16_lanes(x))); }
INLINE void bf16_storen(uint16_t *out, vf x, qk_int n) {
  if (n >= 16) {
    bf16_store(out, x);
    return;
  }
  uint16_t whole[16];
  bf16_store(whole, x);
  for (qk_int i = 0; i < n; i++) out[i] = whole[i];
}
INLINE vf bf16_loadn(const uint16_t *in, qk_int n) {
  if (n >= 16) return f_of_bf16(in);
  uint16_t whole[16] = {0};
  for (qk_int i = 0; i < n; i++) whole[i] = in[i];
  return f_of_bf16(whole);
}
