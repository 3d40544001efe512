// What the machine can do at best, measured with all workers at once. See qk_pool_measure in quire_kernels.h.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE  // MAP_ANONYMOUS
#endif
#include <stdatomic.h>
#include <sys/mman.h>
#include <time.h>

#include "quire_kernels.h"

enum { PROBE_JOBS = 64, PROBE_ROUNDS = 20000, PROBE_REPEATS = 3 };
static const qk_int PROBE_BYTES = 256 << 20;

typedef struct probe {
  const qk_kernels *kernels;
  const uint8_t *memory;
  _Atomic uint64_t sum;
  _Atomic qk_int operations;
} probe;

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void read_job(void *context, qk_int job, qk_int worker) {
  (void)worker;
  probe *p = context;
  const qk_int bytes = PROBE_BYTES / PROBE_JOBS;
  atomic_fetch_add_explicit(&p->sum, p->kernels->peak_read(p->memory + job * bytes, bytes), memory_order_relaxed);
}

static void int8_job(void *context, qk_int job, qk_int worker) {
  (void)job, (void)worker;
  probe *p = context;
  atomic_fetch_add_explicit(&p->operations, p->kernels->peak_int8(PROBE_ROUNDS), memory_order_relaxed);
}

static void bf16_job(void *context, qk_int job, qk_int worker) {
  (void)job, (void)worker;
  probe *p = context;
  atomic_fetch_add_explicit(&p->operations, p->kernels->peak_bf16(PROBE_ROUNDS), memory_order_relaxed);
}

static void int16_job(void *context, qk_int job, qk_int worker) {
  (void)job, (void)worker;
  probe *p = context;
  atomic_fetch_add_explicit(&p->operations, p->kernels->peak_int16(PROBE_ROUNDS), memory_order_relaxed);
}

/// The shortest of some runs.
static double seconds_of(qk_pool *pool, qk_job job, probe *p) {
  double best = 1e9;
  for (int i = 0; i < PROBE_REPEATS; i++) {
    atomic_store(&p->operations, 0);
    const double start = seconds_now();
    qk_pool_run(pool, job, p, PROBE_JOBS);
    const double seconds = seconds_now() - start;
    if (seconds < best) best = seconds;
  }
  return best;
}

qk_limits qk_pool_measure(qk_pool *pool, const qk_kernels *kernels) {
  qk_limits limits = {0, 0, 0, 0};
  void *memory = mmap(NULL, (size_t)PROBE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return limits;
  madvise(memory, (size_t)PROBE_BYTES, MADV_HUGEPAGE);
  for (qk_int i = 0; i < PROBE_BYTES; i += 4096) ((volatile uint8_t *)memory)[i] = 1;
  probe p = {.kernels = kernels, .memory = memory};
  limits.bytes_per_second = (double)PROBE_BYTES / seconds_of(pool, read_job, &p);
  double seconds = seconds_of(pool, int8_job, &p);
  limits.int8_per_second = (double)atomic_load(&p.operations) / seconds;
  seconds = seconds_of(pool, bf16_job, &p);
  limits.bf16_per_second = (double)atomic_load(&p.operations) / seconds;
  seconds = seconds_of(pool, int16_job, &p);
  limits.int16_per_second = (double)atomic_load(&p.operations) / seconds;
  munmap(memory, (size_t)PROBE_BYTES);
  return limits;
}
