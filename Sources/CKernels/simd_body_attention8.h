// Private body, compiled for ISAs that multiply unsigned by signed bytes: the attention of simd_body_attention.h on the int8 cache, whose
// rows stay as they lie (cache.h), and on the int6 cache, whose rows become such rows tile by tile. Queries become bytes with a scale per
// group of latents, 128 too large, which the offsets of a row make good; rope keys are multiplied as 16-bit integers. A weight times the scale
// of a value's group becomes a byte, in units of the largest that the row of queries sees in the tile; where that is too coarse, because few
// keys have nearly all of the weight, a second byte follows. All of it depends on nothing but the row and the keys that it sees.

/// Lines of the next tile that scores fetch for each line of a key; the sums of value products are whole quads of keys.
enum { BYTE_SCORE_LINES = 4, QUAD = 4, BYTE_PANEL = VALUE_PANEL / 16 };

/// The largest weight of a tile is FINE_UNITS: 255 coarse units of 256. Coarse weights do if half a unit for each key of the tile is at most
/// 1/32 of all the row's weight so far: if that is at least what COARSE_KEYS keys of the largest weight have.
enum { FINE_UNITS = 255 * 256, COARSE_KEYS = 8 };

/// The weights of a tile for a block of query rows, and what goes with them.
typedef struct byte_block {
  float scores[QK_KEY_TILE][BLOCK_ROWS];                  // then exp(score - m) / unit
  uint32_t high[QK_KEY_TILE / QUAD][BLOCK_ROWS];          // weights of one group, quads of keys: coarse
  uint32_t low[QK_KEY_TILE / QUAD][BLOCK_ROWS];           // and what of a fine weight is left
  float high_unit[BLOCK_ROWS], low_unit[BLOCK_ROWS];      // of that group
  float unit[BLOCK_ROWS], old[BLOCK_ROWS];                // of weights before the group's scale; what old sums are scaled by
  int32_t fine[BLOCK_ROWS];                               // 1 or 0
  bool any_fine;
} byte_block;

/// Where the latents of a row begin.
INLINE qk_int byte_latents(const attention_run *run) { return qk_cache_latent_offset(QK_CACHE_INT8, run->main_width, run->rest_width); }

/// The main part of a query as bytes 128 too large; the scale of group g to scales[16 * g].
static void put_byte_query(const attention_run *run, const float *x, qk_int count, uint8_t *out, float *scales) {
  memset(out, 0, (size_t)run->main_width);
  for (qk_int at = 0; at < count; at += QK_INT8_LATENTS_PER_SCALE, scales += BLOCK_ROWS)
    store_int8_group(x + at, smaller(QK_INT8_LATENTS_PER_SCALE, count - at), scales, (int8_t *)out + at);
  for (qk_int i = 0; i < run->main_width; i += 64) b_store(out + i, b_signed(b_load(out + i)));  // either way
}

/// The int6 cache is multiplied in bytes where whole vectors of 16 latents fill a row.
INLINE bool multiplies_bytes(const qk_pages *p) { return p->type == QK_CACHE_INT8 || (p->type == QK_CACHE_INT6 && p->c % 16 == 0); }

/// Latents [first, end) of a row of the int6 cache as one group of a row of the int8 cache, in units of a quarter of their largest scale.
static void put_six_bit_group(const uint8_t *scales, const uint8_t *words, qk_int c, qk_int first, qk_int end, void *scale_out, void *offset_out,
                              uint8_t *out) {
  float largest = 0;
  for (qk_int i = first; i < end; i += QK_INT6_LATENTS_PER_SCALE) {
    const float scale = qk_float_of_bf16(qk_load16(scales + i / QK_INT6_LATENTS_PER_SCALE * 2));
    if (scale > largest || scale != scale) largest = scale;  // NaN stays
  }
  const float unit = largest / 4, inverse = largest >= 1e-30f ? 4 / largest : 0;
  vi sum = i_set1(0);
  for (qk_int i = first; i < end; i += 16) {
    const float scale = qk_float_of_bf16(qk_load16(scales + i / QK_INT6_LATENTS_PER_SCALE * 2));
    const vi v = i_of_f(f_mul(f_of_i(load_six_bits(words, i, c)), f_set1(scale * inverse)));
    sum = i_add(sum, v);
    _mm_storeu_si128((__m128i_u *)(out + i), i8_of_i(v));
  }
  const int32_t offset = (int32_t)((uint32_t)i_hsum(sum) * (uint32_t)QK_INT8_OFFSET);
  memcpy(scale_out, &unit, 4);
  memcpy(offset_out, &offset, 4);
}

