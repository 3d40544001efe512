// Private: the tables of the vector variants (simd_*.c), and how a table is filled from a name prefix.
#ifndef QK_VARIANTS_H
#define QK_VARIANTS_H

#include "quire_kernels.h"

#define QK_TABLE(label, p)                                                                                         \
  {.name = label, .dequantize_rows = p##dequantize_rows, .matmul_exact = p##matmul_exact,                          \
   .quantize_activations = p##quantize_activations, .matmul_fast = p##matmul_fast, .rms_norm = p##rms_norm,        \
   .softmax = p##softmax, .sigmoid = p##sigmoid, .silu_mul = p##silu_mul, .rope_interleaved = p##rope_interleaved, \
   .rope_half_split = p##rope_half_split, .add = p##add, .axpy = p##axpy, .scale = p##scale,                       \
   .f32_to_bf16 = p##f32_to_bf16, .bf16_to_f32 = p##bf16_to_f32, .max = p##max, .argmax = p##argmax,               \
   .logsumexp = p##logsumexp, .cache_store_row = p##cache_store_row, .cache_load_rows = p##cache_load_rows,        \
   .attention_latent = p##attention_latent, .attention_expanded = p##attention_expanded,                           \
   .attention_reset = p##attention_reset, .attention_merge = p##attention_merge,                                   \
   .attention_finish = p##attention_finish, .peak_int8 = p##peak_int8, .peak_bf16 = p##peak_bf16, \
   .peak_int16 = p##peak_int16, .peak_read = p##peak_read}

extern const qk_kernels qk_table_avx2, qk_table_avxvnni, qk_table_avx512, qk_table_avx512bf16, qk_table_avx512zen4, qk_table_avx512zen5;

#endif
