// Private body, compiled once per ISA: the attention of simd_body_attention.h in 16-bit integers. Keys, queries and values are rows with a
// scale each (cache.h, QK_INT16_NORM), so no sum of products can overflow, whatever a model or a cache holds; products are exact, and the
// rounding of a row is finer than bfloat16's. Scores become floats for the softmax, its weights integers again, tile by tile. The lanes of
// scores and weights are query rows: keys and values are read as they lie, and the softmax needs no sums across lanes.

/// Weights of a tile, and of the 64 roundings, together at most: times a value of 2^15 they stay below 2^31.
enum { WEIGHTS_SUM = 32000, LINE_PAIRS = 16 };

/// While a tile is worked on, as many cache rows further on are fetched, evenly: a core waits for few lines at once. Of each 8 rows, the
/// products of scores fetch AHEAD_OF_SCORES, those of values the others.
enum { AHEAD_ROWS = 8, AHEAD_OF_SCORES = 3, SCORE_LINES = AHEAD_OF_SCORES * DOT_KEYS / AHEAD_ROWS };

/// Columns [at, at + 64) of value rows -> pairs of neighbouring keys, in the order of w_interleave. Of an odd number the last repeats itself.
static void make_value_panel(const void *const *rows, int keys, qk_int at, uint32_t *panel) {
  for (int s = 0; s < keys; s += 2, panel += VALUE_PANEL) {
    const int16_t *first = (const int16_t *)rows[s] + at, *second = (const int16_t *)rows[s + 1] + at;
    for (int half = 0; half < VALUE_PANEL; half += 32) {
      vb low, high;
      w_interleave(b_load(first + half), b_load(second + half), &low, &high);
      b_store(panel + half, low);
      b_store(panel + half + 16, high);
    }
  }
}

/// acc + products with the word of a key at the pointer: i_dot16_word or i_dot8_word.
typedef vi (*word_dot)(vi acc, vi rows, const uint8_t *word);

/// What products of scores fetch meanwhile, for each cache line of a key: `lines` lines of rows of the next tile, `beside_lines` of what else
/// is to be fetched.
typedef struct score_fetch {
  const uint8_t *rows, *beside;  // NULL: nothing
  int lines;
  qk_int beside_lines;
} score_fetch;

/// Of the block of query rows at `first` and keys i ..< i + DOT_KEYS.
INLINE score_fetch fetch_for_scores(const attention_run *run, const key_tile *tile, qk_int first, int i, int lines) {
  const qk_int done = i / DOT_KEYS * query_bytes(run) * tile->beside_lines;
  return (score_fetch){.rows = first == 0 && i < tile->ahead_keys ? tile->ahead[i] : NULL,
                       .beside = first == 0 && done < tile->beside_bytes ? tile->beside + done : NULL,
                       .lines = lines,
                       .beside_lines = tile->beside_lines};
}

/// After `bytes` of a key.
INLINE score_fetch fetch_after(score_fetch f, qk_int bytes) {
  return (score_fetch){f.rows ? f.rows + bytes * f.lines : NULL, f.beside ? f.beside + bytes * f.beside_lines : NULL, f.lines, f.beside_lines};
}

/// acc += products of 16 query rows with `bytes` bytes of DOT_KEYS keys, `at` bytes from their beginnings: a word of a key times a vector of
/// the rows' words. A cache line of each key at a time.
INLINE void key_products(vi (*acc)[KEY_CHAINS], const uint32_t *q, const uint8_t *const *keys, qk_int at, qk_int bytes, const score_fetch ahead,
                         const word_dot dot) {
  for (qk_int k = 0; k < bytes; k += 4 * LINE_PAIRS, q += LINE_PAIRS * BLOCK_ROWS) {
    if (ahead.rows)
      for (int i = 0; i < ahead.lines; i++) _mm_prefetch((const char *)ahead.rows + k * ahead.lines + 64 * i, _MM_HINT_T1);
    if (ahead.beside)
      for (qk_int i = 0; i < ahead.beside_lines; i++) _mm_prefetch((const char *)ahead.beside + k * ahead.beside_lines + 64 * i, _MM_HINT_T1);
    UNROLL
    for (int j = 0; j < LINE_PAIRS; j += KEY_CHAINS)
      for (int c = 0; c < KEY_CHAINS; c++) {
        const vi rows = i_load(q + (j + c) * BLOCK_ROWS);
        for (int i = 0; i < DOT_KEYS; i++) acc[i][c] = dot(acc[i][c], rows, keys[i] + at + k + 4 * (j + c));
      }
  }
}