/// A row of the int8 cache in the widths of the run: where the pages' rows are narrower or of 6 bits.
static void put_byte_row(const attention_run *run, const qk_pages *p, const uint8_t *row, uint8_t *out) {
  const qk_int groups = qk_int8_groups(run->main_width), rope = qk_cache_rope_offset(QK_CACHE_INT8, run->main_width);
  const uint8_t *from = row + qk_cache_latent_offset(p->type, p->c, p->r);
  uint8_t *latents = out + byte_latents(run);
  memset(out + rope, 0, (size_t)(2 * run->rest_width + run->main_width));
  if (p->type == QK_CACHE_INT8) {
    memcpy(out, row, (size_t)groups * 8);  // as many groups
    memcpy(latents, from, (size_t)p->c);
  } else {
    for (qk_int g = 0; g < groups; g++)
      put_six_bit_group(row, from, p->c, g * QK_INT8_LATENTS_PER_SCALE, smaller((g + 1) * QK_INT8_LATENTS_PER_SCALE, p->c), out + 4 * g,
                        out + 4 * (groups + g), latents);
  }
  memcpy(out + rope - 4, row + qk_cache_rope_scale_offset(p->type, p->c), 4);
  memcpy(out + rope, row + qk_cache_rope_offset(p->type, p->c), (size_t)p->r * 2);
}

/// Columns [at, at + 64) of value rows -> quads of keys, in the order of b_interleave4.
static void make_byte_panel(const void *const *rows, int keys, qk_int at, uint32_t *panel) {
  for (int s = 0; s < keys; s += QUAD, panel += VALUE_PANEL) {
    vb quad[4];
    b_interleave4(b_load((const uint8_t *)rows[s] + at), b_load((const uint8_t *)rows[s + 1] + at), b_load((const uint8_t *)rows[s + 2] + at),
                  b_load((const uint8_t *)rows[s + 3] + at), quad);
    for (int i = 0; i < 4; i++) b_store(panel + 16 * i, quad[i]);
  }
}

/// The cache rows in `ahead` as keys and values. `copies` takes rows that cannot stay as they lie.
static void byte_tile(const attention_run *run, const qk_pages *p, uint8_t *copies, float *largest, uint32_t *panels, key_tile *tile) {
  const qk_int groups = qk_int8_groups(run->main_width), latents = byte_latents(run);
  const bool as_they_lie = p->type == QK_CACHE_INT8 && p->c == run->main_width && p->r == run->rest_width;
  tile->largest = largest, tile->largest_stride = padded(groups, 16);
  for (int i = 0; i < tile->keys; i++) {
    tile->key[i] = tile->ahead[i];
    if (as_they_lie) continue;
    uint8_t *copy = copies + i * (latents + run->main_width);
    put_byte_row(run, p, tile->ahead[i], copy);
    tile->key[i] = copy;
  }
  for (int i = tile->keys; i < QK_KEY_TILE; i++) tile->key[i] = tile->key[i - 1];
  for (qk_int g = 0; g < groups; g += 16) {
    vf most = f_zero();
    for (int i = 0; i < tile->keys; i++) {
      most = f_max(f_loadn((const float *)tile->key[i] + g, groups - g), most);
      f_store(largest + i * tile->largest_stride + g, most);
    }
  }
  tile->value_panels = panels;
  tile->whole_panels = run->rows > BLOCK_ROWS;
  for (qk_int j = 0; tile->whole_panels && j < run->value_width; j += VALUE_PANEL)
    make_byte_panel(tile->key, tile->keys, latents + j, panels + j * (QK_KEY_TILE / QUAD));
}

