// Private body, compiled once per ISA: up to 256 columns of a packed group (16 rows) to bytes that dot_add eats, with float
// scales and minima per row. Packed fields: see formats.c.

enum { TILE_COLUMNS = 256 };

/// 16 rows x up to 256 columns, in blocks of 32 columns.
typedef struct quant_tile {
  const uint8_t *q;       // block b: 8 vectors of [16 rows][4 columns] at q + b * stride
  qk_int stride;
  float *scale;           // [blocks or half blocks][16 rows]
  float *minimum;         // the same, if the format has minima
} quant_tile;

INLINE __m128i column16(const uint8_t *p) { return _mm_loadu_si128((const __m128i_u *)p); }
INLINE vf f_of_u8_column(__m128i v) { return f_of_i(i_of_u8(v)); }
INLINE vf f_of_i8_column(__m128i v) { return f_of_i(i_of_i8(v)); }

/// A vector of 4 x 16 fifth bits (one 32-bit word per row) -> 16 in the bytes of quad j whose bit is set.
INLINE vb fifth_bits_of_quad(vb words, int j) {
  const __m128i byte = _mm_add_epi8(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12), _mm_set1_epi8((char)(j / 2)));
  return b_where_bit(b_shuffle4(words, byte), b_set4(j % 2 ? 0x80402010u : 0x08040201u), 16);
}

/// Quad j of a block of 32 whose nibbles are at `qs`; `high`: its fifth bits, if the type has them.
INLINE vb quad32(qk_type type, const uint8_t *qs, vb high, int j) {
  const vb v = b_load(qs + 64 * (j % 4)), w = j < 4 ? b_and(v, b_set1(15)) : b_right(v, 4, 15);
  return type == QK_Q5_0 || type == QK_Q5_1 ? b_or(w, fifth_bits_of_quad(high, j)) : w;
}

INLINE void unpack_nibbles32(const uint8_t *qs, uint8_t *out) {
  for (int j = 0; j < 4; j++) {
    const vb v = b_load(qs + 64 * j);
    b_store(out + 64 * j, b_and(v, b_set1(15)));
    b_store(out + 64 * (j + 4), b_right(v, 4, 15));
  }
}

INLINE void unpack_block32(qk_type type, const uint8_t *p, uint8_t *out, float *scale, float *minimum) {
  f_store(scale, f_of_f16(p));
  p += 32;
  if (type == QK_Q4_1 || type == QK_Q5_1) {
    f_store(minimum, f_sub(f_zero(), f_of_f16(p)));
    p += 32;
  }
  if (type == QK_Q5_0 || type == QK_Q5_1) {
    const vb words = b_load(p);
    p += 64;
    unpack_nibbles32(p, out);
    for (int j = 0; j < 8; j++) b_store(out + 64 * j, b_or(b_load(out + 64 * j), fifth_bits_of_quad(words, j)));
  } else {
    unpack_nibbles32(p, out);
  }
}

INLINE void unpack_iq4_32(const uint8_t *qs, __m128i table, uint8_t *out) {
  for (int j = 0; j < 4; j++) {
    const vb v = b_load(qs + 64 * j);
    b_store(out + 64 * j, b_lookup(table, b_and(v, b_set1(15))));
    b_store(out + 64 * (j + 4), b_lookup(table, b_right(v, 4, 15)));
  }
}

/// The code book, as dot_add wants 8-bit weights: 128 larger, or signed.
INLINE __m128i iq4_table(void) {
  const __m128i t = column16((const uint8_t *)qk_iq4_values);
  return QK_PAIR_SUMS ? t : _mm_xor_si128(t, _mm_set1_epi8((char)0x80));
}

/// 12 columns of packed 6-bit scales and minima (Q4_K, Q5_K), 16 rows at once.
INLINE void unpack_super_scales(const uint8_t *p, float *scale, float *minimum) {
  const vf d = f_of_f16(p), dmin = f_of_f16(p + 32);
  const uint8_t *s = p + 64;
  for (int j = 0; j < 4; j++) {
    const __m128i a = column16(s + 16 * j), b = column16(s + 16 * (j + 4)), c = column16(s + 16 * (j + 8));
    const __m128i high_scale = _mm_or_si128(low4(c), bits_right(a, 2, 0x30)), high_minimum = _mm_or_si128(bits_right(c, 4, 15), bits_right(b, 2, 0x30));
    f_store(scale + 16 * j, f_mul(d, f_of_u8_column(_mm_and_si128(a, _mm_set1_epi8(63)))));
    f_store(minimum + 16 * j, f_mul(dmin, f_of_u8_column(_mm_and_si128(b, _mm_set1_epi8(63)))));
    f_store(scale + 16 * (j + 4), f_mul(d, f_of_u8_column(high_scale)));
    f_store(minimum + 16 * (j + 4), f_mul(dmin, f_of_u8_column(high_minimum)));
  }
}

