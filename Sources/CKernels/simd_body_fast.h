// Private body, compiled once per ISA: products of packed weights with quantised activations: a few tokens by simd_body_direct.h, more by way of
// unpacked tiles.

enum { Q8_0_BLOCKS = 8 };

/// All of `w` for up to QK_TOKEN_BLOCK tokens, by way of unpacked tiles of 256 columns; pairs of row groups where the registers allow it.
static void quantised_tiles(const qk_matrix *w, qk_int begin, qk_int end, const qk_act_block *const *x, qk_int count, float *y, qk_int y_stride,
                            uint8_t *scratch) {
  enum { TILE_BYTES = 16 * TILE_COLUMNS, SCALES = 16 * 16 };
  float *scales = (float *)(scratch + 2 * TILE_BYTES), *sums = scales + 4 * SCALES;
  const qk_int nb = w->columns / 32, tile_bytes = quant_tile_bytes(w->type), group_bytes = w->row_bytes * QK_ROW_GROUP;
  const int lines = lines_to_fetch(w->type, count);
  const quant_function run = quant_function_for(w->type);
  // Few tokens read a Q8_0 row group in one go; many share pieces of it that stay in the first-level cache.
  // Scales per 16 columns need more registers than a pair of row groups leaves.
  const bool pairs = QUANT_GROUPS > 1 && count > QUANT_TOKENS && qk_format_of(w->type)->sub == 32;
  const qk_int most = w->type != QK_Q8_0 ? 8 : count <= QUANT_TOKENS ? nb : Q8_0_BLOCKS;
  for (qk_int i = begin; i < end;) {
    const int groups = pairs && end - i > QK_ROW_GROUP ? 2 : 1;
    const uint8_t *group = (const uint8_t *)w->data + i * w->row_bytes;
    for (qk_int first = 0; first < nb; first += most) {
      const qk_int blocks = nb - first < most ? nb - first : most;
      quant_tile tile[2];
      for (int g = 0; g < groups; g++)
        tile[g] = unpack_tile(w->type, group + g * group_bytes, first, blocks, scratch + g * TILE_BYTES, scales + 2 * g * SCALES,
                              scales + (2 * g + 1) * SCALES);
      // Beyond a group's last tile, the first ones of the group that is next; of two, of the next two.
      const qk_int tile_at = first / 8 * tile_bytes, ahead = groups > 1 ? TILES_AHEAD * tile_bytes : AHEAD_BYTES;
      const qk_int beyond = groups > 1 && first + 8 * TILES_AHEAD >= nb ? group_bytes : 0;
      fetch_plan plan = {.lines = lines, .stride = 64 * lines};
      for (int g = 0; g < 2; g++) plan.at[g] = group + g * group_bytes + beyond + tile_at + ahead;
      run(tile, groups, x, count, first, blocks, sums, &plan);
    }
    for (int g = 0; g < groups; g++, i += QK_ROW_GROUP)
      for (qk_int t = 0; t < count; t++) f_storen(y + t * y_stride + i, f_load(sums + 16 * (g * QK_TOKEN_BLOCK + t)), end - i);
  }
}

static void matmul_quantised(const qk_matrix *w, qk_int begin, qk_int end, const void *activations, const int32_t *index, qk_int tokens,
                             float *y, qk_int y_stride, void *scratch) {
  const qk_int x_bytes = qk_activation_bytes(QK_ACT_Q8, w->columns);
  for (qk_int t0 = 0, count; t0 < tokens; t0 += count) {
    count = qk_next_block(tokens - t0);
    const qk_act_block *x[QK_TOKEN_BLOCK];
    for (qk_int t = 0; t < count; t++)
      x[t] = (const qk_act_block *)((const uint8_t *)activations + (index ? index[t0 + t] : t0 + t) * x_bytes);
    float *out = y + t0 * y_stride;
    const direct_function direct = direct_function_for(w->type, count);
    if (w->columns < 32)
      for (qk_int t = 0; t < count; t++) memset(out + t * y_stride + begin, 0, (size_t)(end - begin) * 4);
    else if (direct) quantised_direct(w, direct, begin, end, x, count, out, y_stride, scratch);
    else quantised_tiles(w, begin, end, x, count, out, y_stride, scratch);
  }
}