/// As key_scores.
static void byte_scores(const attention_run *run, const key_tile *tile, qk_int first, int i, float (*scores)[BLOCK_ROWS]) {
  const uint8_t *const *keys = (const uint8_t *const *)tile->key + i;
  const score_fetch ahead = fetch_for_scores(run, tile, first, i, BYTE_SCORE_LINES);
  const qk_int groups = qk_int8_groups(run->main_width), rope = qk_cache_rope_offset(QK_CACHE_INT8, run->main_width), latents = byte_latents(run);
  const uint32_t *q = (const uint32_t *)((const uint8_t *)run->q + first * query_bytes(run)), *rest = q + run->main_width / 4 * BLOCK_ROWS;
  const vf rest_scale = f_load(run->q_rest_scale + first);
  vi acc[DOT_KEYS][KEY_CHAINS];
  vf sums[DOT_KEYS];
  score_fetch of_rope = fetch_after(ahead, run->main_width);  // its rows are of the latents' share
  of_rope.rows = NULL;
  clear_products(acc);
  key_products(acc, rest, keys, rope, 2 * run->rest_width, of_rope, i_dot16_word);
  for (int j = 0; j < DOT_KEYS; j++) sums[j] = f_mul(key_sum(acc[j]), f_mul(rest_scale, f_set1(qk_float_of_bits(qk_load32(keys[j] + rope - 4)))));
  for (qk_int g = 0; g < groups; g++) {
    const qk_int begin = g * QK_INT8_LATENTS_PER_SCALE, width = smaller(QK_INT8_LATENTS_PER_SCALE, run->main_width - begin);
    clear_products(acc);
    for (int j = 0; j < DOT_KEYS; j++) acc[j][0] = i_set1((int32_t)qk_load32(keys[j] + 4 * (groups + g)));
    key_products(acc, q + begin / 4 * BLOCK_ROWS, keys, latents + begin, width, fetch_after(ahead, begin), i_dot8_word);
    const vf scale = f_load(run->q_scale + first * groups + g * BLOCK_ROWS);
    for (int j = 0; j < DOT_KEYS; j++)
      sums[j] = f_fma(f_mul(key_sum(acc[j]), scale), f_set1(qk_float_of_bits(qk_load32(keys[j] + 4 * g))), sums[j]);
  }
  for (int j = 0; j < DOT_KEYS; j++) f_store(scores[j], sums[j]);
}

/// Scores -> weights in fine units, zero where a row does not see; updates m and l.
static void byte_softmax(const attention_run *run, const key_tile *tile, qk_int first, int keys, byte_block *b) {
  const qk_int rows = run->rows - first;
  float *m = run->state.m + first, *l = run->state.l + first;
  const vi seen = i_load(run->seen + first);
  const bool all = seen_by(run, tile, first) >= keys;  // earlier rows see less
  const vf before = f_loadn(m, rows), largest = hide_scores(tile, seen, keys, all, b->scores, f_set1(-INFINITY)), most = f_max(largest, before);
  const vf shift = f_max(most, f_set1(-3.4028235e38f)), top = f_exp_negative(f_sub(largest, shift)), least = f_set1(1e-30f);
  const vf inverse = f_zero_below(top, least, f_div(f_set1(FINE_UNITS), top));
  vf sum = f_zero();
  for (int k = 0; k < keys; k++) {
    vf p = f_exp_negative(f_sub(f_load(b->scores[k]), shift));
    if (!all) p = where_seen(tile, seen, k, p, f_zero());
    sum = f_add(sum, p);
    f_store(b->scores[k], f_mul(p, inverse));
  }
  for (int k = keys; k % QUAD != 0; k++) f_store(b->scores[k], f_zero());
  const vf old = f_exp(f_sub(before, shift)), total = f_fma(f_loadn(l, rows), old, sum);
  f_store(b->unit, f_zero_below(top, least, f_mul(top, f_set1(1.0f / FINE_UNITS))));
  f_store(b->old, old);
  b_store(b->fine, i_of_f(f_zero_below(f_mul(top, f_set1(COARSE_KEYS)), total, f_set1(1))));
  f_storen(m, most, rows);
  f_storen(l, total, rows);
  b->any_fine = false;
  for (int i = 0; i < BLOCK_ROWS && i < rows; i++) b->any_fine |= b->fine[i] != 0;
}

