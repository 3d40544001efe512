// Private body, compiled once per ISA: brings queries, keys and values into the form that the attention bodies eat, and the two entry
// points. float32 for exact work and float caches, else 16-bit integers.

/// Where the parts of one call's scratch lie.
typedef struct attention_scratch {
  uint8_t *queries;  // [rows, key_width]
  float *q_scale, *q_rest_scale;  // [rows], integers
  int32_t *seen;                  // [rows], integers
  uint8_t *keys;     // [QK_KEY_TILE, key_width]
  uint8_t *rows;     // [QK_KEY_TILE, value_width] value rows of the expanded form, integers
  uint8_t *values;   // [QK_KEY_TILE, value_width] float, or panels of pairs
  float *row;        // one row as float, key_width + value_width
  float *largest;    // [QK_KEY_TILE, groups padded to 16], bytes (key_tile)
  float *part_m, *part_l, *part_u;
} attention_scratch;

/// Also tells the run where its queries are, or were left by the call before.
static attention_scratch carve(void *scratch, attention_run *run, qk_int value_width) {
  const qk_int size = run->integers ? 2 : 4, rows = padded(run->rows, 16), width = padded(value_width, VALUE_PANEL);
  const qk_int scales = run->bytes ? qk_int8_groups(run->main_width) : 1;
  attention_scratch s;
  uint8_t *at = scratch;
  s.queries = at, at += padded(rows * run->key_width * size, 64);
  s.q_scale = (float *)at, at += 4 * rows * scales;
  s.q_rest_scale = (float *)at, at += 4 * rows;
  s.seen = (int32_t *)at, at += 4 * rows;
  s.keys = at, at += QK_KEY_TILE * run->key_width * size;
  s.rows = at, at += run->integers ? QK_KEY_TILE * width * 2 : 0;
  s.values = at, at += QK_KEY_TILE * width * size;
  s.row = (float *)at, at += 4 * padded(run->key_width + width, 16);
  s.largest = (float *)at, at += run->bytes ? 4 * QK_KEY_TILE * padded(scales, 16) : 0;
  s.part_m = (float *)at, at += 4 * rows;
  s.part_l = (float *)at, at += 4 * rows;
  s.part_u = (float *)at;
  run->q = s.queries, run->q_scale = s.q_scale, run->q_rest_scale = s.q_rest_scale, run->seen = s.seen;
  return s;
}

/// `count` floats, then zeros up to `width`.
static void put_row(const float *x, qk_int count, qk_int width, float *out) {
  memcpy(out, x, (size_t)count * 4);
  memset(out + count, 0, (size_t)(width - count) * 4);
}

/// The main part of row i of the block of query rows at `first`, as bytes or 16-bit integers; returns where the rest goes.
static int16_t *put_main_query(const attention_run *run, const float *x, qk_int count, qk_int first, qk_int i, uint8_t *out,
                               const attention_scratch *s) {
#if QK_BYTE_ATTENTION
  if (run->bytes) {
    put_byte_query(run, x, count, out, s->q_scale + first * qk_int8_groups(run->main_width) + i);
    return (int16_t *)(out + run->main_width);
  }
#endif
  s->q_scale[first + i] = put_int16(x, count, run->main_width, (int16_t *)out);
  return (int16_t *)out + run->main_width;
}

/// Rows that do not lie behind one another are fetched this many ahead of their use: the hardware sees no order in them.
enum { QUERIES_AHEAD = 8, ROPES_AHEAD = 16 };

INLINE void fetch_row(const float *row, qk_int count) {
  for (qk_int i = 0; i < count; i += 16) _mm_prefetch((const char *)(row + i), _MM_HINT_T0);
}

/// Queries of a main part and a rest of the widths given, 16 rows at a time: as integers they become a panel.
static void put_query_panels(const attention_run *run, const float *q, qk_int stride, qk_int main, qk_int rest, const attention_scratch *s) {
  const qk_int bytes = query_bytes(run);
  for (qk_int first = 0; first < run->rows; first += BLOCK_ROWS) {
    const uint32_t *rows[BLOCK_ROWS];
    for (qk_int i = 0; i < BLOCK_ROWS; i++) {
      const qk_int row = smaller(first + i, run->rows - 1);  // what is too much repeats the last, and nobody looks at it
      uint8_t *out = s->keys + i * bytes;
      if (stride > main + rest && first + i + QUERIES_AHEAD < run->rows) fetch_row(q + (first + i + QUERIES_AHEAD) * stride, main + rest);
      int16_t *out_rest = put_main_query(run, q + row * stride, main, first, i, out, s);
      s->q_rest_scale[first + i] = put_int16(q + row * stride + main, rest, run->rest_width, out_rest);
      s->seen[first + i] = (int32_t)seen_before(run, row);
      rows[i] = (const uint32_t *)out;
    }
    uint32_t *panel = (uint32_t *)(s->queries + first * bytes);
    for (qk_int w = 0; w < bytes / 4; w += 16) {
      transpose_words(rows, panel + w * BLOCK_ROWS, BLOCK_ROWS);
      for (int i = 0; i < BLOCK_ROWS; i++) rows[i] += 16;
    }
  }
}

