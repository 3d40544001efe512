// The table of weight formats, matrix views, and the packed layout: in each group of 16 rows the same field of the same block
// of all rows lies together, in units of 4 bytes for the quants (what one VNNI lane eats), 1 or 2 for scales.
// A permutation of the file's bytes (Q8_0: its quants 128 larger, as VNNI wants them): bits per weight are kept and packing can be undone.
#include <emmintrin.h>

#include "formats.h"

static float value_f32(const uint8_t *p) { return qk_float_of_bits(qk_load32(p)); }
static float value_f16(const uint8_t *p) { return qk_float_of_f16(qk_load16(p)); }
static float value_bf16(const uint8_t *p) { return qk_float_of_bf16(qk_load16(p)); }
static float value_f8(const uint8_t *p) { return qk_float_of_f8(*p); }
static float value_int16(const uint8_t *p) { return (float)(int16_t)qk_load16(p); }  // without the row's scale

const qk_format *qk_format_of(qk_type type) {
  static const qk_format f32 = {1, 4, 0, false, NULL, value_f32, {{0, 4, 4}}};
  static const qk_format f16 = {1, 2, 0, false, NULL, value_f16, {{0, 2, 2}}};
  static const qk_format bf16 = {1, 2, 0, false, NULL, value_bf16, {{0, 2, 2}}};
  static const qk_format f8 = {1, 1, 0, false, NULL, value_f8, {{0, 1, 1}}};
  static const qk_format int16 = {1, 2, 0, false, NULL, value_int16, {{0, 2, 2}}};
  static const qk_format q4_0 = {32, 18, 32, false, qk_decode_q4_0, NULL, {{0, 2, 2}, {2, 16, 4}}};
  static const qk_format q4_1 = {32, 20, 32, true, qk_decode_q4_1, NULL, {{0, 2, 2}, {2, 2, 2}, {4, 16, 4}}};
  static const qk_format q5_0 = {32, 22, 32, false, qk_decode_q5_0, NULL, {{0, 2, 2}, {2, 4, 4}, {6, 16, 4}}};
  static const qk_format q5_1 = {32, 24, 32, true, qk_decode_q5_1, NULL, {{0, 2, 2}, {2, 2, 2}, {4, 4, 4}, {8, 16, 4}}};
  static const qk_format q8_0 = {32, 34, 32, false, qk_decode_q8_0, NULL, {{0, 2, 2}, {2, 32, 4}}};
  static const qk_format iq4_nl = {32, 18, 32, false, qk_decode_iq4_nl, NULL, {{0, 2, 2}, {2, 16, 4}}};
  static const qk_format q2_k = {256, 84, 16, true, qk_decode_q2_k, NULL, {{80, 2, 2}, {82, 2, 2}, {0, 16, 1}, {16, 64, 4}}};
  static const qk_format q3_k = {256, 110, 16, false, qk_decode_q3_k, NULL, {{108, 2, 2}, {96, 12, 1}, {0, 32, 4}, {32, 64, 4}}};
  static const qk_format q4_k = {256, 144, 32, true, qk_decode_q4_k, NULL, {{0, 2, 2}, {2, 2, 2}, {4, 12, 1}, {16, 128, 4}}};
  static const qk_format q5_k = {256, 176, 32, true, qk_decode_q5_k, NULL, {{0, 2, 2}, {2, 2, 2}, {4, 12, 1}, {16, 32, 4}, {48, 128, 4}}};
  static const qk_format q6_k = {256, 210, 16, false, qk_decode_q6_k, NULL, {{208, 2, 2}, {192, 16, 1}, {0, 128, 4}, {128, 64, 4}}};
  static const qk_format iq4_xs = {256, 136, 32, false, qk_decode_iq4_xs, NULL, {{0, 2, 2}, {2, 2, 2}, {4, 4, 1}, {8, 128, 4}}};
  switch (type) {
    case QK_F32: return &f32;
    case QK_F16: return &f16;
    case QK_BF16: return &bf16;
    case QK_F8_E4M3: return &f8;
    case QK_INT16: return &int16;
    case QK_Q4_0: return &q4_0;
    case QK_Q4_1: return &q4_1;
    case QK_Q5_0: return &q5_0;
    case QK_Q5_1: return &q5_1;
    case QK_Q8_0: return &q8_0;
    case QK_IQ4_NL: return &iq4_nl;
    case QK_Q2_K: return &q2_k;
    case QK_Q3_K: return &q3_k;
    case QK_Q4_K: return &q4_k;
    case QK_Q5_K: return &q5_k;
    case QK_Q6_K: return &q6_k;
    case QK_IQ4_XS: return &iq4_xs;
  }
  return NULL;
}

bool qk_type_known(qk_type type) { return qk_format_of(type) != NULL; }

qk_int qk_block_elements(qk_type type) {
  const qk_format *f = qk_format_of(type);
  return f ? f->elements : 0;
}

