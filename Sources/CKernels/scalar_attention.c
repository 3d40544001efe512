// The scalar variant's latent cache rows and attention (SPEC 2.4): one query row, one key after the other, in tiles of
// QK_KEY_TILE keys with a running softmax. The oracle of the vector variants.
#include <math.h>

#include "scalar.h"

QK_STRICT_FLOAT

/// Up to 128 latents with one scale = max|x| / 127. Inf or NaN among them: the scale becomes NaN, so that it shows. Returns their sum.
static int32_t store_int8_group(const float *x, qk_int count, void *scale_out, int8_t *q) {
  const uint32_t largest = qk_largest_bits(x, count);
  const bool finite = largest < 0x7F800000, zero = !(qk_float_of_bits(largest) >= 1e-30f);
  const float scale = !finite ? NAN : zero ? 0 : qk_float_of_bits(largest) / 127.0f;
  const float inverse = finite && !zero ? 127.0f / qk_float_of_bits(largest) : 0;
  memcpy(scale_out, &scale, 4);
  int32_t sum = 0;
  for (qk_int i = 0; i < count; i++) sum += q[i] = inverse == 0 ? 0 : (int8_t)lrintf(x[i] * inverse);
  return sum;
}

/// Up to 32 latents with one scale of about max|x| / 31, and zeros up to a whole word. Inf and NaN as with int8.
static void store_int6_group(const float *x, qk_int count, void *scale_out, uint8_t *words) {
  const uint32_t largest = qk_largest_bits(x, count);
  const bool finite = largest < 0x7F800000, zero = !(qk_float_of_bits(largest) >= 1e-30f);
  const uint16_t scale = !finite ? 0x7FC0 : zero ? 0 : qk_int6_scale(qk_float_of_bits(largest));
  const float inverse = finite && !zero ? 1.0f / qk_float_of_bf16(scale) : 0;
  memcpy(scale_out, &scale, 2);
  for (qk_int i = 0; i < count; i += 4, words += 3) {
    uint32_t word = 0;
    for (qk_int j = i; j < count && j < i + 4; j++)
      if (inverse != 0) word |= ((uint32_t)lrintf(x[j] * inverse) & 63) << 6 * (j - i);
    for (int b = 0; b < 3; b++) words[b] = (uint8_t)(word >> 8 * b);
  }
}

