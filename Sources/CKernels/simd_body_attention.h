// Private body, compiled once per ISA: attention over tiles of QK_KEY_TILE keys with a running softmax (SPEC 2.4), as two
// small matrix products per 16 query rows. A row's sums run over k, then over keys, in rising order, tile after tile at
// absolute positions: the bits do not depend on other rows, the page size or the chunking. Masked keys get weight 0.

enum { BLOCK_ROWS = 16, VALUE_PANEL = 64 };

/// One call: padded queries in scratch and the state that goes on.
typedef struct attention_run {
  qk_int rows, rows_per_token, first_position;
  qk_int key_width;    // padded: a multiple of 16 (float) or 32 (bfloat16)
  qk_int value_width;  // as the state has it
  bool bf16;
  const void *q;       // [rows, key_width] float or bfloat16
  qk_softmax_state state;
} attention_run;

/// Keys [begin, begin + keys) of one tile.
typedef struct key_tile {
  const void *key[QK_KEY_TILE];  // each [key_width] float or bfloat16, zero beyond its real width
  const uint32_t *key_panel;     // bfloat16, not NULL: instead of `key`, [key_width / 2, QK_KEY_TILE] pairs of columns
  const void *values;                  // float: [keys, value_stride]; bfloat16: panels of 64 columns, [keys / 2, 64, 2] each, pairs interleaved
  qk_int value_stride;           // padded value width, a multiple of 16 (float only)
  qk_int begin;
  int keys;
  int ahead_keys;                     // cache rows to fetch meanwhile, each ahead_bytes long
  qk_int ahead_bytes;
  const uint8_t *ahead[QK_KEY_TILE];
} key_tile;

INLINE qk_int padded(qk_int n, qk_int to) { return (n + to - 1) / to * to; }
INLINE qk_int smaller(qk_int a, qk_int b) { return a < b ? a : b; }

#if QK_BF16_DOT
/// out[i * QK_KEY_TILE + j] = a_i . b_j of up to 4 rows `a` (the last stands in for missing ones) and 4 keys, bfloat16, `count` a multiple
/// of 32.
INLINE void dot_tile_bf16(const uint16_t *a, qk_int a_stride, int rows, const uint16_t *const *b, qk_int count, float *out) {
  const uint16_t *row[4];
  for (int i = 0; i < 4; i++) row[i] = a + smaller(i, rows - 1) * a_stride;
  vf acc[4][4];
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++) acc[i][j] = f_zero();
  for (qk_int k = 0; k < count; k += 32) {
    __m512bh bv[4];
    for (int j = 0; j < 4; j++) bv[j] = (__m512bh)b_load(b[j] + k);
    for (int i = 0; i < 4; i++) {
      const __m512bh av = (__m512bh)b_load(row[i] + k);
      for (int j = 0; j < 4; j++) acc[i][j] = _mm512_dpbf16_ps(acc[i][j], av, bv[j]);
    }
  }
  for (int i = 0; i < 4 && i < rows; i++) _mm_storeu_ps(out + i * QK_KEY_TILE, f_sum4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]));
}
#endif

#if QK_BF16_DOT
/// As score_block: a group of keys against all rows, so that the keys come once from where they lie.
static void score_block_bf16(const attention_run *run, const key_tile *tile, qk_int first, int rows, int keys, float (*scores)[QK_KEY_TILE]) {
  const uint16_t *q = (const uint16_t *)run->q + first * run->key_width;
  for (int j = 0; j < keys; j += 4) {
    const uint16_t *k[4];
    for (int s = j; first == 0 && s < j + 4 && s < tile->ahead_keys; s++)
      for (qk_int i = 0; i < tile->ahead_bytes; i += 64) _mm_prefetch((const char *)tile->ahead[s] + i, _MM_HINT_T1);
    for (int s = 0; s < 4; s++) k[s] = tile->key[smaller(j + s, keys - 1)];
    for (int i = 0; i < rows; i += 4) dot_tile_bf16(q + i * run->key_width, run->key_width, rows - i, k, run->key_width, &scores[i][j]);
  }
}

/// scores[i][0 ..< QK_KEY_TILE] of `rows` neighbouring rows against a transposed tile: no sums across lanes.
INLINE void score_panel_rows(const uint16_t *q, qk_int key_width, const uint32_t *panel, float (*scores)[QK_KEY_TILE], const int rows) {
  vf acc[4][4];
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < 4; c++) acc[r][c] = f_zero();
  for (qk_int k = 0; k < key_width; k += 2) {
    __m512bh v[4];
    for (int c = 0; c < 4; c++) v[c] = (__m512bh)b_load(panel + k / 2 * QK_KEY_TILE + 16 * c);
    for (int r = 0; r < rows; r++) {
      const __m512bh w = (__m512bh)_mm512_set1_epi32((int32_t)qk_load32(q + r * key_width + k));
      for (int c = 0; c < 4; c++) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], w, v[c]);
    }
  }
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < 4; c++) f_store(scores[r] + 16 * c, acc[r][c]);
}