/// Weights times the scales of group g of the values, as bytes, and their units.
static void byte_weights(const attention_run *run, const key_tile *tile, qk_int first, int keys, qk_int g, byte_block *b) {
  float largest[BLOCK_ROWS];
  for (int i = 0; i < BLOCK_ROWS; i++) {
    const qk_int seen = smaller(run->seen[first + i] - tile->begin, tile->keys);
    largest[i] = seen > 0 ? tile->largest[(seen - 1) * tile->largest_stride + g] : 0;
  }
  const vf most = f_load(largest), unit = f_mul(f_load(b->unit), most);
  const vf inverse = f_zero_below(most, f_set1(1e-34f), f_div(f_set1(1.0f / 256), most));
  const vi fine = i_load(b->fine), none = i_set1(0);
  const vf zero = f_zero();
  f_store(b->high_unit, f_mul(unit, f_set1(256)));
  f_store(b->low_unit, unit);
  for (int k = 0; k < keys; k += QUAD) {
    vi high = none, low = none;
    for (int j = 0; j < QUAD; j++) {
      const vf product = f_mul(f_mul(f_load(b->scores[k + j]), inverse), f_set1(((const float *)tile->key[k + j])[g]));
      const vf w = f_max(product, zero);  // 0 for NaN: a key that only later rows see may have that scale
      vi one = i_of_f(w);
      if (b->any_fine) {
        const vi whole = i_of_f(f_mul(w, f_set1(256)));
        one = bits_of_f(f_where_above(fine, none, f_of_bits(i_srl(whole, 8)), f_of_bits(one)));
        low = i_or(low, i_sll(bits_of_f(f_where_above(fine, none, f_of_bits(i_and(whole, i_set1(255))), f_zero())), 8 * j));
      }
      high = i_or(high, i_sll(one, 8 * j));
    }
    b_store(b->high[k / QUAD], high);
    if (b->any_fine) b_store(b->low[k / QUAD], low);
  }
}

/// u = u * old (NULL: 1) + unit * weighted values for `rows` rows and a panel of 64 columns, of which `count` are there.
INLINE void byte_value_micro(float *u, qk_int u_stride, const uint32_t (*weights)[BLOCK_ROWS], const float *unit, const float *old,
                             const uint32_t *panel, int quads, qk_int count, row_lines ahead, const int rows) {
  vi acc[BYTE_ROWS][BYTE_PANEL];
  for (int i = 0; i < rows; i++)
    for (int c = 0; c < BYTE_PANEL; c++) acc[i][c] = i_set1(0);
  for (int s = 0; s < quads; s++) {
    vi v[BYTE_PANEL];
    if (s < ahead.count) _mm_prefetch((const char *)ahead.first + 64 * s, _MM_HINT_T1);
    for (int c = 0; c < BYTE_PANEL; c++) v[c] = i_load(panel + s * VALUE_PANEL + 16 * c);
    for (int i = 0; i < rows; i++) {
      const vi w = i_set1((int32_t)weights[s][i]);
      for (int c = 0; c < BYTE_PANEL; c++) acc[i][c] = i_dot8(acc[i][c], w, v[c]);
    }
  }
  UNROLL
  for (int i = 0; i < rows; i++) {
    vf sums[BYTE_PANEL];
    for (int c = 0; c < BYTE_PANEL; c++) sums[c] = f_of_i(acc[i][c]);
    f_uninterleave4(sums);
    float *out = u + i * u_stride;
    UNROLL
    for (int c = 0; c < BYTE_PANEL; c++) {
      const qk_int left = count - 16 * c;
      const vf before = f_loadn(out + 16 * c, left);
      f_storen(out + 16 * c, f_fma(sums[c], f_set1(unit[i]), old ? f_mul(before, f_set1(old[i])) : before), left);
    }
  }
}

