// The worker pool: pthreads that run plain C functions for the engine thread, which works along.
// Between runs workers spin for some microseconds and then sleep on a futex: an idle pool uses no CPU.
// Knows nothing of what the jobs do.
#ifndef QUIRE_POOL_H
#define QUIRE_POOL_H

#include <stddef.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

typedef ptrdiff_t qk_int;

typedef struct qk_pool qk_pool;

/// One job. `worker` is 0 (the calling thread) ... threads - 1: the index of the thread's own scratch.
typedef void (*qk_job)(void *_Nullable context, qk_int job, qk_int worker);

#define QK_POOL_MAX_THREADS 256
#define QK_POOL_SPIN_NANOSECONDS 40000
#define QK_POOL_MAX_SHARED_JOBS 0x7FFFFFFF

/// `threads` in 1...QK_POOL_MAX_THREADS counts the caller (1 = no thread is made). NULL if threads or memory are refused.
qk_pool *_Nullable qk_pool_create(qk_int threads);
/// As above, with 0...QK_POOL_SPIN_NANOSECONDS in place of that much spinning. 0 is for more threads than CPUs: there a thread that
/// spins keeps one that works from its CPU.
qk_pool *_Nullable qk_pool_create_spinning(qk_int threads, qk_int spin_nanoseconds);
void qk_pool_destroy(qk_pool *_Nullable pool);
qk_int qk_pool_threads(const qk_pool *pool);

/// Keeps worker i = 1 ... threads - 1 on cpus[i] from now on; returns how many of them the system refused. cpus[0] is not touched: worker
/// 0 is whoever calls qk_pool_run, and only that thread's owner knows when that is (qk_pin_caller).
qk_int qk_pool_pin(qk_pool *pool, const int32_t *cpus);

/// Calls job(context, j, worker) once for every j in 0 ..< jobs and returns when all have returned. Each worker begins with a span of jobs
/// of its own, the same in every run of as many jobs, and takes them in rising order; one that has done its own takes from the ends of the
/// others'. Not reentrant: one thread owns the pool. What a job wrote is visible after the return, and to the next run. More than
/// QK_POOL_MAX_SHARED_JOBS are done by the caller alone.
void qk_pool_run(qk_pool *pool, qk_job job, void *_Nullable context, qk_int jobs);

/// Makes every worker's scratch at least `bytes` large (64-byte aligned). Contents are not kept. 0 on success, -1 if
/// memory is refused (the old scratch stays). Not during a run.
int32_t qk_pool_reserve(qk_pool *pool, qk_int bytes);
void *_Nullable qk_pool_scratch(const qk_pool *pool, qk_int worker);
qk_int qk_pool_scratch_bytes(const qk_pool *pool);

#pragma clang assume_nonnull end
#endif