static void score_block_panel(const attention_run *run, const key_tile *tile, qk_int first, int rows, float (*scores)[QK_KEY_TILE]) {
  const uint16_t *q = (const uint16_t *)run->q + first * run->key_width;
  int i = 0;
  for (; i + 4 <= rows; i += 4) score_panel_rows(q + i * run->key_width, run->key_width, tile->key_panel, scores + i, 4);
  for (; i < rows; i++) score_panel_rows(q + i * run->key_width, run->key_width, tile->key_panel, scores + i, 1);
}

/// Sixteen rows of 16 words -> out[j * out_stride + i] = row i, word j.
static void transpose_words(const uint32_t *const *rows, uint32_t *out, qk_int out_stride) {
  vb a[16], b[16];
  for (int i = 0; i < 16; i++) a[i] = b_load(rows[i]);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  // a[4 g + w]: words w, w + 4, w + 8, w + 12 of rows 4 g ... 4 g + 3, a lane each.
  for (int w = 0; w < 4; w++) {
    const vb low = _mm512_shuffle_i32x4(a[w], a[4 + w], 0x88), high = _mm512_shuffle_i32x4(a[8 + w], a[12 + w], 0x88);
    const vb low_odd = _mm512_shuffle_i32x4(a[w], a[4 + w], 0xDD), high_odd = _mm512_shuffle_i32x4(a[8 + w], a[12 + w], 0xDD);
    b_store(out + w * out_stride, _mm512_shuffle_i32x4(low, high, 0x88));
    b_store(out + (w + 8) * out_stride, _mm512_shuffle_i32x4(low, high, 0xDD));
    b_store(out + (w + 4) * out_stride, _mm512_shuffle_i32x4(low_odd, high_odd, 0x88));
    b_store(out + (w + 12) * out_stride, _mm512_shuffle_i32x4(low_odd, high_odd, 0xDD));
  }
}

/// The tile's key rows as a panel; `key_width` a multiple of 32. Missing keys repeat the last, whose scores nobody looks at.
static void transpose_keys(const key_tile *tile, qk_int key_width, uint32_t *panel) {
  for (int s = 0; s < tile->keys; s += 16)
    for (qk_int w = 0; w < key_width / 2; w += 16) {
      const uint32_t *rows[16];
      for (int i = 0; i < 16; i++) rows[i] = (const uint32_t *)tile->key[smaller(s + i, tile->keys - 1)] + w;
      transpose_words(rows, panel + w * QK_KEY_TILE + s, QK_KEY_TILE);
    }
}
#endif

/// scores[i][j] for rows first ..< first + rows and keys 0 ..< keys. Tails repeat the last row or key and drop the result.
static void score_block(const attention_run *run, const key_tile *tile, qk_int first, int rows, int keys, float (*scores)[QK_KEY_TILE]) {
  for (int i = 0; i < rows; i += DOT_ROWS)
    for (int j = 0; j < keys; j += DOT_COLUMNS) {
      float out[4][4];
      const float *q[4], *k[4];
      for (int r = 0; r < DOT_ROWS; r++) q[r] = (const float *)run->q + (first + (i + r < rows ? i + r : rows - 1)) * run->key_width;
      for (int s = 0; s < DOT_COLUMNS; s++) k[s] = tile->key[j + s < keys ? j + s : keys - 1];
      dot_tile(q, k, run->key_width, DOT_ROWS, DOT_COLUMNS, out);
      for (int r = 0; r < DOT_ROWS && i + r < rows; r++)
        for (int s = 0; s < DOT_COLUMNS; s++) scores[i + r][j + s] = out[r][s];  // j + s < QK_KEY_TILE always
    }
}

/// Scores of one row -> weights exp(score - m), zero from `seen` on; updates m and l; returns what the old sums are scaled by.
INLINE float softmax_row(float *scores, int seen, float *m, float *l) {
  vf v[QK_KEY_TILE / 16], most = f_set1(*m);
  for (int i = 0; i < QK_KEY_TILE / 16; i++) {
    v[i] = f_first(seen - 16 * i, f_load(scores + 16 * i), f_set1(-INFINITY));
    most = f_max(v[i], most);
  }
  const float largest = f_hmax(most), shift = largest == -INFINITY ? 0 : largest;
  vf sum = f_zero();
  for (int i = 0; i < QK_KEY_TILE / 16; i++) {
    v[i] = f_exp(f_sub(v[i], f_set1(shift)));
    f_store(scores + 16 * i, v[i]);
    sum = f_add(sum, v[i]);
  }
  float old[16];
  f_store(old, f_exp(f_set1(*m - shift)));
  *m = largest;
  *l = *l * old[0] + f_sum(sum);
  return old[0];
}