/// BYTE_ROWS rows at r, or what is left of the block.
static void byte_value_rows(float *u, qk_int u_stride, const byte_block *b, int r, const uint32_t *panel, int quads, qk_int count,
                            row_lines ahead, int rows) {
  bool fine = false;
  for (int i = r; i < r + rows; i++) fine |= b->fine[i] != 0;
#define STEP(n)                                                                                                                      \
  if (n <= BYTE_ROWS) {                                                                                                               \
    const int m = n <= BYTE_ROWS ? n : 1;                                                                                             \
    byte_value_micro(u, u_stride, (const uint32_t (*)[BLOCK_ROWS])&b->high[0][r], b->high_unit + r, b->old + r, panel, quads, count,  \
                     ahead, m);                                                                                                       \
    if (fine)                                                                                                                         \
      byte_value_micro(u, u_stride, (const uint32_t (*)[BLOCK_ROWS])&b->low[0][r], b->low_unit + r, NULL, panel, quads, count,        \
                       (row_lines){.count = 0}, m);                                                                                   \
  }
  FOR_COUNT(rows, STEP)
#undef STEP
}

static void byte_values(const attention_run *run, const key_tile *tile, qk_int first, int rows, int keys, byte_block *b) {
  const qk_int stride = run->state.u_stride, calls = (rows + BYTE_ROWS - 1) / BYTE_ROWS, latents = byte_latents(run);
  value_fetch fetch = fetch_for_values(run, tile, first, padded(run->value_width, VALUE_PANEL) / VALUE_PANEL * calls);
  for (qk_int j = 0; j < run->value_width; j += VALUE_PANEL) {
    if (j % QK_INT8_LATENTS_PER_SCALE == 0) byte_weights(run, tile, first, keys, j / QK_INT8_LATENTS_PER_SCALE, b);
    uint32_t *panel = tile->value_panels + (tile->whole_panels ? j * (QK_KEY_TILE / QUAD) : 0);
    if (!tile->whole_panels) make_byte_panel(tile->key, tile->keys, latents + j, panel);
    for (int r = 0; r < rows; r += BYTE_ROWS) {
      const row_lines ahead = lines_for_call(&fetch);
      byte_value_rows(run->state.u + (first + r) * stride + j, stride, b, r, panel, (keys + QUAD - 1) / QUAD, run->value_width - j, ahead,
                      (int)smaller(rows - r, BYTE_ROWS));
    }
  }
}

static void attend_tile8(const attention_run *run, const key_tile *tile) {
  byte_block block;
  for (qk_int first = 0; first < run->rows; first += BLOCK_ROWS) {
    const int rows = (int)smaller(BLOCK_ROWS, run->rows - first);
    const int keys = seen_by(run, tile, first + rows - 1);  // later rows see more
    if (keys == 0) continue;
    for (int i = 0; i < keys; i += DOT_KEYS) byte_scores(run, tile, first, i, block.scores + i);
    byte_softmax(run, tile, first, keys, &block);
    byte_values(run, tile, first, rows, keys, &block);
  }
}