static void put_queries(const attention_run *run, const float *q, qk_int stride, qk_int main, qk_int rest, const attention_scratch *s) {
  if (run->integers) put_query_panels(run, q, stride, main, rest, s);
  else
    for (qk_int i = 0; i < run->rows; i++) put_row(q + i * stride, main + rest, run->key_width, (float *)s->queries + i * run->key_width);
}

/// The cache rows in `ahead` as keys and values of the absorbed form, float.
static void latent_tile(const attention_run *run, const qk_pages *p, const attention_scratch *s, key_tile *tile) {
  const qk_int width = (qk_int)p->c + p->r;
  for (int i = 0; i < tile->keys; i++) {
    float *values = (float *)s->keys + i * run->key_width;
    load_latent(p, tile->ahead[i], values);
    load_rope(p, tile->ahead[i], values + p->c);
    memset(values + width, 0, (size_t)(run->key_width - width) * 4);
    tile->key[i] = values;
  }
  tile->values = s->keys;
  tile->value_stride = run->key_width;
}

/// Room for the panels of values; filled at once if several blocks of query rows will read them.
static void make_panels(const attention_run *run, const attention_scratch *s, key_tile *tile, const void *const *value_rows) {
  tile->value_panels = (uint32_t *)s->values;
  tile->whole_panels = value_rows != tile->key || run->rows > BLOCK_ROWS;
  if (!tile->whole_panels) return;
  for (qk_int j = 0; j < run->value_width; j += VALUE_PANEL)
    make_value_panel(value_rows, tile->keys, j, tile->value_panels + j * (QK_KEY_TILE / 2));
}

/// One cache row as integers at `copy`; its scales.
static void latent_row16(const attention_run *run, const qk_pages *p, const attention_scratch *s, const uint8_t *row, int16_t *copy,
                         float *scale, float *rest_scale) {
  memset(copy, 0, (size_t)run->key_width * 2);
  if (p->type == QK_CACHE_INT16) {
    *scale = qk_float_of_bits(qk_load32(row));
    memcpy(copy, row + QK_INT16_SCALES_BYTES, (size_t)p->c * 2);
  } else {
    load_latent(p, row, s->row);
    *scale = put_int16(s->row, p->c, run->main_width, copy);
  }
  if (p->type == QK_CACHE_BF16) {
    load_rope(p, row, s->row);
    *rest_scale = put_int16(s->row, p->r, run->rest_width, copy + run->main_width);
  } else {
    *rest_scale = qk_float_of_bits(qk_load32(row + qk_cache_rope_scale_offset(p->type, p->c)));
    memcpy(copy + run->main_width, row + qk_cache_rope_offset(p->type, p->c), (size_t)p->r * 2);
  }
}

