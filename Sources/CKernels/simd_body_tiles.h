// Private body, compiled once per ISA: brings queries, keys and values into the form that simd_body_attention.h eats, and
// the two entry points. float32 for exact work and float caches, bfloat16 where the CPU has products of it.

/// Where the parts of one call's scratch lie.
typedef struct attention_scratch {
  uint8_t *queries;  // [rows, key_width]
  uint8_t *keys;     // [QK_KEY_TILE, key_width]
  uint32_t *panel;   // [key_width / 2, QK_KEY_TILE] pairs of bfloat16, keys of the expanded form transposed
  uint8_t *rows;     // [QK_KEY_TILE, value_width] bfloat16 value rows of the expanded form
  uint8_t *values;   // [QK_KEY_TILE, value_width] float, or interleaved pairs
  float *row;        // one row as float, key_width + value_width
  float *part_m, *part_l, *part_u;
} attention_scratch;

static attention_scratch carve(void *scratch, const attention_run *run, qk_int value_width) {
  const qk_int size = run->bf16 ? 2 : 4, rows = padded(run->rows, 16), width = padded(value_width, VALUE_PANEL);
  attention_scratch s;
  uint8_t *at = scratch;
  s.queries = at, at += padded(rows * run->key_width * size, 64);
  s.keys = at, at += QK_KEY_TILE * run->key_width * size;
  s.panel = (uint32_t *)at, at += run->bf16 ? QK_KEY_TILE * run->key_width * 2 : 0;
  s.rows = at, at += run->bf16 ? QK_KEY_TILE * width * 2 : 0;
  s.values = at, at += QK_KEY_TILE * width * size;
  s.row = (float *)at, at += 4 * padded(run->key_width + width, 16);
  s.part_m = (float *)at, at += 4 * rows;
  s.part_l = (float *)at, at += 4 * rows;
  s.part_u = (float *)at;
  return s;
}

/// `count` floats, then zeros up to `width`, as float or bfloat16.
static void put_row(const float *x, qk_int count, qk_int width, bool bf16, void *out) {
  if (bf16) {
    v_f32_to_bf16(x, out, count);
    memset((uint16_t *)out + count, 0, (size_t)(width - count) * 2);
  } else {
    memcpy(out, x, (size_t)count * 4);
    memset((float *)out + count, 0, (size_t)(width - count) * 4);
  }
}

static void put_queries(attention_run *run, const float *q, qk_int stride, qk_int width, const attention_scratch *s) {
  for (qk_int i = 0; i < run->rows; i++)
    put_row(q + i * stride, width, run->key_width, run->bf16, s->queries + i * run->key_width * (run->bf16 ? 2 : 4));
  run->q = s->queries;
}

/// The cache rows in `ahead` as keys and values of the absorbed form.
static void latent_tile(const attention_run *run, const qk_pages *p, const attention_scratch *s, key_tile *tile) {
  const qk_int width = (qk_int)p->c + p->r;
  for (int i = 0; i < tile->keys; i++) {
    const uint8_t *row = tile->ahead[i];
    uint8_t *copy = s->keys + i * run->key_width * (run->bf16 ? 2 : 4);
    tile->key[i] = copy;
    if (run->bf16 && p->type == QK_CACHE_BF16) {
      if (width == run->key_width) {
        tile->key[i] = row;  // as it lies in the page
      } else {
        memcpy(copy, row, (size_t)width * 2);
        memset(copy + width * 2, 0, (size_t)(run->key_width - width) * 2);
      }
    } else {
      float *values = run->bf16 ? s->row : (float *)copy;
      load_latent(p, row, values);
      load_rope(p, row, values + p->c);
      if (run->bf16) put_row(values, width, run->key_width, true, copy);
      else memset(values + width, 0, (size_t)(run->key_width - width) * 4);
    }
  }
  tile->values = s->keys;
  tile->value_stride = run->key_width;
#if QK_BF16_DOT
  if (!run->bf16) return;
  interleave_values(tile->key, tile->keys, padded(p->c, 16), (uint32_t *)s->values);
  tile->values = s->values;
#endif
}

/// Where the cache rows [begin, end) lie.
static void find_rows(const qk_pages *p, qk_int begin, qk_int end, const uint8_t **rows) {
  if (begin >= end) return;
  qk_int page = begin / p->page_tokens, within = begin % p->page_tokens;
  for (qk_int k = begin; k < end; page++, within = 0) {
    const uint8_t *row = (const uint8_t *)p->base + p->table[page] * p->page_stride + within * p->row_stride;
    for (; within < p->page_tokens && k < end; within++, k++, row += p->row_stride) *rows++ = row;
  }
}

