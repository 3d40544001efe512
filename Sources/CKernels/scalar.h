// Private: the scalar variant's functions, spread over scalar_*.c. Naive on purpose: the oracle of all other variants.
#ifndef QK_SCALAR_H
#define QK_SCALAR_H

#include "cache.h"

// No fused multiply-add anywhere the bits are promised (SPEC 3.6): every file of the kernels begins with this.
#define QK_STRICT_FLOAT _Pragma("STDC FP_CONTRACT OFF")

void qk_scalar_dequantize_rows(const qk_matrix *w, qk_int begin, qk_int end, float *out, qk_int out_stride);
void qk_scalar_matmul_exact(const qk_matrix *w, qk_int begin, qk_int end, const float *x, qk_int x_stride, const int32_t *index,
                            qk_int tokens, float *y, qk_int y_stride, void *scratch);
void qk_scalar_quantize_activations(qk_activation kind, const float *x, qk_int x_stride, qk_int tokens, qk_int columns, void *out,
                                    qk_int out_stride);
void qk_scalar_matmul_fast(const qk_matrix *w, qk_int begin, qk_int end, const void *activations, const int32_t *index, qk_int tokens,
                           float *y, qk_int y_stride, void *scratch);
void qk_scalar_rms_norm(const float *x, const float *weight, float epsilon, qk_int count, float *y);
void qk_scalar_softmax(float *x, qk_int count);
void qk_scalar_sigmoid(float *x, qk_int count);
void qk_scalar_silu_mul(const float *gate, const float *up, qk_int count, float *out);
void qk_scalar_rope_interleaved(float *x, qk_int stride, qk_int heads, qk_int width, const float *cosine, const float *sine);
void qk_scalar_rope_half_split(float *x, qk_int stride, qk_int heads, qk_int width, const float *cosine, const float *sine);
void qk_scalar_add(float *y, const float *x, qk_int count);
void qk_scalar_axpy(float *y, float a, const float *x, qk_int count);
void qk_scalar_scale(float *y, float a, qk_int count);
void qk_scalar_f32_to_bf16(const float *x, uint16_t *out, qk_int count);
void qk_scalar_bf16_to_f32(const uint16_t *x, float *out, qk_int count);
float qk_scalar_max(const float *x, qk_int count);
qk_int qk_scalar_argmax(const float *x, qk_int count);
double qk_scalar_logsumexp(const float *x, qk_int count);
void qk_scalar_cache_store_row(qk_cache_type type, qk_int c, qk_int r, const float *latent, const float *rope, void *row);
void qk_scalar_cache_load_rows(const qk_pages *pages, qk_int begin, qk_int end, float *latent, qk_int latent_stride, float *rope,
                               qk_int rope_stride);
void qk_scalar_attention_latent(const qk_latent_attention *a, void *scratch);
void qk_scalar_attention_expanded(const qk_expanded_attention *a, void *scratch);
void qk_scalar_attention_reset(const qk_softmax_state *s, qk_int rows, qk_int width);
void qk_scalar_attention_merge(const qk_softmax_state *into, const qk_softmax_state *from, qk_int rows, qk_int width);
void qk_scalar_attention_finish(const qk_softmax_state *s, qk_int rows, qk_int width, float *out, qk_int out_stride);

qk_int qk_scalar_peak_int8(qk_int rounds);
qk_int qk_scalar_peak_bf16(qk_int rounds);
qk_int qk_scalar_peak_int16(qk_int rounds);
uint64_t qk_scalar_peak_read(const void *memory, qk_int bytes);

/// A row as 16-bit integers (cache.h), unaligned; returns its scale.
float qk_scalar_put_int16(const float *x, qk_int count, void *out);

#endif
