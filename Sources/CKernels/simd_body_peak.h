// Private body, compiled once per ISA: the rate of the dot product instructions themselves, for rooflines.

// PEAK_CHAINS are independent sums, so that no instruction waits for the one before: as many as the registers hold.

static qk_int v_peak_int8(qk_int rounds) {
  enum { QUADS = QK_PAIR_SUMS ? 8 : 1 };  // as 4-bit weights, the fastest, are multiplied
  vi sum[PEAK_CHAINS];
  vb w = b_set1(1);
  for (int i = 0; i < PEAK_CHAINS; i++) sum[i] = i_set1(i);
  for (qk_int n = 0; n < rounds; n++) {
    vi pairs[PEAK_CHAINS];
    UNROLL
    for (int j = 0; j < QUADS; j++)
      UNROLL
      for (int i = 0; i < PEAK_CHAINS; i++) {
        b_opaque(&w);  // else what the sums share would be done once
        dot_add(&sum[i], &pairs[i], j, w, 0x01010101, 4);
      }
    UNROLL
    for (int i = 0; i < PEAK_CHAINS; i++) sum[i] = dot_end(sum[i], pairs[i], 4);
    __asm__ volatile("" : "+r"(rounds));  // one round is done after the other
  }
  for (int i = 1; i < PEAK_CHAINS; i++) sum[0] = i_add(sum[0], sum[i]);
  volatile int32_t kept = i_hsum(sum[0]);
  (void)kept;
  return rounds * PEAK_CHAINS * QUADS * 128;
}

static qk_int v_peak_bf16(qk_int rounds) {
  vf sum[PEAK_CHAINS];
  for (int i = 0; i < PEAK_CHAINS; i++) sum[i] = f_zero();
  for (qk_int n = 0; n < rounds; n++) {
#if QK_BF16_DOT
    const __m512bh ones = (__m512bh)i_set1(0x3F803F80);
    for (int i = 0; i < PEAK_CHAINS; i++) sum[i] = _mm512_dpbf16_ps(sum[i], ones, ones);
#else
    for (int i = 0; i < PEAK_CHAINS; i++) sum[i] = f_fma(f_set1(1), f_set1(1), sum[i]);
#endif
    __asm__ volatile("" : "+r"(rounds));
  }
  for (int i = 1; i < PEAK_CHAINS; i++) sum[0] = f_add(sum[0], sum[i]);
  volatile float kept = f_sum(sum[0]);
  (void)kept;
  return rounds * PEAK_CHAINS * (QK_BF16_DOT ? 64 : 32);
}

static qk_int v_peak_int16(qk_int rounds) {
  vi sum[PEAK_CHAINS];
  vi ones = i_set1(0x00010001);
  for (int i = 0; i < PEAK_CHAINS; i++) sum[i] = i_set1(i);
  for (qk_int n = 0; n < rounds; n++) {
    UNROLL
    for (int i = 0; i < PEAK_CHAINS; i++) {
      b_opaque(&ones);
      sum[i] = i_dot16_alone(sum[i], ones, ones);
    }
    __asm__ volatile("" : "+r"(rounds));
  }
  for (int i = 1; i < PEAK_CHAINS; i++) sum[0] = i_add(sum[0], sum[i]);
  volatile int32_t kept = i_hsum(sum[0]);
  (void)kept;
  return rounds * PEAK_CHAINS * 64;
}

static uint64_t v_peak_read(const void *memory, qk_int bytes) {
  vi sum[4] = {i_set1(0), i_set1(0), i_set1(0), i_set1(0)};
  for (const uint8_t *p = memory; p < (const uint8_t *)memory + bytes; p += 256)
    for (int i = 0; i < 4; i++) {
      _mm_prefetch((const char *)p + 64 * i + 4096, _MM_HINT_T1);
      sum[i] = i_add(sum[i], i_load(p + 64 * i));
    }
  return (uint64_t)i_hsum(i_add(i_add(sum[0], sum[1]), i_add(sum[2], sum[3])));
}
