// The scalar variant's matrix products and activation rounding: one row, one token, one element after the other.
// The oracle of the vector variants; knows the file's blocks and, by unpacking, nothing of the packed layout.
#include <math.h>

#include "scalar.h"

QK_STRICT_FLOAT

static float f8_scale(const qk_matrix *w, qk_int row, qk_int column) {
  return w->scales ? w->scales[(w->scale_row + row) / QK_F8_BLOCK * w->scale_stride + column / QK_F8_BLOCK] : 1.0f;
}

/// Elements [first, first + count) of a row; first is the start of a block, count at most a block (any count for plain numbers).
static void dequantize(const qk_matrix *w, const qk_format *f, const uint8_t *file_row, qk_int row, qk_int first, qk_int count, float *out) {
  const uint8_t *at = file_row + first / f->elements * f->bytes + (w->type == QK_INT16 ? QK_INT16_HEAD_BYTES : 0);
  if (f->decode) {
    qk_block b;
    f->decode(at, &b);
    for (qk_int i = 0; i < count; i++) {
      const float product = b.scale[i / f->sub] * (float)b.q[i];
      out[i] = f->has_minimum ? product - b.minimum[i / f->sub] : product;
    }
  } else {
    for (qk_int i = 0; i < count; i++) out[i] = f->value(at + i * f->bytes);
    if (w->type == QK_F8_E4M3)
      for (qk_int i = 0; i < count; i++) out[i] *= f8_scale(w, row, first + i);
    if (w->type == QK_INT16)
      for (qk_int i = 0; i < count; i++) out[i] *= qk_float_of_bits(qk_load32(file_row));
  }
}

static void dequantize_row(const qk_matrix *w, const qk_format *f, const uint8_t *file_row, qk_int row, float *out) {
  const qk_int step = f->decode ? f->elements : w->columns;
  for (qk_int k = 0; k < w->columns; k += step) dequantize(w, f, file_row, row, k, step, out + k);
}

void qk_scalar_dequantize_rows(const qk_matrix *w, qk_int begin, qk_int end, float *out, qk_int out_stride) {
  const qk_format *f = qk_format_of(w->type);
  for (qk_int i = begin; i < end; i++)
    dequantize_row(w, f, (const uint8_t *)w->data + i * w->row_bytes, i, out + (i - begin) * out_stride);
}

void qk_scalar_matmul_exact(const qk_matrix *w, qk_int begin, qk_int end, const float *x, qk_int x_stride, const int32_t *index,
                            qk_int tokens, float *y, qk_int y_stride, void *scratch) {
  const qk_format *f = qk_format_of(w->type);
  float *row = scratch;  // [columns]
  for (qk_int i = begin; i < end; i++) {
    dequantize_row(w, f, (const uint8_t *)w->data + i * w->row_bytes, i, row);
    for (qk_int t = 0; t < tokens; t++) {
      const float *xt = x + (index ? index[t] : t) * x_stride;
      float sum = 0;
      for (qk_int k = 0; k < w->columns; k++) sum += row[k] * xt[k];
      y[t * y_stride + i] = sum;
    }
  }
}

/// One token to int8 blocks of 32: scale = max|x| / 127. A block with Inf or NaN becomes scale NaN, so that it shows.
static void quantize_q8(const float *x, qk_int columns, qk_act_block *out) {
  for (qk_int b = 0; b < columns / 32; b++) {
    const uint32_t largest = qk_largest_bits(x + 32 * b, 32);
    float scale = qk_float_of_bits(largest) / 127.0f, inverse = 127.0f / qk_float_of_bits(largest);
    if (!(qk_float_of_bits(largest) >= 1e-30f)) scale = inverse = 0;
    if (largest >= 0x7F800000) {
      scale = NAN;
      inverse = 0;
    }
    int32_t half[2] = {0, 0};
    for (int i = 0; i < 32; i++) {
      const int32_t q = inverse == 0 ? 0 : (int32_t)lrintf(x[32 * b + i] * inverse);
      out[b].q[i] = (int8_t)q;
      half[i / 16] += q;
    }
    qk_act_finish(&out[b], scale, half);
  }
}

