// What the engine's job files share among themselves. Not part of the module.
#ifndef QUIRE_ENGINE_JOBS_H
#define QUIRE_ENGINE_JOBS_H

#include "quire_engine.h"

/// A pass over fewer floats than this is done by the calling thread alone.
#define QE_SERIAL_FLOATS 16384

/// Bytes up to the next cache line.
static inline qk_int qe_rounded(qk_int bytes) { return (bytes + 63) / 64 * 64; }

void qe_emit(const qk_kernels *kernels, const qe_activations *out, qk_int row, qk_int width);
void qe_emit_head(const qk_kernels *kernels, const qe_head_activations *out, qk_int head, qk_int row, const float *x, qk_int width);
void qe_run_rows(qe_workers workers, qk_job job, void *context, qk_int rows, qk_int floats_per_row);

#endif
