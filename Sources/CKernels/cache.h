// Private: where things lie in a cache row (one token of one layer), and how positions find their row.
#ifndef QK_CACHE_H
#define QK_CACHE_H

#include "formats.h"

/// int8 rows: f32 scales [ceil(c / 64)], then bf16 rope [r], then int8 latent [c].
static inline qk_int qk_int8_scales(qk_int c) { return (c + QK_INT8_LATENTS_PER_SCALE - 1) / QK_INT8_LATENTS_PER_SCALE; }
static inline qk_int qk_int8_rope_offset(qk_int c) { return 4 * qk_int8_scales(c); }
static inline qk_int qk_int8_latent_offset(qk_int c, qk_int r) { return qk_int8_rope_offset(c) + 2 * r; }

static inline const uint8_t *qk_cache_row(const qk_pages *p, qk_int position) {
  const qk_int page = p->table[position / p->page_tokens];
  return (const uint8_t *)p->base + page * p->page_stride + position % p->page_tokens * p->row_stride;
}

#endif