qk_int qk_block_bytes(qk_type type) {
  const qk_format *f = qk_format_of(type);
  return f ? f->bytes : 0;
}

qk_int qk_row_bytes(qk_type type, qk_int columns) {
  const qk_format *f = qk_format_of(type);
  if (type == QK_INT16) return QK_INT16_HEAD_BYTES + (columns + 1) / 2 * 4;
  return f ? columns / f->elements * f->bytes : 0;
}

qk_matrix qk_file_matrix(qk_type type, const void *data, qk_int rows, qk_int columns, const float *scales) {
  return (qk_matrix){.data = data, .rows = rows, .columns = columns, .row_bytes = qk_row_bytes(type, columns), .scales = scales,
                     .scale_stride = (columns + QK_F8_BLOCK - 1) / QK_F8_BLOCK, .type = type, .layout = QK_FILE};
}

qk_matrix qk_rows(qk_matrix m, qk_int begin, qk_int end) {
  m.data = (const uint8_t *)m.data + begin * m.row_bytes;
  m.rows = end - begin;
  m.scale_row += begin;
  return m;
}

qk_int qk_packed_group_bytes(qk_type type, qk_int columns) {
  return (qk_row_bytes(type, columns) * QK_ROW_GROUP + 63) / 64 * 64;  // plain numbers: the last 4 bytes of a row padded
}

qk_int qk_packed_bytes(qk_type type, qk_int rows, qk_int columns) { return qk_packed_group_bytes(type, columns) * qk_group_count(rows); }

qk_matrix qk_packed_matrix(qk_matrix source, void *destination) {
  source.data = destination;
  source.row_bytes = qk_packed_group_bytes(source.type, source.columns) / QK_ROW_GROUP;
  source.layout = QK_PACKED;
  return source;
}

/// One field of a block. `unit` is a constant where this is called, or else a call of memcpy per unit is most of the work of loading.
static inline void move_field(int length, int unit, uint8_t *file, uint8_t *packed, int row, bool pack) {
  packed += row * unit;
  for (int u = 0; u < length; u += unit, packed += unit * QK_ROW_GROUP) memcpy(pack ? packed : file + u, pack ? file + u : packed, (size_t)unit);
}

/// Quants that are signed in the file and 128 larger where packed.
static bool is_signed(const qk_format *f) { return f->decode == qk_decode_q8_0; }

/// Those, in units of four.
static void move_signed(int length, uint8_t *file, uint8_t *packed, int row, bool pack) {
  packed += row * 4;
  for (int u = 0; u < length; u += 4, packed += 4 * QK_ROW_GROUP) {
    const uint32_t flipped = qk_load32(pack ? file + u : packed) ^ 0x80808080u;
    memcpy(pack ? packed : file + u, &flipped, 4);
  }
}

/// A field in the units of its format.
static void move_any_field(const qk_format *f, const qk_field *field, uint8_t *file, uint8_t *packed, int row, bool pack) {
  switch (field->unit) {
    case 4:
      if (is_signed(f)) move_signed(field->length, file, packed, row, pack);
      else move_field(field->length, 4, file, packed, row, pack);
      break;
    case 2: move_field(field->length, 2, file, packed, row, pack); break;
    default: move_field(field->length, 1, file, packed, row, pack);
  }
}

/// One row of one group; pack moves file -> packed, else packed -> file.
static void move_blocks(const qk_format *f, qk_int blocks, uint8_t *file, uint8_t *packed, int row, bool pack) {
  for (qk_int b = 0; b < blocks; b++, file += f->bytes)
    for (const qk_field *field = f->fields; field < f->fields + QK_MAX_FIELDS && field->length; packed += field->length * QK_ROW_GROUP, field++)
      move_any_field(f, field, file + field->offset, packed, row, pack);
}

/// Plain numbers: 4 bytes of each row in turn (1 f32, 2 halves, 4 bytes).
static void move_plain(qk_int bytes, uint8_t *file, uint8_t *packed, int row, bool pack) {
  for (qk_int at = 0; at < bytes; at += 4) {
    const size_t length = bytes - at < 4 ? (size_t)(bytes - at) : 4;
    uint8_t *in_packed = packed + at * QK_ROW_GROUP + row * 4;
    memcpy(pack ? in_packed : file + at, pack ? file + at : in_packed, length);
  }
}

static void move_row(qk_type type, qk_int columns, uint8_t *file, uint8_t *packed, int row, bool pack) {
  const qk_format *f = qk_format_of(type);
  if (f->decode)
    move_blocks(f, columns / f->elements, file, packed, row, pack);
  else
    move_plain(qk_row_bytes(type, columns), file, packed, row, pack);
}