/// The same as integers: as they lie in the pages where their type and width allow it.
static void latent_tile16(const attention_run *run, const qk_pages *p, const attention_scratch *s, key_tile *tile) {
  const bool as_they_lie = p->type == QK_CACHE_INT16 && p->c == run->main_width && p->r == run->rest_width;
  for (int i = 0; i < tile->keys; i++) {
    const uint8_t *row = tile->ahead[i];
    if (as_they_lie) {
      tile->key[i] = row + QK_INT16_SCALES_BYTES;
      tile->scale[i] = qk_float_of_bits(qk_load32(row));
      tile->rest_scale[i] = qk_float_of_bits(qk_load32(row + 4));
    } else {
      int16_t *copy = (int16_t *)s->keys + i * run->key_width;
      tile->key[i] = copy;
      latent_row16(run, p, s, row, copy, &tile->scale[i], &tile->rest_scale[i]);
    }
  }
  for (int i = tile->keys; i < QK_KEY_TILE; i++) tile->key[i] = tile->key[i - 1], tile->scale[i] = tile->rest_scale[i] = 0;
  memcpy(tile->value_scale, tile->scale, sizeof tile->scale);
  make_panels(run, s, tile, tile->key);
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

/// What is fetched while the tile of [begin, end) is worked on: as many rows as it has keys, QK_KEY_TILE rows further on. After `last` come the
/// rows of what is next, so a short tile at the end of a sequence fetches no less than its share.
static void find_rows_ahead(const qk_latent_attention *a, qk_int begin, qk_int end, qk_int last, key_tile *tile) {
  qk_pages pages = a->pages;
  const qk_int at = begin + QK_KEY_TILE, stop = end + QK_KEY_TILE, own = smaller(stop, last);
  find_rows(&pages, at, own, tile->ahead);
  tile->ahead_keys = at < own ? (int)(own - at) : 0;
  if (stop <= last || !a->next_table) return;
  pages.table = a->next_table;
  const qk_int first = a->next_begin + (at > last && begin > a->begin ? at - last : 0);
  const qk_int count = smaller(smaller(a->next_begin + stop - last, a->next_end) - first, QK_KEY_TILE - tile->ahead_keys);
  find_rows(&pages, first, first + count, tile->ahead + tile->ahead_keys);
  tile->ahead_keys += count > 0 ? (int)count : 0;
}

/// What else the tile from `begin` on fetches, of all of it the share of its keys.
static void share_beside(const attention_run *run, const qk_latent_attention *a, qk_int begin, qk_int last, key_tile *tile) {
  const qk_int bytes = a->beside ? a->beside_bytes : 0, line_bytes = (last - a->begin + DOT_KEYS - 1) / DOT_KEYS * query_bytes(run);
  tile->beside_lines = line_bytes > 0 ? (bytes + line_bytes - 1) / line_bytes : 0;
  const qk_int done = (begin - a->begin) / DOT_KEYS * query_bytes(run) * tile->beside_lines;
  tile->beside_bytes = bytes > done ? bytes - done : 0;
  tile->beside = bytes > done ? (const uint8_t *)a->beside + done : NULL;
}

static void make_tile(const attention_run *run, const qk_pages *p, const attention_scratch *s, key_tile *tile) {
#if QK_BYTE_ATTENTION
  if (run->bytes) {
    byte_tile(run, p, s->keys, s->largest, (uint32_t *)s->values, tile);
    return;
  }
#endif
  if (run->integers) latent_tile16(run, p, s, tile);
  else latent_tile(run, p, s, tile);
}

static void attend(const attention_run *run, const key_tile *tile) {
#if QK_BYTE_ATTENTION
  if (run->bytes) {
    attend_tile8(run, tile);
    return;
  }
#endif
  if (run->integers) attend_tile16(run, tile);
  else attend_tile(run, tile);
}

/// Keys [begin, end) of one split, fresh state. `last` is the end of all splits.
static void latent_split(attention_run *run, const qk_latent_attention *a, qk_int begin, qk_int end, qk_int last, qk_softmax_state state,
                         const attention_scratch *s) {
  const qk_pages *p = &a->pages;
  run->state = state;
  v_attention_reset(&state, run->rows, run->value_width);
  key_tile tile;
  for (qk_int k = begin; k < end; k += QK_KEY_TILE) {
    tile.begin = k;
    tile.keys = (int)smaller(QK_KEY_TILE, end - k);
    find_rows(p, k, k + tile.keys, tile.ahead);
    make_tile(run, p, s, &tile);
    find_rows_ahead(a, k, k + tile.keys, last, &tile);
    share_beside(run, a, k, last, &tile);
    attend(run, &tile);
  }
}

static void v_attention_latent(const qk_latent_attention *a, void *scratch) {
  const qk_int c = a->pages.c, r = a->pages.r, end = smaller(a->end, a->first_position + a->tokens);
  attention_run run = {.rows = (qk_int)a->tokens * a->heads, .rows_per_token = a->heads, .first_position = a->first_position,
                       .key_width = padded(c + r, 16), .value_width = c, .integers = !a->exact && a->pages.type != QK_CACHE_F32};
  if (run.rows <= 0) return;
#if QK_BYTE_ATTENTION
  run.bytes = run.integers && multiplies_bytes(&a->pages);
#endif
  if (run.integers) {
    run.main_width = padded(c, VALUE_PANEL), run.rest_width = padded(r, 32);
    run.key_width = run.main_width + run.rest_width;
    run.row_bytes = run.bytes ? qk_cache_row_bytes(a->pages.type, c, r) : 2 * run.key_width;
  }
  const attention_scratch s = carve(scratch, &run, c);
  const qk_softmax_state part = {.m = s.part_m, .l = s.part_l, .u = s.part_u, .u_stride = padded(c, 16)};
  if (!a->same_queries) put_queries(&run, a->q, a->q_stride, c, r, &s);
  qk_int done = smaller(end, (a->begin / QK_SPLIT + 1) * QK_SPLIT);
  latent_split(&run, a, a->begin, done, end, a->state, &s);
  while (done < end) {
    const qk_int begin = done;
    done = smaller(end, begin + QK_SPLIT);
    latent_split(&run, a, begin, done, end, part, &s);
    v_attention_merge(&a->state, &part, run.rows, c);
  }
}

/// The rope key of a row, and its scale, into the first-level cache.
INLINE void fetch_rope(const qk_pages *p, const uint8_t *row) {
  const uint8_t *rope = row + qk_cache_rope_offset(p->type, p->c);
  _mm_prefetch((const char *)row + qk_cache_rope_scale_offset(p->type, p->c), _MM_HINT_T0);
  for (qk_int i = 0; i <= 2 * p->r; i += 64) _mm_prefetch((const char *)rope + i, _MM_HINT_T0);  // rows do not begin with a cache line
}

/// Rows `at` ... of the caller's K and V with the rope keys of the pages.
static void expanded_tile(const attention_run *run, const qk_expanded_attention *a, const attention_scratch *s, key_tile *tile) {
  const qk_int at = tile->begin - a->begin, width = (qk_int)a->n + a->pages.r, value_width = padded(a->v, run->integers ? VALUE_PANEL : 16);
  const void *value_rows[QK_KEY_TILE];
  find_rows(&a->pages, tile->begin, tile->begin + tile->keys, tile->ahead);
  for (int i = 0; i < tile->keys && i < ROPES_AHEAD; i++) fetch_rope(&a->pages, tile->ahead[i]);
  for (int i = 0; i < tile->keys; i++) {
    if (i + ROPES_AHEAD < tile->keys) fetch_rope(&a->pages, tile->ahead[i + ROPES_AHEAD]);
    const float *value = a->values + (at + i) * a->v_stride;
    memcpy(s->row, a->k + (at + i) * a->k_stride, (size_t)a->n * 4);
    load_rope(&a->pages, tile->ahead[i], s->row + a->n);
    if (run->integers) {
      int16_t *key = (int16_t *)s->keys + i * run->key_width, *row = (int16_t *)s->rows + i * value_width;
      tile->scale[i] = put_int16(s->row, width, run->key_width, key);
      tile->value_scale[i] = put_int16(value, a->v, value_width, row);
      tile->key[i] = key, value_rows[i] = row;
    } else {
      float *key = (float *)s->keys + i * run->key_width;
      put_row(s->row, width, run->key_width, key);
      put_row(value, a->v, value_width, (float *)s->values + i * value_width);
      tile->key[i] = key;
    }
  }
  tile->values = s->values;
  tile->value_stride = value_width;
  if (!run->integers) return;
  for (int i = tile->keys; i < QK_KEY_TILE; i++) {
    tile->key[i] = tile->key[i - 1], value_rows[i] = value_rows[i - 1];
    tile->scale[i] = tile->value_scale[i] = 0;
  }
  make_panels(run, s, tile, value_rows);
}

static void v_attention_expanded(const qk_expanded_attention *a, void *scratch) {
  const qk_int width = (qk_int)a->n + a->pages.r, end = smaller(a->end, a->first_position + a->tokens);
  attention_run run = {.rows = a->tokens, .rows_per_token = 1, .first_position = a->first_position, .value_width = a->v,
                       .integers = !a->exact, .state = a->state};
  if (run.rows <= 0) return;
  run.main_width = run.key_width = padded(width, run.integers ? 32 : 16);
  const attention_scratch s = carve(scratch, &run, a->v);
  if (!a->same_queries) put_queries(&run, a->q, a->q_stride, width, 0, &s);
  for (qk_int k = a->begin; k < end; k += QK_KEY_TILE) {
    key_tile tile = {.begin = k, .keys = (int)smaller(QK_KEY_TILE, end - k)};
    expanded_tile(&run, a, &s, &tile);
    attend(&run, &tile);
  }
}