/// Squares of x * factor in 16 chains (chain i: elements i, i + 16 ...), folded as the vector variants fold their lanes.
static float sum_of_squares(const float *x, qk_int count, float factor) {
  float sum[16] = {0};
  for (qk_int i = 0; i < count; i++) {
    const float v = x[i] * factor;
    sum[i % 16] += v * v;
  }
  for (int width = 8; width >= 4; width /= 2)
    for (int i = 0; i < width; i++) sum[i] += sum[i + width];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

float qk_scalar_put_int16(const float *x, qk_int count, void *out) {
  float squares = sum_of_squares(x, count, 1), largest = 1;
  if (!qk_int16_is_plain(squares)) {
    largest = qk_float_of_bits(qk_largest_bits(x, count));
    if (!(largest >= 1e-30f && largest <= 3.4028235e38f)) {
      memset(out, 0, (size_t)count * 2);
      return largest < 1e-30f ? 0 : NAN;
    }
    squares = sum_of_squares(x, count, 1.0f / largest);
  }
  const qk_int16_rule rule = qk_int16_scale(sqrtf(squares), largest);
  for (qk_int i = 0; i < count; i++) {
    const int16_t q = (int16_t)lrintf(x[i] * rule.first * rule.second);
    memcpy((uint8_t *)out + 2 * i, &q, 2);
  }
  return rule.scale;
}

void qk_scalar_cache_store_row(qk_cache_type type, qk_int c, qk_int r, const float *latent, const float *rope, void *row) {
  uint8_t *out = row;
  if (type == QK_CACHE_F32) {
    memcpy(out, latent, (size_t)c * 4);
    memcpy(out + 4 * c, rope, (size_t)r * 4);
  } else if (type == QK_CACHE_BF16) {
    qk_scalar_f32_to_bf16(latent, (uint16_t *)out, c);
    qk_scalar_f32_to_bf16(rope, (uint16_t *)out + c, r);
  } else if (type == QK_CACHE_INT16) {
    const float scales[2] = {qk_scalar_put_int16(latent, c, out + QK_INT16_SCALES_BYTES), qk_scalar_put_int16(rope, r, out + QK_INT16_SCALES_BYTES + 2 * c)};
    memcpy(out, scales, sizeof scales);
  } else {
    const qk_int group = qk_cache_latents_per_scale(type);
    uint8_t *q = out + qk_cache_latent_offset(type, c, r);
    for (qk_int first = 0; first < c; first += group) {
      const qk_int count = c - first < group ? c - first : group;
      if (type == QK_CACHE_INT8) {
        const int32_t offset = QK_INT8_OFFSET * store_int8_group(latent + first, count, out + first / group * 4, (int8_t *)q + first);
        memcpy(out + 4 * qk_int8_groups(c) + first / group * 4, &offset, 4);
      } else {
        store_int6_group(latent + first, count, out + first / group * 2, q + qk_int6_bytes(first));
      }
    }
    const float scale = qk_scalar_put_int16(rope, r, out + qk_cache_rope_offset(type, c));
    memcpy(out + qk_cache_rope_scale_offset(type, c), &scale, 4);
  }
}

static float load_latent(const qk_pages *p, const uint8_t *row, qk_int i) {
  const uint8_t *q = row + qk_cache_latent_offset(p->type, p->c, p->r);
  switch (p->type) {
    case QK_CACHE_F32: return qk_float_of_bits(qk_load32(row + 4 * i));
    case QK_CACHE_BF16: return qk_float_of_bf16(qk_load16(row + 2 * i));
    case QK_CACHE_INT16: return qk_float_of_bits(qk_load32(row)) * (float)(int16_t)qk_load16(q + 2 * i);
    case QK_CACHE_INT8: return qk_float_of_bits(qk_load32(row + i / QK_INT8_LATENTS_PER_SCALE * 4)) * (float)(int8_t)q[i];
    case QK_CACHE_INT6: return qk_float_of_bf16(qk_load16(row + i / QK_INT6_LATENTS_PER_SCALE * 2)) * (float)qk_int6_at(q, i);
  }
  return 0;
}

static float load_rope(const qk_pages *p, const uint8_t *row, qk_int i) {
  const uint8_t *k = row + qk_cache_rope_offset(p->type, p->c);
  switch (p->type) {
    case QK_CACHE_F32: return qk_float_of_bits(qk_load32(k + 4 * i));
    case QK_CACHE_BF16: return qk_float_of_bf16(qk_load16(k + 2 * i));
    default: return qk_float_of_bits(qk_load32(row + qk_cache_rope_scale_offset(p->type, p->c))) * (float)(int16_t)qk_load16(k + 2 * i);
  }
}

static void load_row(const qk_pages *p, qk_int position, float *latent, float *rope) {
  const uint8_t *row = qk_cache_row(p, position);
  for (qk_int i = 0; latent && i < p->c; i++) latent[i] = load_latent(p, row, i);
  for (qk_int i = 0; rope && i < p->r; i++) rope[i] = load_rope(p, row, i);
}

void qk_scalar_cache_load_rows(const qk_pages *pages, qk_int begin, qk_int end, float *latent, qk_int latent_stride, float *rope,
                               qk_int rope_stride) {
  for (qk_int p = begin; p < end; p++)
    load_row(pages, p, latent ? latent + (p - begin) * latent_stride : NULL, rope ? rope + (p - begin) * rope_stride : NULL);
}

/// Keys of one tile as the caller has them: parts a [na] and b [nb] of a key, and its value [nv].
typedef struct tile {
  const float *a, *b, *value;
  qk_int a_stride, b_stride, value_stride, na, nb, nv, keys;
} tile;

/// One query row against the tile: m, l, u of that row go on.
static void attend(const float *q, const tile *t, float *m, float *l, float *u) {
  float score[QK_KEY_TILE], largest = *m;
  for (qk_int s = 0; s < t->keys; s++) {
    float sum = 0;
    for (qk_int i = 0; i < t->na; i++) sum += q[i] * t->a[s * t->a_stride + i];
    for (qk_int i = 0; i < t->nb; i++) sum += q[t->na + i] * t->b[s * t->b_stride + i];
    score[s] = sum;
    largest = sum > largest ? sum : largest;
  }
  if (largest == -INFINITY) return;
  const float old = expf(*m - largest);
  *m = largest;
  *l *= old;
  for (qk_int i = 0; i < t->nv; i++) u[i] *= old;
  for (qk_int s = 0; s < t->keys; s++) {
    const float p = expf(score[s] - largest);
    *l += p;
    for (qk_int i = 0; i < t->nv; i++) u[i] += p * t->value[s * t->value_stride + i];
  }
}

void qk_scalar_attention_reset(const qk_softmax_state *s, qk_int rows, qk_int width) {
  for (qk_int i = 0; i < rows; i++) {
    s->m[i] = -INFINITY;
    s->l[i] = 0;
    for (qk_int j = 0; j < width; j++) s->u[i * s->u_stride + j] = 0;
  }
}

static qk_int smaller(qk_int a, qk_int b) { return a < b ? a : b; }

/// Keys [begin, end) of one split.
static void latent_split(const qk_latent_attention *a, qk_int begin, qk_int end, const qk_softmax_state *s, float *keys) {
  const qk_int c = a->pages.c, r = a->pages.r, width = c + r;
  qk_scalar_attention_reset(s, (qk_int)a->tokens * a->heads, c);
  for (qk_int k = begin; k < end; k += QK_KEY_TILE) {
    const qk_int stop = smaller(end, k + QK_KEY_TILE);
    qk_scalar_cache_load_rows(&a->pages, k, stop, keys, width, keys + c, width);
    for (qk_int i = 0; i < (qk_int)a->tokens * a->heads; i++) {
      const qk_int seen = smaller(stop, a->first_position + i / a->heads + 1) - k;
      const tile t = {keys, keys + c, keys, width, width, width, c, r, c, seen};
      if (seen > 0) attend(a->q + i * a->q_stride, &t, &s->m[i], &s->l[i], s->u + i * s->u_stride);
    }
  }
}

void qk_scalar_attention_latent(const qk_latent_attention *a, void *scratch) {
  const qk_int rows = (qk_int)a->tokens * a->heads, c = a->pages.c, width = c + a->pages.r;
  const qk_int end = smaller(a->end, a->first_position + a->tokens);
  float *keys = scratch;  // [QK_KEY_TILE, width]
  float *u = keys + QK_KEY_TILE * width, *m = u + rows * c, *l = m + rows;
  const qk_softmax_state part = {.m = m, .l = l, .u = u, .u_stride = c};
  qk_int split_end = smaller(end, (a->begin / QK_SPLIT + 1) * QK_SPLIT);
  latent_split(a, a->begin, split_end, &a->state, keys);
  while (split_end < end) {
    const qk_int begin = split_end;
    split_end = smaller(end, begin + QK_SPLIT);
    latent_split(a, begin, split_end, &part, keys);
    qk_scalar_attention_merge(&a->state, &part, rows, c);
  }
}

void qk_scalar_attention_expanded(const qk_expanded_attention *a, void *scratch) {
  const qk_int r = a->pages.r, end = smaller(a->end, a->first_position + a->tokens);
  float *rope = scratch;  // [QK_KEY_TILE, r]
  for (qk_int k = a->begin; k < end; k += QK_KEY_TILE) {
    const qk_int stop = smaller(end, k + QK_KEY_TILE);
    qk_scalar_cache_load_rows(&a->pages, k, stop, NULL, 0, rope, r);
    for (qk_int i = 0; i < a->tokens; i++) {
      const qk_int seen = smaller(stop, a->first_position + i + 1) - k, at = k - a->begin;
      const tile t = {a->k + at * a->k_stride, rope, a->values + at * a->v_stride, a->k_stride, r, a->v_stride, a->n, r, a->v, seen};
      if (seen > 0) attend(a->q + i * a->q_stride, &t, &a->state.m[i], &a->state.l[i], a->state.u + i * a->state.u_stride);
    }
  }
}

void qk_scalar_attention_merge(const qk_softmax_state *into, const qk_softmax_state *from, qk_int rows, qk_int width) {
  for (qk_int i = 0; i < rows; i++) {
    if (from->m[i] == -INFINITY) continue;
    const float m = into->m[i] > from->m[i] ? into->m[i] : from->m[i];
    const float old = expf(into->m[i] - m), add = expf(from->m[i] - m);
    into->m[i] = m;
    into->l[i] = into->l[i] * old + from->l[i] * add;
    float *u = into->u + i * into->u_stride;
    const float *v = from->u + i * from->u_stride;
    for (qk_int j = 0; j < width; j++) u[j] = u[j] * old + v[j] * add;
  }
}

void qk_scalar_attention_finish(const qk_softmax_state *s, qk_int rows, qk_int width, float *out, qk_int out_stride) {
  for (qk_int i = 0; i < rows; i++)
    for (qk_int j = 0; j < width; j++) out[i * out_stride + j] = s->l[i] > 0 ? s->u[i * s->u_stride + j] / s->l[i] : 0;
}
