// Private body, compiled once per ISA: the attention of simd_body_attention.h in 16-bit integers. Keys, queries and values are rows with a
// scale each (cache.h, QK_INT16_NORM), so no sum of products can overflow, whatever a model or a cache holds; products are exact, and the
// rounding of a row is finer than bfloat16's. Scores become floats for the softmax, its weights integers again, tile by tile.

/// Weights of a tile, and of the 64 roundings, together at most: times a value of 2^15 they stay below 2^31.
enum { WEIGHTS_SUM = 32000, PANEL_PAIRS = 64 };

/// Columns [at, at + width) of the tile's rows as a panel of pairs; `width` a multiple of 32. Missing keys repeat the last, whose scores nobody looks at.
static void make_key_panel(const key_tile *tile, qk_int at, qk_int width, uint32_t *panel) {
  for (int s = 0; s < tile->keys; s += 16) {
    const uint32_t *rows[16];
    for (int i = 0; i < 16; i++) rows[i] = (const uint32_t *)tile->key[smaller(s + i, tile->keys - 1)] + at / 2;
    for (qk_int w = 0; w < width / 2; w += 16) {
      transpose_words(rows, panel + w * QK_KEY_TILE + s, QK_KEY_TILE);
      for (int i = 0; i < 16; i++) rows[i] += 16;
    }
  }
}

/// Columns [at, at + 64) of value rows -> pairs of neighbouring keys: the even and the odd columns of each 32.
static void make_value_panel(const void *const *rows, int keys, qk_int at, uint32_t *panel) {
  for (int s = 0; s < keys; s += 2, panel += VALUE_PANEL) {
    const int16_t *first = (const int16_t *)rows[s] + at, *second = s + 1 < keys ? (const int16_t *)rows[s + 1] + at : first;  // its weight is 0
    for (int half = 0; half < VALUE_PANEL; half += 32) {
      vb even, odd;
      w_pairs(b_load(first + half), b_load(second + half), &even, &odd);
      b_store(panel + half, even);
      b_store(panel + half + 16, odd);
    }
  }
}

/// sums[r][0 ..< 16 * columns] (+)= products of `rows` query rows with a panel of `pairs` pairs of columns. Meanwhile a cache line at
/// `ahead` is fetched per pair: a burst of prefetches would wait for the few misses that may be under way at once.
INLINE void score_micro(const int16_t *q, qk_int q_stride, const uint32_t *panel, qk_int pairs, int32_t (*sums)[QK_KEY_TILE], bool fresh,
                        const uint8_t *ahead, const int rows, const int columns) {
  vi acc[4][4];
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < columns; c++) acc[r][c] = fresh ? i_set1(0) : i_load(sums[r] + 16 * c);
  for (qk_int k = 0; k < pairs; k++) {
    vi v[4];
    _mm_prefetch((const char *)ahead + 64 * k, _MM_HINT_T1);
    for (int c = 0; c < columns; c++) v[c] = i_load(panel + k * QK_KEY_TILE + 16 * c);
    for (int r = 0; r < rows; r++) {
      const vi w = i_set1((int32_t)qk_load32(q + r * q_stride + 2 * k));
      for (int c = 0; c < columns; c++) acc[r][c] = i_dot16(acc[r][c], w, v[c]);
    }
  }
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < columns; c++) b_store(sums[r] + 16 * c, acc[r][c]);
}

INLINE void score_rows(const int16_t *q, qk_int q_stride, const uint32_t *panel, qk_int pairs, int32_t (*sums)[QK_KEY_TILE], bool fresh,
                       int keys, const uint8_t *ahead, const int rows) {
  for (int c = 0, left = (keys + 15) / 16; left > 0;) {  // sixteens of keys
    int32_t(*at)[QK_KEY_TILE] = (int32_t(*)[QK_KEY_TILE]) & sums[0][16 * c];
    const int count = left >= DOT_COLUMNS ? DOT_COLUMNS : left >= 2 ? 2 : 1;
    if (count == DOT_COLUMNS) score_micro(q, q_stride, panel + 16 * c, pairs, at, fresh, ahead, rows, DOT_COLUMNS);
    else if (count == 2) score_micro(q, q_stride, panel + 16 * c, pairs, at, fresh, ahead, rows, 2);
    else score_micro(q, q_stride, panel + 16 * c, pairs, at, fresh, ahead, rows, 1);
    c += count, left -= count;
  }
}

/// Where piece `turn` of `turns` of the next tile's cache rows begins; with none, some line that is at hand.
INLINE const uint8_t *rows_ahead(const key_tile *tile, qk_int turn, qk_int turns) {
  return tile->ahead_keys > 0 && turn < turns ? tile->ahead[tile->ahead_keys * turn / turns] : (const uint8_t *)tile->key_panel;
}

