// The scalar variant's norms, activations, rotations and reductions. Naive on purpose: the oracle of the vector variants.
#include <math.h>

#include "scalar.h"

QK_STRICT_FLOAT

void qk_scalar_rms_norm(const float *x, const float *weight, float epsilon, qk_int count, float *y) {
  if (count <= 0) return;
  double sum = 0;
  for (qk_int i = 0; i < count; i++) sum += (double)x[i] * (double)x[i];
  const float inverse = 1.0f / sqrtf((float)(sum / (double)count) + epsilon);
  for (qk_int i = 0; i < count; i++) y[i] = weight ? x[i] * inverse * weight[i] : x[i] * inverse;
}

float qk_scalar_max(const float *x, qk_int count) {
  float m = -INFINITY;
  for (qk_int i = 0; i < count; i++) m = x[i] > m ? x[i] : m;
  return m;
}

qk_int qk_scalar_argmax(const float *x, qk_int count) {
  qk_int best = -1;
  for (qk_int i = 0; i < count; i++)
    if (best < 0 ? x[i] == x[i] : x[i] > x[best]) best = i;
  return best;
}

void qk_scalar_softmax(float *x, qk_int count) {
  if (count <= 0) return;
  const float m = qk_scalar_max(x, count);
  float sum = 0;
  for (qk_int i = 0; i < count; i++) sum += x[i] = expf(x[i] - m);
  for (qk_int i = 0; i < count; i++) x[i] /= sum;
}

void qk_scalar_sigmoid(float *x, qk_int count) {
  for (qk_int i = 0; i < count; i++) x[i] = 1.0f / (1.0f + expf(-x[i]));
}

void qk_scalar_silu_mul(const float *gate, const float *up, qk_int count, float *out) {
  for (qk_int i = 0; i < count; i++) out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

double qk_scalar_logsumexp(const float *x, qk_int count) {
  const double m = qk_scalar_max(x, count);
  if (m == -INFINITY) return -INFINITY;
  double sum = 0;
  for (qk_int i = 0; i < count; i++) sum += exp((double)x[i] - m);
  return m + log(sum);
}

static void rotate(float *a, float *b, float cosine, float sine) {
  const float x = *a, y = *b;
  *a = x * cosine - y * sine;
  *b = x * sine + y * cosine;
}

void qk_scalar_rope_interleaved(float *x, qk_int stride, qk_int heads, qk_int width, const float *cosine, const float *sine) {
  for (qk_int h = 0; h < heads; h++)
    for (qk_int j = 0; j < width / 2; j++) rotate(&x[h * stride + 2 * j], &x[h * stride + 2 * j + 1], cosine[j], sine[j]);
}

void qk_scalar_rope_half_split(float *x, qk_int stride, qk_int heads, qk_int width, const float *cosine, const float *sine) {
  for (qk_int h = 0; h < heads; h++)
    for (qk_int j = 0; j < width / 2; j++) rotate(&x[h * stride + j], &x[h * stride + j + width / 2], cosine[j], sine[j]);
}

void qk_scalar_add(float *y, const float *x, qk_int count) {
  for (qk_int i = 0; i < count; i++) y[i] += x[i];
}

void qk_scalar_axpy(float *y, float a, const float *x, qk_int count) {
  for (qk_int i = 0; i < count; i++) y[i] += a * x[i];
}

void qk_scalar_scale(float *y, float a, qk_int count) {
  for (qk_int i = 0; i < count; i++) y[i] *= a;
}

void qk_scalar_f32_to_bf16(const float *x, uint16_t *out, qk_int count) {
  for (qk_int i = 0; i < count; i++) out[i] = qk_bf16_of_float(x[i]);
}

void qk_scalar_bf16_to_f32(const uint16_t *x, float *out, qk_int count) {
  for (qk_int i = 0; i < count; i++) out[i] = qk_float_of_bf16(x[i]);
}

qk_int qk_scalar_peak_int8(qk_int rounds) {
  volatile int32_t sum = 0;
  for (qk_int i = 0; i < rounds; i++) sum = (int32_t)((uint32_t)sum + 1u * 1u);
  return 2 * rounds;
}

qk_int qk_scalar_peak_int16(qk_int rounds) { return qk_scalar_peak_int8(rounds); }

uint64_t qk_scalar_peak_read(const void *memory, qk_int bytes) {
  const uint64_t *x = memory;
  uint64_t sum = 0;
  for (qk_int i = 0; i < bytes / 8; i++) sum += x[i];
  return sum;
}

qk_int qk_scalar_peak_bf16(qk_int rounds) {
  volatile float sum = 0;
  for (qk_int i = 0; i < rounds; i++) sum = sum + 1.0f * 1.0f;
  return 2 * rounds;
}