/// `length` bytes, a multiple of 16, of each of 16 rows to units of 4 bytes: four rows and four units at a time. The bits of `flip` are turned
/// in every byte.
static inline void pack_words(const uint8_t *const *rows, qk_int offset, qk_int length, uint8_t *packed, uint8_t flip) {
  const __m128i turned = _mm_set1_epi8((char)flip);
  for (qk_int u = 0; u < length; u += 16, packed += 16 * QK_ROW_GROUP)
    for (int r = 0; r < QK_ROW_GROUP; r += 4) {
      __m128i v[4];
      for (int i = 0; i < 4; i++) v[i] = _mm_xor_si128(_mm_loadu_si128((const __m128i_u *)(rows[r + i] + offset + u)), turned);
      const __m128i a = _mm_unpacklo_epi32(v[0], v[1]), b = _mm_unpacklo_epi32(v[2], v[3]);
      const __m128i c = _mm_unpackhi_epi32(v[0], v[1]), d = _mm_unpackhi_epi32(v[2], v[3]);
      __m128i_u *out = (__m128i_u *)(packed + 4 * r);
      _mm_storeu_si128(out, _mm_unpacklo_epi64(a, b));
      _mm_storeu_si128(out + 4, _mm_unpackhi_epi64(a, b));
      _mm_storeu_si128(out + 8, _mm_unpacklo_epi64(c, d));
      _mm_storeu_si128(out + 12, _mm_unpackhi_epi64(c, d));
    }
}

/// One field of one block of 16 rows.
static void pack_field(const qk_format *f, const qk_field *field, const uint8_t *const *rows, qk_int offset, uint8_t *packed) {
  if (field->unit == 4 && field->length % 16 == 0) {
    pack_words(rows, offset, field->length, packed, is_signed(f) ? 0x80 : 0);
    return;
  }
  for (int row = 0; row < QK_ROW_GROUP; row++) move_any_field(f, field, (uint8_t *)rows[row] + offset, packed, row, true);
}

/// A whole group, block by block: what move_row does for one row.
static void pack_group(qk_type type, qk_int columns, const uint8_t *const *rows, uint8_t *packed) {
  const qk_format *f = qk_format_of(type);
  if (!f->decode) {
    const qk_int bytes = qk_row_bytes(type, columns), whole = bytes / 16 * 16;
    pack_words(rows, 0, whole, packed, 0);
    for (int row = 0; row < QK_ROW_GROUP; row++) move_plain(bytes - whole, (uint8_t *)rows[row] + whole, packed + whole * QK_ROW_GROUP, row, true);
    return;
  }
  for (qk_int b = 0; b < columns / f->elements; b++)
    for (const qk_field *field = f->fields; field < f->fields + QK_MAX_FIELDS && field->length; packed += field->length * QK_ROW_GROUP, field++)
      pack_field(f, field, rows, b * f->bytes + field->offset, packed);
}

void qk_pack(qk_matrix source, void *destination, qk_int group_begin, qk_int group_end) {
  const qk_int group_bytes = qk_packed_group_bytes(source.type, source.columns), used = qk_row_bytes(source.type, source.columns) * QK_ROW_GROUP;
  for (qk_int g = group_begin; g < group_end; g++) {
    uint8_t *packed = (uint8_t *)destination + g * group_bytes, *file = (uint8_t *)source.data + g * QK_ROW_GROUP * source.row_bytes;
    const qk_int count = source.rows - g * QK_ROW_GROUP;
    if (count < QK_ROW_GROUP) {
      memset(packed, 0, (size_t)group_bytes);
      for (int row = 0; row < count; row++) move_row(source.type, source.columns, file + row * source.row_bytes, packed, row, true);
      continue;
    }
    const uint8_t *rows[QK_ROW_GROUP];
    for (int row = 0; row < QK_ROW_GROUP; row++) rows[row] = file + row * source.row_bytes;
    const qk_int whole = used / 64 * 64;  // the last bytes of plain numbers may be half a word
    memset(packed + whole, 0, (size_t)(group_bytes - whole));
    pack_group(source.type, source.columns, rows, packed);
  }
}

void qk_unpack_group(qk_matrix packed, qk_int group, void *rows_out) {
  const qk_int row_bytes = qk_row_bytes(packed.type, packed.columns);
  uint8_t *from = (uint8_t *)packed.data + group * packed.row_bytes * QK_ROW_GROUP;
  for (int row = 0; row < QK_ROW_GROUP; row++)
    move_row(packed.type, packed.columns, (uint8_t *)rows_out + row * row_bytes, from, row, false);
}

void qk_transpose_f32(const float *in, qk_int rows, qk_int columns, qk_int in_stride, float *out, qk_int out_stride) {
  enum { TILE = 16 };
  for (qk_int i0 = 0; i0 < rows; i0 += TILE)
    for (qk_int j0 = 0; j0 < columns; j0 += TILE)
      for (qk_int i = i0; i < rows && i < i0 + TILE; i++)
        for (qk_int j = j0; j < columns && j < j0 + TILE; j++) out[j * out_stride + i] = in[i * in_stride + j];
}