/// Products of rows [first, first + rows) with columns [begin, begin + width) of the keys, a piece of the panel after the other, so that a
/// piece serves all rows from the first-level cache.
static void score_part(const attention_run *run, const key_tile *tile, qk_int first, int rows, int keys, qk_int begin, qk_int width,
                       int32_t (*sums)[QK_KEY_TILE]) {
  const int16_t *q = (const int16_t *)run->q + first * run->key_width + begin;
  uint32_t *panel = tile->key_panel + begin / 2 * QK_KEY_TILE;
  const qk_int blocks = (rows + DOT_ROWS - 1) / DOT_ROWS, turns = (run->key_width / 2 + PANEL_PAIRS - 1) / PANEL_PAIRS * blocks;
  for (qk_int k = 0; k < width / 2; k += PANEL_PAIRS) {
    const qk_int pairs = smaller(PANEL_PAIRS, width / 2 - k), piece_number = (begin / 2 + k) / PANEL_PAIRS;
    uint32_t *piece = tile->whole_panels ? panel + k * QK_KEY_TILE : tile->key_panel;
    if (!tile->whole_panels) make_key_panel(tile, begin + 2 * k, 2 * pairs, piece);
    for (int i = 0; i < rows; i += DOT_ROWS) {
      const int16_t *row = q + i * run->key_width + 2 * k;
      const uint8_t *ahead = rows_ahead(tile, first == 0 ? piece_number * blocks + i / DOT_ROWS : turns, turns);
      switch (rows - i) {
        case 1: score_rows(row, run->key_width, piece, pairs, sums + i, k == 0, keys, ahead, 1); break;
        case 2: score_rows(row, run->key_width, piece, pairs, sums + i, k == 0, keys, ahead, 2); break;
        case 3: score_rows(row, run->key_width, piece, pairs, sums + i, k == 0, keys, ahead, DOT_ROWS < 3 ? DOT_ROWS : 3); break;
        default: score_rows(row, run->key_width, piece, pairs, sums + i, k == 0, keys, ahead, DOT_ROWS); break;
      }
    }
  }
}

/// What the softmax of one row needs and makes.
typedef struct softmax_step {
  const int32_t *main, *rest;  // products of the parts of the key; rest NULL: there is none
  float q_scale, q_rest_scale;
  int seen;
  float *m, *l;
  int16_t *weights;  // [QK_KEY_TILE]: exp(score - m) * value scale / unit, zero from `seen` on
  float unit, old;   // out: the weights' unit; what old sums are scaled by
} softmax_step;

INLINE void softmax_integers(const key_tile *tile, softmax_step *step) {
  enum { VECTORS = QK_KEY_TILE / 16 };
  vf v[VECTORS], most = f_set1(*step->m);
  for (int i = 0; i < VECTORS; i++) {
    v[i] = f_mul(f_of_i(i_load(step->main + 16 * i)), f_mul(f_load(tile->scale + 16 * i), f_set1(step->q_scale)));
    if (step->rest)
      v[i] = f_fma(f_of_i(i_load(step->rest + 16 * i)), f_mul(f_load(tile->rest_scale + 16 * i), f_set1(step->q_rest_scale)), v[i]);
    if (step->seen < QK_KEY_TILE) v[i] = f_first(step->seen - 16 * i, v[i], f_set1(-INFINITY));
    most = f_max(v[i], most);
  }
  const float largest = f_hmax(most), shift = largest == -INFINITY ? 0 : largest;
  vf sum = f_zero(), weighed = f_zero();
  for (int i = 0; i < VECTORS; i++) {
    vf p = f_exp_negative(f_sub(v[i], f_set1(shift))), w = f_mul(p, f_load(tile->value_scale + 16 * i));
    if (step->seen < QK_KEY_TILE) p = f_first(step->seen - 16 * i, p, f_zero()), w = f_first(step->seen - 16 * i, w, f_zero());
    sum = f_add(sum, p);
    weighed = f_add(weighed, w);
    v[i] = w;
  }
  const float total = f_sum(weighed);
  const bool ordinary = total >= 1e-30f && total <= 1e30f;  // else zero, or not a number, which the unit passes on
  const vf inverse = f_set1(ordinary ? WEIGHTS_SUM / total : 0);
  for (int i = 0; i < VECTORS; i++)
    _mm256_storeu_si256((__m256i_u *)(step->weights + 16 * i), i16_of_i(i_of_f(f_mul(v[i], inverse))));
  step->unit = total < 1e-30f ? 0 : total / WEIGHTS_SUM;
  step->old = rescale(*step->m, shift);
  *step->m = largest;
  *step->l = *step->l * step->old + f_sum(sum);
}

