// Decoders of the formats with super-blocks of 256 elements (SPEC 3.6): Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_XS.
// Plain C, used by the scalar variant and as the oracle of the others.
#include "formats.h"

void qk_decode_q2_k_scales(const uint8_t *b, qk_block *o) {
  const float d = qk_float_of_f16(qk_load16(b + 80)), dmin = qk_float_of_f16(qk_load16(b + 82));
  for (int s = 0; s < 16; s++) {
    o->scale[s] = d * (float)(b[s] & 15);
    o->minimum[s] = dmin * (float)(b[s] >> 4);
  }
}

void qk_decode_q2_k(const uint8_t *b, qk_block *o) {
  for (int i = 0; i < 256; i++) o->q[i] = (int8_t)(b[16 + 32 * (i / 128) + i % 32] >> (2 * (i % 128 / 32)) & 3);
  qk_decode_q2_k_scales(b, o);
}

void qk_decode_q3_k_scales(const uint8_t *b, qk_block *o) {
  const uint8_t *scales = b + 96;
  const float d = qk_float_of_f16(qk_load16(b + 108));
  for (int k = 0; k < 16; k++) {
    const int low = k < 8 ? scales[k] & 15 : scales[k - 8] >> 4;
    const int high = scales[8 + k % 4] >> (2 * (k / 4)) & 3;
    o->scale[k] = d * (float)((low | high << 4) - 32);
  }
}

void qk_decode_q3_k(const uint8_t *b, qk_block *o) {
  const uint8_t *hmask = b, *qs = b + 32;
  for (int i = 0; i < 256; i++) {
    const int n = i / 128, j = i % 128 / 32, l = i % 32;
    o->q[i] = (int8_t)(((qs[32 * n + l] >> (2 * j) & 3) | (hmask[l] >> (4 * n + j) & 1) << 2) - 4);
  }
  qk_decode_q3_k_scales(b, o);
}

void qk_decode_super_scales(const uint8_t *b, qk_block *o) {
  const uint8_t *s = b + 4;
  const float d = qk_float_of_f16(qk_load16(b)), dmin = qk_float_of_f16(qk_load16(b + 2));
  for (int j = 0; j < 8; j++) {
    const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    const int minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
    o->scale[j] = d * (float)scale;
    o->minimum[j] = dmin * (float)minimum;
  }
}

static void super_nibbles(const uint8_t *qs, int8_t *q) {
  for (int t = 0; t < 4; t++)
    for (int l = 0; l < 32; l++) {
      q[64 * t + l] = (int8_t)(qs[32 * t + l] & 15);
      q[64 * t + 32 + l] = (int8_t)(qs[32 * t + l] >> 4);
    }
}

void qk_decode_q4_k(const uint8_t *b, qk_block *o) {
  super_nibbles(b + 16, o->q);
  qk_decode_super_scales(b, o);
}

void qk_decode_q5_k(const uint8_t *b, qk_block *o) {
  super_nibbles(b + 48, o->q);
  for (int i = 0; i < 256; i++) o->q[i] = (int8_t)(o->q[i] | (b[16 + i % 32] >> (i / 32) & 1) << 4);
  qk_decode_super_scales(b, o);
}

void qk_decode_q6_k(const uint8_t *b, qk_block *o) {
  for (int h = 0; h < 2; h++) {
    const uint8_t *low = b + 64 * h, *high = b + 128 + 32 * h;
    int8_t *q = o->q + 128 * h;
    for (int l = 0; l < 32; l++) {
      q[l] = (int8_t)(((low[l] & 15) | (high[l] & 3) << 4) - 32);
      q[32 + l] = (int8_t)(((low[32 + l] & 15) | (high[l] >> 2 & 3) << 4) - 32);
      q[64 + l] = (int8_t)((low[l] >> 4 | (high[l] >> 4 & 3) << 4) - 32);
      q[96 + l] = (int8_t)((low[32 + l] >> 4 | (high[l] >> 6) << 4) - 32);
    }
  }
  const float d = qk_float_of_f16(qk_load16(b + 208));
  for (int s = 0; s < 16; s++) o->scale[s] = d * (float)(int8_t)b[192 + s];
}

void qk_decode_iq4_xs_scales(const uint8_t *b, qk_block *o) {
  const float d = qk_float_of_f16(qk_load16(b));
  const uint16_t high = qk_load16(b + 2);
  for (int s = 0; s < 8; s++) {
    const int scale = (b[4 + s / 2] >> (4 * (s % 2)) & 15) | (high >> (2 * s) & 3) << 4;
    o->scale[s] = d * (float)(scale - 32);
  }
}

void qk_decode_iq4_xs(const uint8_t *b, qk_block *o) {
  for (int s = 0; s < 8; s++)
    for (int r = 0; r < 32; r++) o->q[32 * s + r] = qk_iq4_values[b[8 + 16 * s + r % 16] >> (4 * (r / 16)) & 15];
  qk_decode_iq4_xs_scales(b, o);
}