/// Keys [begin, end) of one split, fresh state.
static void latent_split(attention_run *run, const qk_pages *p, qk_int begin, qk_int end, qk_softmax_state state, const attention_scratch *s) {
  run->state = state;
  v_attention_reset(&state, run->rows, run->value_width);
  key_tile tile;
  tile.key_panel = NULL;
  tile.ahead_bytes = p->row_stride;
  find_rows(p, begin, smaller(begin + QK_KEY_TILE, end), tile.ahead);
  for (qk_int k = begin; k < end; k += QK_KEY_TILE) {
    tile.begin = k;
    tile.keys = (int)smaller(QK_KEY_TILE, end - k);
    latent_tile(run, p, s, &tile);
    tile.ahead_keys = (int)smaller(QK_KEY_TILE, end - k - tile.keys);
    find_rows(p, k + tile.keys, k + tile.keys + tile.ahead_keys, tile.ahead);
    attend_tile(run, &tile);
  }
}

static void v_attention_latent(const qk_latent_attention *a, void *scratch) {
  const qk_int width = (qk_int)a->pages.c + a->pages.r, end = smaller(a->end, a->first_position + a->tokens);
  const bool bf16 = QK_BF16_DOT && !a->exact && a->pages.type != QK_CACHE_F32;
  attention_run run = {.rows = (qk_int)a->tokens * a->heads, .rows_per_token = a->heads, .first_position = a->first_position,
                       .key_width = padded(width, bf16 ? 32 : 16), .value_width = a->pages.c, .bf16 = bf16};
  if (run.rows <= 0) return;
  const attention_scratch s = carve(scratch, &run, a->pages.c);
  const qk_softmax_state part = {.m = s.part_m, .l = s.part_l, .u = s.part_u, .u_stride = padded(a->pages.c, 16)};
  put_queries(&run, a->q, a->q_stride, width, &s);
  qk_int done = smaller(end, (a->begin / QK_SPLIT + 1) * QK_SPLIT);
  latent_split(&run, &a->pages, a->begin, done, a->state, &s);
  while (done < end) {
    const qk_int begin = done;
    done = smaller(end, begin + QK_SPLIT);
    latent_split(&run, &a->pages, begin, done, part, &s);
    v_attention_merge(&a->state, &part, run.rows, a->pages.c);
  }
}

/// Rows `at` ... of the caller's K and V with the rope keys of the pages.
static void expanded_tile(const attention_run *run, const qk_expanded_attention *a, const attention_scratch *s, key_tile *tile) {
  const qk_int at = tile->begin - a->begin, size = run->bf16 ? 2 : 4, value_width = padded(a->v, 16);
  const void *value_rows[QK_KEY_TILE];
  for (int i = 0; i < tile->keys; i++) {
    uint8_t *copy = s->keys + i * run->key_width * size;
    memcpy(s->row, a->k + (at + i) * a->k_stride, (size_t)a->n * 4);
    load_rope(&a->pages, qk_cache_row(&a->pages, tile->begin + i), s->row + a->n);
    put_row(s->row, (qk_int)a->n + a->pages.r, run->key_width, run->bf16, copy);
    tile->key[i] = copy;
    uint8_t *value = run->bf16 ? s->rows + i * value_width * 2 : s->values + i * value_width * 4;
    put_row(a->values + (at + i) * a->v_stride, a->v, value_width, run->bf16, value);
    value_rows[i] = value;
  }
  tile->values = s->values;
  tile->value_stride = value_width;
#if QK_BF16_DOT
  if (run->bf16) transpose_keys(tile, run->key_width, s->panel), tile->key_panel = s->panel;
  if (run->bf16) interleave_values(value_rows, tile->keys, value_width, (uint32_t *)s->values);
#else
  (void)value_rows;
#endif
}

static void v_attention_expanded(const qk_expanded_attention *a, void *scratch) {
  const qk_int width = (qk_int)a->n + a->pages.r, end = smaller(a->end, a->first_position + a->tokens);
  const bool bf16 = QK_BF16_DOT && !a->exact;
  attention_run run = {.rows = a->tokens, .rows_per_token = 1, .first_position = a->first_position,
                       .key_width = padded(width, bf16 ? 32 : 16), .value_width = a->v, .bf16 = bf16, .state = a->state};
  if (run.rows <= 0) return;
  const attention_scratch s = carve(scratch, &run, a->v);
  put_queries(&run, a->q, a->q_stride, width, &s);
  for (qk_int k = a->begin; k < end; k += QK_KEY_TILE) {
    key_tile tile = {.begin = k, .keys = (int)smaller(QK_KEY_TILE, end - k)};
    expanded_tile(&run, a, &s, &tile);
    attend_tile(&run, &tile);
  }
}