/// u[r][0 ..< count] = u * old + sum over keys of weight * value, COLUMNS vectors of 16 wide.
INLINE void value_tile(float *const *u, const float *old, const float *const *weight, const float *values, qk_int stride, int keys,
                       qk_int count, int rows, int columns) {
  vf acc[4][4];
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < columns; c++) acc[r][c] = f_mul(f_loadn(u[r] + 16 * c, count - 16 * c), f_set1(old[r]));
  for (int s = 0; s < keys; s++) {
    vf v[4];
    for (int c = 0; c < columns; c++) v[c] = f_load(values + s * stride + 16 * c);
    for (int r = 0; r < rows; r++)
      for (int c = 0; c < columns; c++) acc[r][c] = f_fma(f_set1(weight[r][s]), v[c], acc[r][c]);
  }
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < columns; c++) f_storen(u[r] + 16 * c, acc[r][c], count - 16 * c);
}

#if QK_BF16_DOT
/// Two value rows -> pairs, into their places in the panels of 64 columns. `width` a multiple of 16; b NULL = zeros.
static void interleave_rows(const uint16_t *a, const uint16_t *b, qk_int width, uint32_t *out) {
  const vb low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40, 8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
  const vb high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  qk_int j = 0;
  for (; j + 32 <= width; j += 32) {
    const vb x = b_load(a + j), y = b ? b_load(b + j) : b_set1(0);
    uint32_t *at = out + j / VALUE_PANEL * (QK_KEY_TILE / 2 * VALUE_PANEL) + j % VALUE_PANEL;
    b_store(at, _mm512_permutex2var_epi16(x, low, y));
    b_store(at + 16, _mm512_permutex2var_epi16(x, high, y));
  }
  for (; j < width; j++)
    out[j / VALUE_PANEL * (QK_KEY_TILE / 2 * VALUE_PANEL) + j % VALUE_PANEL] = (uint32_t)a[j] | (uint32_t)(b ? b[j] : 0) << 16;
}

static void interleave_values(const void *const *rows, int keys, qk_int width, uint32_t *out) {
  for (int s = 0; s < keys; s += 2) interleave_rows(rows[s], s + 1 < keys ? rows[s + 1] : NULL, width, out + s / 2 * VALUE_PANEL);
}

/// One panel of 64 columns (`count` of them real) for `rows` neighbouring rows.
INLINE void value_tile_bf16(float *u, qk_int u_stride, const float *old, const uint16_t *weight, const uint32_t *panel, int keys, qk_int count,
                            const int rows) {
  vf acc[4][4];
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < 4; c++) acc[r][c] = f_mul(f_loadn(u + r * u_stride + 16 * c, count - 16 * c), f_set1(old[r]));
  for (int s = 0; s < keys; s += 2) {
    __m512bh v[4];
    for (int c = 0; c < 4; c++) v[c] = (__m512bh)b_load(panel + s / 2 * VALUE_PANEL + 16 * c);
    for (int r = 0; r < rows; r++) {
      const __m512bh w = (__m512bh)_mm512_set1_epi32((int32_t)qk_load32(weight + r * QK_KEY_TILE + s));
      for (int c = 0; c < 4; c++) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], w, v[c]);
    }
  }
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < 4; c++) f_storen(u + r * u_stride + 16 * c, acc[r][c], count - 16 * c);
}

static void value_block_bf16(const attention_run *run, const key_tile *tile, qk_int first, int rows, int keys, float (*weights)[QK_KEY_TILE],
                             const float *old) {
  uint16_t rounded[BLOCK_ROWS][QK_KEY_TILE];
  for (int r = 0; r < rows; r++)
    for (int s = 0; s < QK_KEY_TILE; s += 16)
      _mm256_storeu_si256((__m256i_u *)&rounded[r][s], (__m256i)_mm512_cvtneps_pbh(f_load(&weights[r][s])));
  const qk_int stride = run->state.u_stride;
  for (qk_int j = 0; j < run->value_width; j += VALUE_PANEL) {
    const uint32_t *panel = (const uint32_t *)tile->values + j * (QK_KEY_TILE / 2);
    const qk_int count = run->value_width - j;
    for (int r = 0; r < rows; r += 4) {
      float *u = run->state.u + (first + r) * stride + j;
      switch (rows - r) {
        case 1: value_tile_bf16(u, stride, old + r, rounded[r], panel, keys, count, 1); break;
        case 2: value_tile_bf16(u, stride, old + r, rounded[r], panel, keys, count, 2); break;
        case 3: value_tile_bf16(u, stride, old + r, rounded[r], panel, keys, count, 3); break;
        default: value_tile_bf16(u, stride, old + r, rounded[r], panel, keys, count, 4); break;
      }
    }
  }
}
#endif