INLINE void unpack_q4_k(const uint8_t *p, uint8_t *out, float *scale, float *minimum) {
  unpack_super_scales(p, scale, minimum);
  const uint8_t *qs = p + 256;
  for (int t = 0; t < 4; t++)
    for (int j = 0; j < 8; j++) {
      const vb v = b_load(qs + 64 * (8 * t + j));
      b_store(out + 64 * (16 * t + j), b_and(v, b_set1(15)));
      b_store(out + 64 * (16 * t + 8 + j), b_right(v, 4, 15));
    }
}

/// Bit n of each byte -> 16 where it is set.
INLINE vb fifth_bit(vb bits, int n) { return b_left(b_right(bits, n, 1), 4, 16); }

INLINE void unpack_q5_k(const uint8_t *p, uint8_t *out, float *scale, float *minimum) {
  unpack_super_scales(p, scale, minimum);
  const uint8_t *qh = p + 256, *qs = p + 768;
  for (int j = 0; j < 8; j++) {
    const vb h = b_load(qh + 64 * j);
    for (int t = 0; t < 4; t++) {
      const vb v = b_load(qs + 64 * (8 * t + j));
      b_store(out + 64 * (16 * t + j), b_or(b_and(v, b_set1(15)), fifth_bit(h, 2 * t)));
      b_store(out + 64 * (16 * t + 8 + j), b_or(b_right(v, 4, 15), fifth_bit(h, 2 * t + 1)));
    }
  }
}

/// The same quad of four neighbouring blocks, from two vectors of nibbles 512 bytes apart and one of high bits.
INLINE void quads_q6_k(const uint8_t *ql, const uint8_t *qh, vb *v) {
  const vb a = b_load(ql), b = b_load(ql + 512), high = b_load(qh);
  v[0] = b_or(b_and(a, b_set1(15)), b_left(high, 4, 0x30));
  v[1] = b_or(b_and(b, b_set1(15)), b_left(high, 2, 0x30));
  v[2] = b_or(b_right(a, 4, 15), b_and(high, b_set1(0x30)));
  v[3] = b_or(b_right(b, 4, 15), b_right(high, 2, 0x30));
}

INLINE void unpack_q6_k(const uint8_t *p, uint8_t *out, float *scale) {
  const vf d = f_of_f16(p);
  for (int s = 0; s < 16; s++) f_store(scale + 16 * s, f_mul(d, f_of_i8_column(column16(p + 32 + 16 * s))));
  const uint8_t *ql = p + 288, *qh = ql + 2048;
  for (int h = 0; h < 2; h++)
    for (int j = 0; j < 8; j++) {
      vb v[4];
      quads_q6_k(ql + 64 * (16 * h + j), qh + 64 * (8 * h + j), v);
      for (int i = 0; i < 4; i++) b_store(out + 64 * (32 * h + 8 * i + j), v[i]);
    }
}

INLINE void unpack_q2_k(const uint8_t *p, uint8_t *out, float *scale, float *minimum) {
  const vf d = f_of_f16(p), dmin = f_of_f16(p + 32);
  for (int s = 0; s < 16; s++) {
    const __m128i v = column16(p + 64 + 16 * s);
    f_store(scale + 16 * s, f_mul(d, f_of_u8_column(low4(v))));
    f_store(minimum + 16 * s, f_mul(dmin, f_of_u8_column(bits_right(v, 4, 15))));
  }
  const uint8_t *qs = p + 320;
  for (int n = 0; n < 2; n++)
    for (int l = 0; l < 8; l++) {
      const vb v = b_load(qs + 64 * (8 * n + l));
      for (int j = 0; j < 4; j++) b_store(out + 64 * (32 * n + 8 * j + l), b_right(v, 2 * j, 3));
    }
}

