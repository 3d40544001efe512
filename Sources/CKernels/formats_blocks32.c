// Decoders of the formats with blocks of 32 elements (SPEC 3.6): Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL.
// Plain C, used by the scalar variant and as the oracle of the others.
#include "formats.h"

const int8_t qk_iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/// Element i < 16 is the low nibble of qs[i], element 16 + i the high one.
static void nibbles(const uint8_t *qs, int8_t *q) {
  for (int i = 0; i < 16; i++) {
    q[i] = (int8_t)(qs[i] & 15);
    q[i + 16] = (int8_t)(qs[i] >> 4);
  }
}

static void add_fifth_bits(const uint8_t *qh, int8_t *q) {
  const uint32_t h = qk_load32(qh);
  for (int i = 0; i < 32; i++) q[i] = (int8_t)(q[i] | ((h >> i & 1) << 4));
}

void qk_decode_q4_0(const uint8_t *b, qk_block *o) {
  nibbles(b + 2, o->q);
  for (int i = 0; i < 32; i++) o->q[i] -= 8;
  o->scale[0] = qk_float_of_f16(qk_load16(b));
}

void qk_decode_q4_1(const uint8_t *b, qk_block *o) {
  nibbles(b + 4, o->q);
  o->scale[0] = qk_float_of_f16(qk_load16(b));
  o->minimum[0] = -qk_float_of_f16(qk_load16(b + 2));
}

void qk_decode_q5_0(const uint8_t *b, qk_block *o) {
  nibbles(b + 6, o->q);
  add_fifth_bits(b + 2, o->q);
  for (int i = 0; i < 32; i++) o->q[i] -= 16;
  o->scale[0] = qk_float_of_f16(qk_load16(b));
}

void qk_decode_q5_1(const uint8_t *b, qk_block *o) {
  nibbles(b + 8, o->q);
  add_fifth_bits(b + 4, o->q);
  o->scale[0] = qk_float_of_f16(qk_load16(b));
  o->minimum[0] = -qk_float_of_f16(qk_load16(b + 2));
}

void qk_decode_q8_0(const uint8_t *b, qk_block *o) {
  memcpy(o->q, b + 2, 32);
  o->scale[0] = qk_float_of_f16(qk_load16(b));
}

void qk_decode_iq4_nl(const uint8_t *b, qk_block *o) {
  nibbles(b + 2, o->q);
  for (int i = 0; i < 32; i++) o->q[i] = qk_iq4_values[o->q[i]];
  o->scale[0] = qk_float_of_f16(qk_load16(b));
}