INLINE void clear_products(vi (*acc)[KEY_CHAINS]) {
  for (int i = 0; i < DOT_KEYS; i++)
    for (int c = 0; c < KEY_CHAINS; c++) acc[i][c] = i_set1(0);
}

INLINE vf key_sum(const vi *acc) { return f_of_i(KEY_CHAINS == 2 ? i_add(acc[0], acc[KEY_CHAINS - 1]) : acc[0]); }

/// Scores of the block of query rows at `first` and keys i ..< i + DOT_KEYS of the tile.
static void key_scores(const attention_run *run, const key_tile *tile, qk_int first, int i, float (*scores)[BLOCK_ROWS]) {
  const uint32_t *q = (const uint32_t *)((const uint8_t *)run->q + first * query_bytes(run));
  const uint8_t *const *keys = (const uint8_t *const *)tile->key + i;
  const score_fetch ahead = fetch_for_scores(run, tile, first, i, SCORE_LINES);
  const qk_int main = 2 * run->main_width;
  const vf scale = f_load(run->q_scale + first), rest_scale = f_load(run->q_rest_scale + first);
  vi acc[DOT_KEYS][KEY_CHAINS];
  vf sums[DOT_KEYS];
  clear_products(acc);
  key_products(acc, q, keys, 0, main, ahead, i_dot16_word);
  for (int j = 0; j < DOT_KEYS; j++) sums[j] = f_mul(key_sum(acc[j]), f_mul(scale, f_set1(tile->scale[i + j])));
  if (run->rest_width > 0) {
    clear_products(acc);
    key_products(acc, q + main / 4 * BLOCK_ROWS, keys, main, 2 * run->rest_width, fetch_after(ahead, main), i_dot16_word);
    for (int j = 0; j < DOT_KEYS; j++) sums[j] = f_fma(key_sum(acc[j]), f_mul(rest_scale, f_set1(tile->rest_scale[i + j])), sums[j]);
  }
  for (int j = 0; j < DOT_KEYS; j++) f_store(scores[j], sums[j]);
}

/// The weights of a tile for a block of query rows, and what goes with them.
typedef struct softmax_block {
  float scores[QK_KEY_TILE][BLOCK_ROWS];          // then exp(score - m) * value scale
  uint32_t weights[QK_KEY_TILE / 2][BLOCK_ROWS];  // the same / unit, as pairs of keys
  float unit[BLOCK_ROWS], old[BLOCK_ROWS];        // the weights' unit; what old sums are scaled by
} softmax_block;

/// v in the rows that see key k of the tile, `other` in those that do not.
INLINE vf where_seen(const key_tile *tile, vi seen, int k, vf v, vf other) { return f_where_above(seen, i_set1((int32_t)tile->begin + k), v, other); }

/// Hides the scores that a row does not see, unless `all` are seen; returns the largest of those seen and `most`.
INLINE vf hide_scores(const key_tile *tile, vi seen, int keys, bool all, float (*scores)[BLOCK_ROWS], vf most) {
  for (int k = 0; k < keys; k++) {
    vf v = f_load(scores[k]);
    if (!all) {
      v = where_seen(tile, seen, k, v, f_set1(-INFINITY));
      f_store(scores[k], v);
    }
    most = f_max(v, most);
  }
  return most;
}

/// Scores -> weights, zero where a row does not see; updates m and l.
static void softmax_integers(const attention_run *run, const key_tile *tile, qk_int first, int keys, softmax_block *b) {
  const qk_int rows = run->rows - first;
  float *m = run->state.m + first, *l = run->state.l + first;
  const vi seen = i_load(run->seen + first);
  const bool all = seen_by(run, tile, first) >= keys;  // earlier rows see less
  const vf before = f_loadn(m, rows), most = hide_scores(tile, seen, keys, all, b->scores, before), shift = f_max(most, f_set1(-3.4028235e38f));
  vf sum = f_zero(), weighed = f_zero();
  for (int k = 0; k < keys; k++) {
    vf p = f_exp_negative(f_sub(f_load(b->scores[k]), shift));
    vf w = f_mul(p, f_set1(tile->value_scale[k]));
    if (!all) {  // both: the scale may be NaN
      p = where_seen(tile, seen, k, p, f_zero());
      w = where_seen(tile, seen, k, w, f_zero());
    }
    sum = f_add(sum, p);
    weighed = f_add(weighed, w);
    f_store(b->scores[k], w);
  }
  if (keys % 2) f_store(b->scores[keys], f_zero());
  // What is infinite or not a number gives weights of 0, and the unit passes it on.
  const vf least = f_set1(1e-30f), inverse = f_zero_below(weighed, least, f_div(f_set1(WEIGHTS_SUM), weighed)), old = f_exp(f_sub(before, shift));
  for (int k = 0; k < keys; k += 2) {
    const vi one = i_of_f(f_mul(f_load(b->scores[k]), inverse)), two = i_of_f(f_mul(f_load(b->scores[k + 1]), inverse));
    b_store(b->weights[k / 2], i_or(i_and(one, i_set1(0xFFFF)), i_sll(two, 16)));
  }
  f_store(b->unit, f_zero_below(weighed, least, f_mul(weighed, f_set1(1.0f / WEIGHTS_SUM))));
  f_store(b->old, old);
  f_storen(m, most, rows);
  f_storen(l, f_fma(f_loadn(l, rows), old, sum), rows);
}