INLINE void unpack_q3_k_scales(const uint8_t *p, float *scale) {
  const vf d = f_of_f16(p);
  const uint8_t *s = p + 32;
  for (int k = 0; k < 16; k++) {
    const __m128i low = k < 8 ? low4(column16(s + 16 * k)) : bits_right(column16(s + 16 * (k - 8)), 4, 15);
    const __m128i high = _mm_slli_epi16(bits_right(column16(s + 16 * (8 + k % 4)), 2 * (k / 4), 3), 4);
    f_store(scale + 16 * k, f_mul(d, f_of_i8_column(_mm_sub_epi8(_mm_or_si128(low, high), _mm_set1_epi8(32)))));
  }
}

INLINE void unpack_q3_k(const uint8_t *p, uint8_t *out, float *scale) {
  unpack_q3_k_scales(p, scale);
  const uint8_t *hmask = p + 224, *qs = hmask + 512;
  for (int n = 0; n < 2; n++)
    for (int l = 0; l < 8; l++) {
      const vb v = b_load(qs + 64 * (8 * n + l)), h = b_load(hmask + 64 * l);
      for (int j = 0; j < 4; j++) {
        const int bit = 4 * n + j;
        const vb high = bit < 2 ? b_left(h, 2 - bit, 4) : b_right(h, bit - 2, 4);
        b_store(out + 64 * (32 * n + 8 * j + l), b_or(b_right(v, 2 * j, 3), high));
      }
    }
}

INLINE void unpack_iq4_xs(const uint8_t *p, uint8_t *out, float *scale) {
  const vf d = f_of_f16(p);
  const __m128i table = iq4_table();
  const __m256i sh = _mm256_loadu_si256((const __m256i_u *)(p + 32));
  for (int b = 0; b < 8; b++) {
    const __m256i high16 = _mm256_and_si256(_mm256_srli_epi16(sh, 2 * b), _mm256_set1_epi16(3));
    const __m128i high = _mm_slli_epi16(_mm_packus_epi16(_mm256_castsi256_si128(high16), _mm256_extracti128_si256(high16, 1)), 4);
    const __m128i pair = column16(p + 64 + 16 * (b / 2)), low = b % 2 ? bits_right(pair, 4, 15) : low4(pair);
    f_store(scale + 16 * b, f_mul(d, f_of_i8_column(_mm_sub_epi8(_mm_or_si128(low, high), _mm_set1_epi8(32)))));
    unpack_iq4_32(p + 128 + 256 * b, table, out + 512 * b);
  }
}

/// Columns [32 * first, 32 * (first + blocks)) of the group at `group`; q_out 4 KiB, scale and minimum 1 KiB each.
INLINE quant_tile unpack_tile(qk_type type, const uint8_t *group, qk_int first, qk_int blocks, uint8_t *q_out, float *scale, float *minimum) {
  quant_tile tile = {.q = q_out, .stride = 512, .scale = scale, .minimum = minimum};
  const qk_int block_bytes = QK_ROW_GROUP * qk_block_bytes(type);
  const uint8_t *super = group + first / 8 * block_bytes;
  switch (type) {
    case QK_Q8_0:
      tile.q = group + first * block_bytes + 32;
      tile.stride = block_bytes;
      break;
    case QK_IQ4_NL:
      for (qk_int b = 0; b < blocks; b++) {
        f_store(scale + 16 * b, f_of_f16(group + (first + b) * block_bytes));
        unpack_iq4_32(group + (first + b) * block_bytes + 32, iq4_table(), q_out + 512 * b);
      }
      break;
    case QK_Q2_K: unpack_q2_k(super, q_out, scale, minimum); break;
    case QK_Q3_K: unpack_q3_k(super, q_out, scale); break;
    case QK_Q4_K: unpack_q4_k(super, q_out, scale, minimum); break;
    case QK_Q5_K: unpack_q5_k(super, q_out, scale, minimum); break;
    case QK_Q6_K: unpack_q6_k(super, q_out, scale); break;
    case QK_IQ4_XS: unpack_iq4_xs(super, q_out, scale); break;
    default:
      for (qk_int b = 0; b < blocks; b++)
        unpack_block32(type, group + (first + b) * block_bytes, q_out + 512 * b, scale + 16 * b, minimum + 16 * b);
  }
  return tile;
}
