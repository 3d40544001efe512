// Private: what the kernels know about each weight format (SPEC 3.6): block sizes, the decoder of one block, and the
// fields of a block that the packed layout interleaves. Also the one definition of the activation row.
#ifndef QK_FORMATS_H
#define QK_FORMATS_H

#include <string.h>

#include "quire_kernels.h"

/// A block's integers and scales: x[i] = scale[i / sub] * q[i] - minimum[i / sub].
typedef struct qk_block {
  int8_t q[256];
  float scale[16];
  float minimum[16];  // written only if the format has minima
} qk_block;

/// Bytes [offset, offset + length) of a block. Packed: unit u of all 16 rows, then unit u + 1 ...
typedef struct qk_field {
  uint8_t offset, length, unit;
} qk_field;

/// INT16: the scale before the integers of a row.
enum { QK_INT16_HEAD_BYTES = 4, QK_INT16_ACTIVATION_HEAD_BYTES = 64 };
enum { QK_MAX_FIELDS = 5, QK_F8_BLOCK = 128, QK_INT8_LATENTS_PER_SCALE = 128, QK_INT6_LATENTS_PER_SCALE = 32 };

typedef struct qk_format {
  int16_t elements, bytes;
  int8_t sub;       // elements per scale: 16 or 32; 0 for formats that are plain numbers
  bool has_minimum;
  void (*decode)(const uint8_t *block, qk_block *out);      // NULL for plain numbers
  float (*value)(const uint8_t *element);                   // NULL for blocks
  qk_field fields[QK_MAX_FIELDS];                            // they cover the block; length 0 ends the list
} qk_format;

/// NULL for an unknown type.
const qk_format *qk_format_of(qk_type type);

/// One group (16 rows) of a packed matrix holds its "units of work" one after the other: a block of every row, or for plain
/// numbers 4 bytes of every row. Number of those per group and bytes of each over the 16 rows.
qk_int qk_packed_group_bytes(qk_type type, qk_int columns);

/// 32 quantised activations of one token, one cache line. A token is a row of these.
typedef struct qk_act_block {
  int8_t q[32];
  float scale;
  float scaled;     // scale * sum
  int32_t offset;   // -128 * sum: where an integer dot product with weights stored 128 too large starts
  int32_t half[2];  // -128 * sum of 16
  int32_t padding[3];
} qk_act_block;

/// Where the block of column `column` (a multiple of 32) begins in a QK_ACT_Q8 row.
static inline qk_int qk_activation_offset(qk_int column) { return column / 32 * (qk_int)sizeof(qk_act_block); }

/// Tokens that are multiplied together, and so share an unpacked tile of weights: their sums and the tile stay in the first-level cache, their
/// activations come from the second each time. Unpacking costs what multiplying two tokens costs, so they are many [M: one core of Zen 5, Q4_K
/// 256x2048, 48 tokens: 629 GOP/s in two blocks of 24, 682 in one of 48; 60: 660 and 682].
enum { QK_TOKEN_BLOCK = 72 };

/// Of `rest` tokens, those of the next of as few blocks as can be, as evenly cut as that allows.
static inline qk_int qk_next_block(qk_int rest) {
  const qk_int blocks = (rest + QK_TOKEN_BLOCK - 1) / QK_TOKEN_BLOCK;
  return (rest + blocks - 1) / blocks;
}

/// Writes what belongs beside the int8 values.
static inline void qk_act_finish(qk_act_block *b, float scale, const int32_t half[2]) {
  const int32_t sum = half[0] + half[1];
  b->scale = scale;
  b->scaled = scale * (float)sum;
  b->offset = -128 * sum;
  b->half[0] = -128 * half[0];
  b->half[1] = -128 * half[1];
  memset(b->padding, 0, sizeof b->padding);
}

static inline uint16_t qk_load16(const void *p) {
  uint16_t v;
  memcpy(&v, p, 2);
  return v;
}

static inline uint32_t qk_load32(const void *p) {
  uint32_t v;
  memcpy(&v, p, 4);
  return v;
}