typedef struct row_lines {
  const uint8_t *first;
  int count;
} row_lines;

/// What is left to be fetched by the products of values: of each AHEAD_ROWS rows those that scores left, which lie behind one another.
typedef struct value_fetch {
  const key_tile *tile;
  qk_int row, line;             // the next
  qk_int row_lines, call_lines; // of the rows of a piece; of a call
} value_fetch;

/// Of the block of query rows at `first` in `calls` calls: only the first block fetches.
static value_fetch fetch_for_values(const attention_run *run, const key_tile *tile, qk_int first, qk_int calls) {
  if (first > 0 || tile->ahead_keys == 0) return (value_fetch){.tile = tile, .row = tile->ahead_keys};
  const qk_int pieces = (tile->ahead_keys + AHEAD_ROWS - 1) / AHEAD_ROWS, calls_of_piece = calls > pieces ? calls / pieces : 1;
  const qk_int lines = (AHEAD_ROWS - AHEAD_OF_SCORES) * run->row_bytes / 64 + 2;
  return (value_fetch){tile, AHEAD_OF_SCORES, 0, lines, (lines + calls_of_piece - 1) / calls_of_piece};
}

/// The lines of the next call.
INLINE row_lines lines_for_call(value_fetch *f) {
  if (f->row >= f->tile->ahead_keys) return (row_lines){.count = 0};
  const row_lines lines = {f->tile->ahead[f->row] + 64 * f->line, (int)smaller(f->call_lines, f->row_lines - f->line)};
  f->line += f->call_lines;
  if (f->line >= f->row_lines) f->row += AHEAD_ROWS, f->line = 0;
  return lines;
}

/// u = u * old + unit * sums for 32 columns of a row of the block, of which `count` are there.
INLINE void add_values(float *u, qk_int count, const softmax_block *b, int row, vf first, vf last) {
  const vf unit = f_set1(b->unit[row]), old = f_set1(b->old[row]);
  f_storen(u, f_fma(first, unit, f_mul(f_loadn(u, count), old)), count);
  f_storen(u + 16, f_fma(last, unit, f_mul(f_loadn(u + 16, count - 16), old)), count - 16);
}

/// Weighted values of rows r ..< r + rows of the block and 16 * columns columns of a panel.
INLINE void value_micro(float *u, qk_int u_stride, const softmax_block *b, int r, const uint32_t *panel, int pairs, qk_int count,
                        row_lines ahead, const int rows, const int columns) {
  vi acc[4][4];
  for (int i = 0; i < rows; i++)
    for (int c = 0; c < columns; c++) acc[i][c] = i_set1(0);
  for (int s = 0; s < pairs; s++) {
    vi v[4];
    if (s < ahead.count) _mm_prefetch((const char *)ahead.first + 64 * s, _MM_HINT_T1);
    for (int c = 0; c < columns; c++) v[c] = i_load(panel + s * VALUE_PANEL + 16 * c);
    for (int i = 0; i < rows; i++) {
      const vi w = i_set1((int32_t)b->weights[s][r + i]);
      for (int c = 0; c < columns; c++) acc[i][c] = i_dot16(acc[i][c], w, v[c]);
    }
  }
  for (int i = 0; i < rows; i++)
    for (int c = 0; c < columns; c += 2) {
      vf first, last;
      f_uninterleave(f_of_i(acc[i][c]), f_of_i(acc[i][c + 1]), &first, &last);
      add_values(u + i * u_stride + 16 * c, count - 16 * c, b, r + i, first, last);
    }
}

INLINE void value_rows(float *u, qk_int u_stride, const softmax_block *b, int r, const uint32_t *panel, int pairs, qk_int count,
                       row_lines ahead, const int rows) {
  for (int c = 0; c < VALUE_PANEL / 16 && 16 * c < count; c += DOT_COLUMNS, ahead.count = 0)
    value_micro(u + 16 * c, u_stride, b, r, panel + 16 * c, pairs, count - 16 * c, ahead, rows, DOT_COLUMNS);
}

