// Compiles the vector bodies as the AVX-512 variant with bfloat16 dot products once more, for AMD's Zen 4: one row group at a time (simd_body_quant.h), few products left to the hardware's prefetch (simd_shared.h).
// Nothing here runs unless dispatch.c found the CPU able.
#include <immintrin.h>
#include <math.h>

#include "scalar.h"
#include "variants.h"

QK_STRICT_FLOAT

#define INLINE static inline __attribute__((always_inline))
#define QK_BYTE_ATTENTION 1
#define QK_BF16_DOT 1
#define QK_QUANT_GROUPS 1
#define QK_FETCH_INTO_L1 0
#define QK_HARDWARE_FETCHES 1

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16"))), apply_to = function)
#include "simd_avx512.h"
#include "simd_bodies.h"
#pragma clang attribute pop

const qk_kernels qk_table_avx512zen4 = QK_TABLE("avx512zen4", v_);
