// Compiles the vector bodies as the AVX-512 (VNNI) variant. Nothing here runs unless dispatch.c found the CPU able.
#include <immintrin.h>
#include <math.h>

#include "scalar.h"
#include "variants.h"

QK_STRICT_FLOAT

#define INLINE static inline __attribute__((always_inline))
#define QK_BYTE_ATTENTION 1
#define QK_BF16_DOT 0
#define QK_QUANT_GROUPS 2
#define QK_FETCH_INTO_L1 0
#define QK_HARDWARE_FETCHES 0

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))), apply_to = function)
#include "simd_avx512.h"
#include "simd_bodies.h"
#pragma clang attribute pop

const qk_kernels qk_table_avx512 = QK_TABLE("avx512", v_);