/// Adds the weighted values to u of rows [first, first + rows).
static void value_block(const attention_run *run, const key_tile *tile, qk_int first, int rows, int keys, float (*weights)[QK_KEY_TILE],
                        const float *old) {
  for (qk_int j = 0; j < run->value_width; j += 16 * DOT_COLUMNS) {
    const qk_int count = run->value_width - j;
    const float *v = (const float *)tile->values + j;
    for (int r = 0; r < rows; r += DOT_ROWS) {
      float *u[4];
      const float *w[4];
      const int live = rows - r < DOT_ROWS ? rows - r : DOT_ROWS;
      for (int i = 0; i < live; i++) {
        u[i] = run->state.u + (first + r + i) * run->state.u_stride + j;
        w[i] = weights[r + i];
      }
      if (live == DOT_ROWS && tile->value_stride - j >= 16 * DOT_COLUMNS) {
        value_tile(u, old + r, w, v, tile->value_stride, keys, count, DOT_ROWS, DOT_COLUMNS);
        continue;
      }
      for (int i = 0; i < live; i++)
        for (qk_int c = 0; c < 16 * DOT_COLUMNS && c < count; c += 16) {
          float *one = u[i] + c;
          value_tile(&one, old + r + i, w + i, v + c, tile->value_stride, keys, count - c, 1, 1);
        }
    }
  }
}

/// Keys of the tile that a row sees.
INLINE int seen_by(const attention_run *run, const key_tile *tile, qk_int row) {
  const qk_int seen = run->first_position + row / run->rows_per_token + 1 - tile->begin;
  return seen < 0 ? 0 : seen > tile->keys ? tile->keys : (int)seen;
}

static void attend_tile(const attention_run *run, const key_tile *tile) {
  float scores[BLOCK_ROWS][QK_KEY_TILE], old[BLOCK_ROWS];
  for (qk_int first = 0; first < run->rows; first += BLOCK_ROWS) {
    const int rows = (int)smaller(BLOCK_ROWS, run->rows - first);
    const int keys = seen_by(run, tile, first + rows - 1);  // later rows see more
    if (keys == 0) continue;
#if QK_BF16_DOT
    if (run->bf16 && tile->key_panel) score_block_panel(run, tile, first, rows, scores);
    else if (run->bf16) score_block_bf16(run, tile, first, rows, keys, scores);
    else
#endif
      score_block(run, tile, first, rows, keys, scores);
    for (int r = 0; r < rows; r++)
      old[r] = softmax_row(scores[r], seen_by(run, tile, first + r), &run->state.m[first + r], &run->state.l[first + r]);
#if QK_BF16_DOT
    if (run->bf16) value_block_bf16(run, tile, first, rows, keys, scores, old);
    else
#endif
      value_block(run, tile, first, rows, keys, scores, old);
  }
}

static void v_attention_reset(const qk_softmax_state *s, qk_int rows, qk_int width) { qk_scalar_attention_reset(s, rows, width); }

static void v_attention_merge(const qk_softmax_state *into, const qk_softmax_state *from, qk_int rows, qk_int width) {
  for (qk_int i = 0; i < rows; i++) {
    if (from->m[i] == -INFINITY) continue;
    const float m = into->m[i] > from->m[i] ? into->m[i] : from->m[i];
    float factors[16];
    f_store(factors, f_exp(f_first(1, f_set1(into->m[i] - m), f_set1(from->m[i] - m))));
    const vf old = f_set1(factors[0]), add = f_set1(factors[1]);
    into->m[i] = m;
    into->l[i] = into->l[i] * factors[0] + from->l[i] * factors[1];
    float *u = into->u + i * into->u_stride;
    const float *v = from->u + i * from->u_stride;
    for (qk_int j = 0; j < width; j += 16)
      f_storen(u + j, f_fma(f_loadn(v + j, width - j), add, f_mul(f_loadn(u + j, width - j), old)), width - j);
  }
}

static void v_attention_finish(const qk_softmax_state *s, qk_int rows, qk_int width, float *out, qk_int out_stride) {
  for (qk_int i = 0; i < rows; i++) {
    const float *u = s->u + i * s->u_stride;
    const vf inverse = f_set1(s->m[i] == -INFINITY ? 0 : 1.0f / s->l[i]);
    for (qk_int j = 0; j < width; j += 16) f_storen(out + i * out_stride + j, f_mul(f_loadn(u + j, width - j), inverse), width - j);
  }
}