static inline float qk_float_of_bits(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

static inline uint32_t qk_bits_of_float(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  return bits;
}

/// The largest magnitude, as bits: Inf is larger than all numbers, NaN larger than Inf.
static inline uint32_t qk_largest_bits(const float *x, qk_int count) {
  uint32_t largest = 0;
  for (qk_int i = 0; i < count; i++) {
    const uint32_t bits = qk_bits_of_float(x[i]) & 0x7FFFFFFF;
    if (bits > largest) largest = bits;
  }
  return largest;
}

static inline float qk_float_of_bf16(uint16_t h) { return qk_float_of_bits((uint32_t)h << 16); }

/// Round to nearest even; NaN stays NaN and becomes quiet (SPEC 3.6).
static inline uint16_t qk_bf16_of_float(float f) {
  const uint32_t u = qk_bits_of_float(f);
  if ((u & 0x7FFFFFFF) > 0x7F800000) return (uint16_t)((u >> 16) | 0x40);
  return (uint16_t)((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}

/// IEEE half to float, exact, in integer arithmetic (no F16C needed).
static inline float qk_float_of_f16(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7FFF;
  if (magnitude >= 0x7C00) return qk_float_of_bits(sign | 0x7F800000 | (magnitude & 0x3FF) << 13 | ((magnitude & 0x3FF) ? 0x400000 : 0));
  if (magnitude >= 0x0400) return qk_float_of_bits(sign | ((magnitude << 13) + 0x38000000));
  const float f = (float)magnitude * 0x1p-24f;
  return sign ? -f : f;
}

/// Float to IEEE half, to nearest even; what is too large becomes infinite, NaN stays NaN.
static inline uint16_t qk_f16_of_float(float f) {
  const uint32_t bits = qk_bits_of_float(f), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return (uint16_t)(sign | 0x7E00);
  if (magnitude >= 0x477FF000) return (uint16_t)(sign | 0x7C00);
  // Subnormal: beside 0.5 a float's last bit is worth 2^-24, a half's unit there.
  if (magnitude < 0x38800000) return (uint16_t)(sign | (qk_bits_of_float(qk_float_of_bits(magnitude) + 0.5f) - qk_bits_of_float(0.5f)));
  return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1)) >> 13));
}

/// E4M3FN to float, exact (SPEC 3.3, 6.3).
static inline float qk_float_of_f8(uint8_t x) {
  const uint32_t sign = (uint32_t)(x & 0x80) << 24, m = x & 0x7F;
  if (m == 0x7F) return qk_float_of_bits(sign | 0x7FC00000);
  if (m >= 8) return qk_float_of_bits(sign | ((m << 20) + 0x3C000000));
  const float f = (float)m * 0x1p-9f;
  return sign ? -f : f;
}

// The decoders (formats_blocks32.c, formats_blocks256.c).
void qk_decode_q4_0(const uint8_t *b, qk_block *o);
void qk_decode_q4_1(const uint8_t *b, qk_block *o);
void qk_decode_q5_0(const uint8_t *b, qk_block *o);
void qk_decode_q5_1(const uint8_t *b, qk_block *o);
void qk_decode_q8_0(const uint8_t *b, qk_block *o);
void qk_decode_iq4_nl(const uint8_t *b, qk_block *o);
void qk_decode_q2_k(const uint8_t *b, qk_block *o);
void qk_decode_q3_k(const uint8_t *b, qk_block *o);
void qk_decode_q4_k(const uint8_t *b, qk_block *o);
void qk_decode_q5_k(const uint8_t *b, qk_block *o);
void qk_decode_q6_k(const uint8_t *b, qk_block *o);
void qk_decode_iq4_xs(const uint8_t *b, qk_block *o);
// Scales (and minima) of a super-block alone.
void qk_decode_q2_k_scales(const uint8_t *b, qk_block *o);
void qk_decode_q3_k_scales(const uint8_t *b, qk_block *o);
void qk_decode_super_scales(const uint8_t *b, qk_block *o);  // Q4_K, Q5_K: 6 bits each
void qk_decode_iq4_xs_scales(const uint8_t *b, qk_block *o);
extern const int8_t qk_iq4_values[16];

#endif