/// By way of panels: where many blocks of query rows share them, or registers are few.
static void value_panel_block(const attention_run *run, const key_tile *tile, qk_int first, int rows, int keys, const softmax_block *b) {
  const qk_int stride = run->state.u_stride, calls = (rows + DOT_ROWS - 1) / DOT_ROWS;
  value_fetch fetch = fetch_for_values(run, tile, first, padded(run->value_width, VALUE_PANEL) / VALUE_PANEL * calls);
  for (qk_int j = 0; j < run->value_width; j += VALUE_PANEL) {
    uint32_t *panel = tile->value_panels + (tile->whole_panels ? j * (QK_KEY_TILE / 2) : 0);
    if (!tile->whole_panels) make_value_panel(tile->key, tile->keys, j, panel);
    const qk_int count = run->value_width - j;
    for (int r = 0; r < rows; r += DOT_ROWS) {
      float *u = run->state.u + (first + r) * stride + j;
      const row_lines ahead = lines_for_call(&fetch);
#define STEP(n) \
  if (n <= DOT_ROWS) value_rows(u, stride, b, r, panel, (keys + 1) / 2, count, ahead, n <= DOT_ROWS ? n : 1)
      FOR_COUNT(smaller(rows - r, DOT_ROWS), STEP)
#undef STEP
    }
  }
}

/// Weighted values of `rows` rows of the block and columns [j, j + 32), two keys at a time as they lie.
INLINE void value_direct_micro(float *u, qk_int u_stride, const softmax_block *b, int r, const void *const *keys, int pairs, qk_int j,
                               qk_int count, row_lines ahead, const int rows) {
  vi low[VALUE_ROWS], high[VALUE_ROWS];
  for (int i = 0; i < rows; i++) low[i] = high[i] = i_set1(0);
  for (int s = 0; s < pairs; s++) {
    vi v[2];
    if (s < ahead.count) _mm_prefetch((const char *)ahead.first + 64 * s, _MM_HINT_T1);
    w_interleave(b_load((const int16_t *)keys[2 * s] + j), b_load((const int16_t *)keys[2 * s + 1] + j), &v[0], &v[1]);
    for (int i = 0; i < rows; i++) {
      const vi w = i_set1((int32_t)b->weights[s][r + i]);
      low[i] = i_dot16(low[i], v[0], w);
      high[i] = i_dot16(high[i], v[1], w);
    }
  }
  for (int i = 0; i < rows; i++) {
    vf first, last;
    f_uninterleave(f_of_i(low[i]), f_of_i(high[i]), &first, &last);
    add_values(u + i * u_stride, count, b, r + i, first, last);
  }
}

/// For one block of query rows that nobody shares the values with: no panel.
static void value_direct_block(const attention_run *run, const key_tile *tile, int rows, int keys, const softmax_block *b) {
  const qk_int stride = run->state.u_stride, calls = (rows + VALUE_ROWS - 1) / VALUE_ROWS;
  value_fetch fetch = fetch_for_values(run, tile, 0, padded(run->value_width, 32) / 32 * calls);
  for (qk_int j = 0; j < run->value_width; j += 32)
    for (int r = 0; r < rows; r += VALUE_ROWS) {
      float *u = run->state.u + r * stride + j;
      const row_lines ahead = lines_for_call(&fetch);
      const qk_int count = run->value_width - j;
#define STEP(n) \
  if (n <= VALUE_ROWS) value_direct_micro(u, stride, b, r, tile->key, (keys + 1) / 2, j, count, ahead, n <= VALUE_ROWS ? n : 1)
      FOR_COUNT(smaller(rows - r, VALUE_ROWS), STEP)
#undef STEP
    }
}

static void attend_tile16(const attention_run *run, const key_tile *tile) {
  softmax_block block;
  for (qk_int first = 0; first < run->rows; first += BLOCK_ROWS) {
    const int rows = (int)smaller(BLOCK_ROWS, run->rows - first);
    const int keys = seen_by(run, tile, first + rows - 1);  // later rows see more
    if (keys == 0) continue;
    for (int i = 0; i < keys; i += DOT_KEYS) key_scores(run, tile, first, i, block.scores + i);
    softmax_integers(run, tile, first, keys, &block);
    if (DIRECT_VALUES && !tile->whole_panels) value_direct_block(run, tile, rows, keys, &block);
    else value_panel_block(run, tile, first, rows, keys, &block);
  }
}
