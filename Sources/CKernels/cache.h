// Private: where things lie in a cache row (one token of one layer), and how positions find their row.
#ifndef QK_CACHE_H
#define QK_CACHE_H

#include "formats.h"

// f32, bf16: latent [c], then rope [r], both in that type.
// int16: f32 scales of the latent and of the rope key, then int16 latent [c], int16 rope [r], each part made by qk_int16_scale's rule.
// int8: f32 scales [g], int32 offsets [g], both for groups of 128 latents (the last may be shorter), then the f32 scale of the rope key, int16
// rope [r], int8 latent [c]. A group's offset is QK_INT8_OFFSET times the sum of its numbers: what a product with queries that are
// 128 too large starts from.
// int6: bf16 scales [ceil(c / 32)], then the f32 scale of the rope key, int16 rope [r], then latents of 6 bits, 4 in 3 bytes: latent i lies in
// bits 6 * (i % 4) ... + 5 of the little-endian 24-bit word i / 4, as a signed number. The latents that fill up the last word are 0.
// A latent is its number times the scale of its group. int16 rope keys are made by qk_int16_scale's rule: finer than bf16, in as many bytes.

/// Rows of 16-bit integers share one scale: |x| / QK_INT16_NORM, so that the Euclidean norm of the integers is at most about 2^15. Each of
/// them then fits into 16 bits, and by the inequality of Cauchy and Schwarz every sum of products of two such rows, whole or in part, into 32.
enum { QK_INT16_NORM = 32700, QK_INT16_SCALES_BYTES = 8, QK_INT8_OFFSET = -128 };

/// What put_int16 of every variant agrees on, for a row whose squares (divided by largest^2 if not `plain`) sum to `squares`: integers are
/// x * first * second, rounded. A row with Inf or NaN gets the scale NaN, so that it shows.
typedef struct qk_int16_rule {
  float scale, first, second;
} qk_int16_rule;

/// Whether a sum of squares is so far from overflow and underflow that no division by the largest magnitude is needed.
static inline bool qk_int16_is_plain(float squares) { return squares >= 1e-24f && squares <= 1e30f; }

static inline qk_int16_rule qk_int16_scale(float norm, float largest) {
  return (qk_int16_rule){.scale = largest * (norm / QK_INT16_NORM), .first = 1.0f / largest, .second = QK_INT16_NORM / norm};
}

/// Latents that share a scale; 0 where there are no scales.
static inline qk_int qk_cache_latents_per_scale(qk_cache_type type) {
  return type == QK_CACHE_INT8 ? QK_INT8_LATENTS_PER_SCALE : type == QK_CACHE_INT6 ? QK_INT6_LATENTS_PER_SCALE : 0;
}

static inline qk_int qk_int8_groups(qk_int c) { return (c + QK_INT8_LATENTS_PER_SCALE - 1) / QK_INT8_LATENTS_PER_SCALE; }

static inline qk_int qk_cache_rope_offset(qk_cache_type type, qk_int c) {
  switch (type) {
    case QK_CACHE_F32: return 4 * c;
    case QK_CACHE_BF16: return 2 * c;
    case QK_CACHE_INT16: return QK_INT16_SCALES_BYTES + 2 * c;
    case QK_CACHE_INT8: return qk_int8_groups(c) * 8 + 4;
    case QK_CACHE_INT6: return (c + QK_INT6_LATENTS_PER_SCALE - 1) / QK_INT6_LATENTS_PER_SCALE * 2 + 4;
  }
  return 0;
}

/// Of the types whose rope key has a scale of its own.
static inline qk_int qk_cache_rope_scale_offset(qk_cache_type type, qk_int c) {
  return type == QK_CACHE_INT16 ? 4 : qk_cache_rope_offset(type, c) - 4;
}

static inline qk_int qk_cache_latent_offset(qk_cache_type type, qk_int c, qk_int r) {
  if (type == QK_CACHE_INT16) return QK_INT16_SCALES_BYTES;
  return qk_cache_latents_per_scale(type) ? qk_cache_rope_offset(type, c) + 2 * r : 0;
}

/// Bytes of `count` 6-bit latents from the start of a word on.
static inline qk_int qk_int6_bytes(qk_int count) { return (count + 3) / 4 * 3; }

/// Latent i of the 6-bit ones at `words`; the shift left drops its neighbours, the one right brings its sign.
static inline int32_t qk_int6_at(const uint8_t *words, qk_int i) {
  const uint8_t *b = words + i / 4 * 3;
  const uint32_t word = b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16;
  return (int32_t)(word << (26 - 6 * (i % 4))) >> 26;
}

/// The scale of an int6 group whose largest magnitude is `largest`, as it is kept: bfloat16, because a latent may be of any size, and
/// because 8 bits are enough beside 6. Numbers are rounded with the kept scale; it is at most 2^-8 too small, so they stay within +-31.
static inline uint16_t qk_int6_scale(float largest) { return qk_bf16_of_float(largest / 31.0f); }

static inline const uint8_t *qk_cache_row(const qk_pages *p, qk_int position) {
  const qk_int page = p->table[position / p->page_tokens];
  return (const uint8_t *)p->base + page * p->page_stride + position % p->page_tokens * p->row_stride;
}

#endif
