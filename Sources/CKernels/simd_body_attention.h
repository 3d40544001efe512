// Private body, compiled once per ISA: attention over tiles of QK_KEY_TILE keys with a running softmax (SPEC 2.4), as two small matrix
// products per 16 query rows: float32 for exact work and float caches here, 16-bit integers in simd_body_attention16.h. A row's sums run
// over tiles at absolute positions, in rising order: the bits do not depend on other rows, the page size or the chunking. Masked keys get
// weight 0.

enum { BLOCK_ROWS = 16, VALUE_PANEL = 64 };

/// One call: padded queries in scratch and the state that goes on.
typedef struct attention_run {
  qk_int rows, rows_per_token, first_position;
  qk_int key_width;     // padded: a multiple of 16 (float); main_width + rest_width (integers)
  qk_int main_width, rest_width;  // integers: the parts of a key, multiples of 32; the rest may be absent
  qk_int row_bytes;     // integers: of a cache row
  qk_int value_width;   // as the state has it
  bool integers;
  const void *q;        // float: [rows, key_width]. Integers: for each 16 rows a panel [key_width / 2, 16] of words, two columns each
  bool bytes;           // integers: the main part in bytes (simd_body_attention8.h), else in words
  const float *q_scale, *q_rest_scale;  // integers: [rows, padded to 16] of main part and rest; with bytes a main scale per group
  const int32_t *seen;  // integers: [rows, padded to 16] keys before this position are seen
  qk_softmax_state state;
} attention_run;

/// Keys [begin, begin + keys) of one tile.
typedef struct key_tile {
  const void *key[QK_KEY_TILE];  // each [key_width], zero beyond its real width. Integers: beyond `keys` the last again, with weight 0
  uint32_t *value_panels;        // integers: panels of 64 columns, [QK_KEY_TILE / 2, 64] pairs of keys each
  bool whole_panels;             // integers: all are complete; else one is made where it is used, once, and stays in the first-level cache
  const void *values;            // float: [keys, value_stride]
  qk_int value_stride;           // padded value width, a multiple of 16 (float only)
  qk_int begin;
  int keys;
  int ahead_keys;                // cache rows to fetch meanwhile
  const uint8_t *ahead[QK_KEY_TILE];
  const uint8_t *beside;         // and what else is to be fetched, [beside_bytes], by beside_lines cache lines for each of a key
  qk_int beside_bytes, beside_lines;
  float *largest;                // bytes: [keys, largest_stride] largest value scale of each group up to a key
  qk_int largest_stride;
  float scale[QK_KEY_TILE], rest_scale[QK_KEY_TILE], value_scale[QK_KEY_TILE];  // integers; zero beyond `keys`
} key_tile;

INLINE qk_int padded(qk_int n, qk_int to) { return (n + to - 1) / to * to; }
INLINE qk_int smaller(qk_int a, qk_int b) { return a < b ? a : b; }

/// Integers: bytes of a query row.
INLINE qk_int query_bytes(const attention_run *run) { return (run->bytes ? 1 : 2) * run->main_width + 2 * run->rest_width; }

/// A row sees the keys before this position.
INLINE qk_int seen_before(const attention_run *run, qk_int row) { return run->first_position + row / run->rows_per_token + 1; }
/// Keys of the tile that a row sees.
INLINE int seen_by(const attention_run *run, const key_tile *tile, qk_int row) {
  const qk_int seen = seen_before(run, row) - tile->begin;
  return seen < 0 ? 0 : seen > tile->keys ? tile->keys : (int)seen;
}

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

/// What sums made with the largest score `before` are scaled by when the largest becomes `now`.
INLINE float rescale(float before, float now) {
  float factor[16];
  f_store(factor, f_exp(f_set1(before - now)));
  return factor[0];
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
  const float old = rescale(*m, shift);
  *m = largest;
  *l = *l * old + f_sum(sum);
  return old;
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

static void attend_tile(const attention_run *run, const key_tile *tile) {
  float scores[BLOCK_ROWS][QK_KEY_TILE], old[BLOCK_ROWS];
  for (qk_int first = 0; first < run->rows; first += BLOCK_ROWS) {
    const int rows = (int)smaller(BLOCK_ROWS, run->rows - first);
    const int keys = seen_by(run, tile, first + rows - 1);  // later rows see more
    if (keys == 0) continue;
    score_block(run, tile, first, rows, keys, scores);
    for (int r = 0; r < rows; r++)
      old[r] = softmax_row(scores[r], seen_by(run, tile, first + r), &run->state.m[first + r], &run->state.l[first + r]);
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