void qk_scalar_quantize_activations(qk_activation kind, const float *x, qk_int x_stride, qk_int tokens, qk_int columns, void *out,
                                    qk_int out_stride) {
  const qk_int bytes = qk_activation_bytes(kind, columns);
  for (qk_int t = 0; t < tokens; t++) {
    uint8_t *at = (uint8_t *)out + t * out_stride;
    if (kind == QK_ACT_Q8) {
      quantize_q8(x + t * x_stride, columns, (qk_act_block *)at);
    } else if (kind == QK_ACT_INT16) {
      memset(at, 0, (size_t)bytes);
      const float scale = qk_scalar_put_int16(x + t * x_stride, columns, at + QK_INT16_ACTIVATION_HEAD_BYTES);
      memcpy(at, &scale, 4);
    } else {
      memset(at + columns * 2, 0, (size_t)(bytes - columns * 2));
      qk_scalar_f32_to_bf16(x + t * x_stride, (uint16_t *)at, columns);
    }
  }
}

/// Sum over one row of blocks; `x` is the token's QK_ACT_Q8 row.
static float dot_q8(const qk_format *f, const uint8_t *file_row, const qk_act_block *x, qk_int columns) {
  float y = 0;
  for (qk_int k = 0; k < columns; k += f->elements, file_row += f->bytes) {
    qk_block b;
    f->decode(file_row, &b);
    for (int s = 0; s < f->elements / f->sub; s++) {
      const qk_int at = k + s * f->sub;
      const qk_act_block *xb = &x[at / 32];
      int32_t dot = 0;
      for (int i = 0; i < f->sub; i++) dot += b.q[s * f->sub + i] * xb->q[at % 32 + i];
      y += b.scale[s] * (float)dot * xb->scale;
      if (f->has_minimum) y -= b.minimum[s] * (f->sub == 32 ? xb->scaled : xb->scale * (float)(xb->half[at / 16 % 2] / -128));
    }
  }
  return y;
}

static float dot_bf16(const qk_matrix *w, const qk_format *f, const uint8_t *file_row, qk_int row, const uint8_t *x) {
  float y = 0;
  for (qk_int k = 0; k < w->columns; k++) {
    float value;
    dequantize(w, f, file_row, row, k, 1, &value);
    y += value * qk_float_of_bf16(qk_load16(x + 2 * k));
  }
  return y;
}

static float dot_int16(const uint8_t *file_row, const uint8_t *x, qk_int columns) {
  uint32_t sum = 0;  // wraps where a row breaks the rule of cache.h, as the vector variants do
  for (qk_int k = 0; k < columns; k++)
    sum += (uint32_t)((int16_t)qk_load16(file_row + QK_INT16_HEAD_BYTES + 2 * k) * (int16_t)qk_load16(x + QK_INT16_ACTIVATION_HEAD_BYTES + 2 * k));
  return (float)(int32_t)sum * (qk_float_of_bits(qk_load32(file_row)) * qk_float_of_bits(qk_load32(x)));
}

void qk_scalar_matmul_fast(const qk_matrix *w, qk_int begin, qk_int end, const void *activations, const int32_t *index, qk_int tokens,
                           float *y, qk_int y_stride, void *scratch) {
  const qk_format *f = qk_format_of(w->type);
  const qk_int x_bytes = qk_activation_bytes(qk_activation_for(w->type), w->columns), row_bytes = qk_row_bytes(w->type, w->columns);
  for (qk_int i = begin; i < end; i++) {
    if (i == begin || i % QK_ROW_GROUP == 0) qk_unpack_group(*w, i / QK_ROW_GROUP, scratch);
    const uint8_t *file_row = (const uint8_t *)scratch + i % QK_ROW_GROUP * row_bytes;
    for (qk_int t = 0; t < tokens; t++) {
      const uint8_t *xt = (const uint8_t *)activations + (index ? index[t] : t) * x_bytes;
      y[t * y_stride + i] = w->type == QK_INT16 ? dot_int16(file_row, xt, w->columns)
                            : f->decode ? dot_q8(f, file_row, (const qk_act_block *)xt, w->columns) : dot_bf16(w, f, file_row, i, xt);
    }
  }
}