/// u[r][0 ..< count] = u * old + unit * weighted values, for `rows` neighbouring rows and 16 * columns columns of a panel.
INLINE void value_micro(float *u, qk_int u_stride, const softmax_step *step, const uint32_t *panel, int pairs, qk_int count, const int rows,
                        const int columns) {
  vi acc[4][4];
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < columns; c++) acc[r][c] = i_set1(0);
  for (int s = 0; s < pairs; s++) {
    vi v[4];
    for (int c = 0; c < columns; c++) v[c] = i_load(panel + s * VALUE_PANEL + 16 * c);
    for (int r = 0; r < rows; r++) {
      const vi w = i_set1((int32_t)qk_load32(step[r].weights + 2 * s));
      for (int c = 0; c < columns; c++) acc[r][c] = i_dot16(acc[r][c], w, v[c]);
    }
  }
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < columns; c += 2) {
      vf sum[2];
      f_zip(f_of_i(acc[r][c]), f_of_i(acc[r][c + 1]), &sum[0], &sum[1]);
      for (int i = 0; i < 2; i++) {
        float *at = u + r * u_stride + 16 * (c + i);
        const qk_int n = count - 16 * (c + i);
        f_storen(at, f_fma(sum[i], f_set1(step[r].unit), f_mul(f_loadn(at, n), f_set1(step[r].old))), n);
      }
    }
}

INLINE void value_rows(float *u, qk_int u_stride, const softmax_step *step, const uint32_t *panel, int pairs, qk_int count, const int rows) {
  for (int c = 0; c < VALUE_PANEL / 16 && 16 * c < count; c += DOT_COLUMNS)
    value_micro(u + 16 * c, u_stride, step, panel + 16 * c, pairs, count - 16 * c, rows, DOT_COLUMNS);
}

static void value_block16(const attention_run *run, const key_tile *tile, qk_int first, int rows, int keys, const softmax_step *steps) {
  const qk_int stride = run->state.u_stride;
  for (qk_int j = 0; j < run->value_width; j += VALUE_PANEL) {
    uint32_t *panel = tile->value_panels + (tile->whole_panels ? j * (QK_KEY_TILE / 2) : 0);
    if (!tile->whole_panels) make_value_panel(tile->key, tile->keys, j, panel);
    const qk_int count = run->value_width - j;
    for (int r = 0; r < rows; r += DOT_ROWS) {
      float *u = run->state.u + (first + r) * stride + j;
      switch (rows - r) {
        case 1: value_rows(u, stride, steps + r, panel, (keys + 1) / 2, count, 1); break;
        case 2: value_rows(u, stride, steps + r, panel, (keys + 1) / 2, count, 2); break;
        case 3: value_rows(u, stride, steps + r, panel, (keys + 1) / 2, count, DOT_ROWS < 3 ? DOT_ROWS : 3); break;
        default: value_rows(u, stride, steps + r, panel, (keys + 1) / 2, count, DOT_ROWS); break;
      }
    }
  }
}

static void attend_tile16(const attention_run *run, const key_tile *tile) {
  int32_t main[BLOCK_ROWS][QK_KEY_TILE], rest[BLOCK_ROWS][QK_KEY_TILE];
  int16_t weights[BLOCK_ROWS][QK_KEY_TILE];
  softmax_step steps[BLOCK_ROWS];
  for (qk_int first = 0; first < run->rows; first += BLOCK_ROWS) {
    const int rows = (int)smaller(BLOCK_ROWS, run->rows - first);
    const int keys = seen_by(run, tile, first + rows - 1);  // later rows see more
    if (keys == 0) continue;
    score_part(run, tile, first, rows, keys, 0, run->main_width, main);
    if (run->rest_width > 0) score_part(run, tile, first, rows, keys, run->main_width, run->rest_width, rest);
    for (int r = 0; r < rows; r++) {
      const qk_int row = first + r;
      steps[r] = (softmax_step){.main = main[r], .rest = run->rest_width > 0 ? rest[r] : NULL, .q_scale = run->q_scale[2 * row],
                                .q_rest_scale = run->q_scale[2 * row + 1], .seen = seen_by(run, tile, row), .m = &run->state.m[row],
                                .l = &run->state.l[row], .weights = weights[r]};
      softmax_integers(tile, &steps[r]);
    }
    value_block16(run, tile, first, rows, keys, steps);
  }
}
