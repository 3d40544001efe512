// Floats to Q8_0 (SPEC 3.6): for matrices that do not lie in the file as the kernels want them, once, at load.
#include <math.h>
#include <string.h>

#include "formats.h"

enum { ELEMENTS = 32, LARGEST = 127 };

static void encode_block(const float *x, uint8_t *out) {
  const uint32_t largest = qk_largest_bits(x, ELEMENTS);
  const bool finite = largest < 0x7F800000;
  // What is infinite or not a number makes the block's products NaN, as its own would be.
  const uint16_t scale = finite ? qk_f16_of_float(qk_float_of_bits(largest) / LARGEST) : 0x7E00;
  const float unit = qk_float_of_f16(scale);  // as the kernels will have it, so that rounding it costs nothing
  memcpy(out, &scale, sizeof scale);
  for (int i = 0; i < ELEMENTS; i++) {
    const float q = finite && unit > 0 ? rintf(x[i] / unit) : 0;
    out[sizeof scale + i] = (uint8_t)(int8_t)(q > LARGEST ? LARGEST : q < -LARGEST ? -LARGEST : q);
  }
}

void qk_encode_q8_0(const float *x, qk_int columns, void *out) {
  const qk_int bytes = qk_block_bytes(QK_Q8_0);
  for (qk_int b = 0; b < columns / ELEMENTS; b++) encode_block(x + b * ELEMENTS, (uint8_t *)out + b * bytes);
}
