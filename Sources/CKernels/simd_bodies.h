// Private: everything that is compiled once per ISA, in its order. Included inside a target attribute region by the simd_*.c files, after the
// primitives (simd_avx2.h or simd_avx512.h) and the QK_ macros that choose between forms.
#include "simd_shared.h"
#include "simd_body_int16.h"
#include "simd_body_vector.h"
#include "simd_body_exact.h"
#include "simd_body_dot.h"
#include "simd_body_unpack.h"
#include "simd_body_quant.h"
#include "simd_body_direct.h"
#include "simd_body_fast.h"
#include "simd_body_plain.h"
#include "simd_body_cache.h"
#include "simd_body_attention.h"
#include "simd_body_attention16.h"
#if QK_BYTE_ATTENTION
#include "simd_body_attention8.h"
#endif
#include "simd_body_tiles.h"
#include "simd_body_peak.h"
