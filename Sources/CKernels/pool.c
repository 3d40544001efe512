// The worker pool of quire_pool.h: an epoch (odd = a run is open), spans of jobs that workers take theirs from, and a count of the
// workers inside. Each span is the home of one worker (of several, where there are more than MOST_SPANS): it goes through it from its
// front, so that what its jobs read lies one after the other and the same rows of every run stay in the same core's cache; then it takes
// from the back of the others' spans. A sleeping worker is never waited for: a run ends when its jobs are done and every worker that entered has left.
// Only C11 atomics order memory (so ThreadSanitizer sees everything); the futex calls only sleep and wake.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE  // syscall
#endif
#include "quire_placement.h"
#include "quire_pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/// A pause takes 23 ns on Zen 5 and more on Intel; whoever looks seldom is late at the start and the end of every run.
enum { PAUSES_PER_LOOK = 2, CACHE_LINE = 64, MOST_SPANS = 8 };
/// Nothing that other cores read lies this near to a worker's scratch: their hardware's prefetch runs up to 16 KB beyond the end of an array, and
/// takes away lines that are being written here [M: two cores of Zen 5 on two dies, Q8_0 4096x2048 with 32 tokens: 503 to 530 us, 400 with it].
enum { SCRATCH_MARGIN = 64 << 10 };

/// Jobs that nobody took yet: the first in the low half, the end in the high half.
typedef struct job_span {
  _Alignas(CACHE_LINE) _Atomic uint64_t jobs;
} job_span;

typedef struct worker {
  struct qk_pool *pool;
  qk_int index;
  pthread_t thread;
} worker;

struct qk_pool {
  // Written by the owner while no worker is inside; read by workers that saw an odd epoch.
  qk_job job;
  void *context;
  qk_int threads, spans;
  qk_int spin_nanoseconds;  // how long a thread looks before it sleeps
  void **scratch;  // [threads]
  qk_int scratch_bytes;
  worker *workers;  // [threads - 1]
  _Alignas(CACHE_LINE) _Atomic uint32_t epoch;
  _Atomic uint32_t sleepers;
  _Atomic bool stopping;
  _Alignas(CACHE_LINE) _Atomic uint32_t inside;
  _Atomic bool owner_sleeps;
  job_span span[MOST_SPANS];
};

static void futex_wait(_Atomic uint32_t *word, uint32_t expected) {
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int count) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0); }

static int64_t now_nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void pause_a_little(void) {
  for (int i = 0; i < PAUSES_PER_LOOK; i++) __builtin_ia32_pause();
}

static uint64_t span_of(uint32_t first, uint32_t end) { return (uint64_t)end << 32 | first; }

/// The first job of a span, or its last; -1 if none is left.
static qk_int claim(job_span *span, bool last) {
  uint64_t jobs = atomic_load_explicit(&span->jobs, memory_order_relaxed);
  for (;;) {
    const uint32_t first = (uint32_t)jobs, end = (uint32_t)(jobs >> 32);
    if (first >= end) return -1;
    const uint64_t left = last ? span_of(first, end - 1) : span_of(first + 1, end);
    if (atomic_compare_exchange_weak_explicit(&span->jobs, &jobs, left, memory_order_relaxed, memory_order_relaxed))
      return last ? end - 1 : first;
  }
}

static void claim_jobs(qk_pool *pool, qk_int index) {
  const qk_int home = index * pool->spans / pool->threads;
  for (qk_int i = 0; i < pool->spans; i++) {
    qk_int j;
    while ((j = claim(&pool->span[(home + i) % pool->spans], i > 0)) >= 0) pool->job(pool->context, j, index);
  }
}

static void share_out(qk_pool *pool, qk_int jobs) {
  for (qk_int i = 0; i < pool->spans; i++) {
    const qk_int first = i * jobs / pool->spans, end = (i + 1) * jobs / pool->spans;
    atomic_store_explicit(&pool->span[i].jobs, span_of((uint32_t)first, (uint32_t)end), memory_order_relaxed);
  }
}

/// Waits until the epoch is no longer `seen`: spins, then sleeps.
static void wait_for_epoch(qk_pool *pool, uint32_t seen) {
  const int64_t deadline = now_nanoseconds() + pool->spin_nanoseconds;
  while (atomic_load(&pool->epoch) == seen) {
    if (now_nanoseconds() < deadline) {
      pause_a_little();
      continue;
    }
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->epoch) == seen) futex_wait(&pool->epoch, seen);
    atomic_fetch_sub(&pool->sleepers, 1);
  }
}

static void *worker_main(void *argument) {
  worker *self = argument;
  qk_pool *pool = self->pool;
  uint32_t done = 0;  // the epoch this worker has nothing left to do in
  (void)qk_take_long_turns();
  for (;;) {
    wait_for_epoch(pool, done);
    atomic_fetch_add(&pool->inside, 1);
    done = atomic_load(&pool->epoch);
    if (done & 1) claim_jobs(pool, self->index);
    if (atomic_fetch_sub(&pool->inside, 1) == 1 && atomic_load(&pool->owner_sleeps)) futex_wake(&pool->inside, 1);
    // After the epoch was read: whoever saw the last one knows, and whoever saw one before it does not sleep.
    if (atomic_load(&pool->stopping)) return NULL;
  }
}

static void wait_until_empty(qk_pool *pool) {
  const int64_t deadline = now_nanoseconds() + pool->spin_nanoseconds;
  uint32_t inside;
  while ((inside = atomic_load(&pool->inside)) != 0) {
    if (now_nanoseconds() < deadline) {
      pause_a_little();
      continue;
    }
    atomic_store(&pool->owner_sleeps, true);
    if ((inside = atomic_load(&pool->inside)) != 0) futex_wait(&pool->inside, inside);
    atomic_store(&pool->owner_sleeps, false);
  }
}

void qk_pool_run(qk_pool *pool, qk_job job, void *context, qk_int jobs) {
  if (jobs <= 0) return;
  if (pool->threads == 1 || jobs == 1 || jobs > QK_POOL_MAX_SHARED_JOBS) {
    for (qk_int j = 0; j < jobs; j++) job(context, j, 0);
    return;
  }
  pool->job = job;
  pool->context = context;
  share_out(pool, jobs);
  atomic_fetch_add(&pool->epoch, 1);  // opens: releases the fields above
  if (atomic_load(&pool->sleepers) != 0) futex_wake(&pool->epoch, (int)(jobs - 1 < pool->threads - 1 ? jobs - 1 : pool->threads - 1));
  claim_jobs(pool, 0);
  atomic_fetch_add(&pool->epoch, 1);  // closes: whoever enters from now on leaves at once
  wait_until_empty(pool);
}

static void stop_workers(qk_pool *pool, qk_int started) {
  atomic_store(&pool->stopping, true);
  atomic_fetch_add(&pool->epoch, 2);
  futex_wake(&pool->epoch, QK_POOL_MAX_THREADS);
  for (qk_int i = 0; i < started; i++) pthread_join(pool->workers[i].thread, NULL);
}

static void release(qk_pool *pool) {
  if (pool->scratch)
    for (qk_int i = 0; i < pool->threads; i++) free(pool->scratch[i]);
  free(pool->scratch);
  free(pool->workers);
  free(pool);
}

qk_pool *qk_pool_create(qk_int threads) { return qk_pool_create_spinning(threads, QK_POOL_SPIN_NANOSECONDS); }

qk_pool *qk_pool_create_spinning(qk_int threads, qk_int spin_nanoseconds) {
  if (threads < 1 || threads > QK_POOL_MAX_THREADS) return NULL;
  if (spin_nanoseconds < 0 || spin_nanoseconds > QK_POOL_SPIN_NANOSECONDS) return NULL;
  qk_pool *pool = aligned_alloc(CACHE_LINE, (sizeof(qk_pool) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
  if (!pool) return NULL;
  *pool = (qk_pool){.threads = threads, .spans = threads < MOST_SPANS ? threads : MOST_SPANS, .spin_nanoseconds = spin_nanoseconds};
  pool->scratch = calloc((size_t)threads, sizeof(void *));
  pool->workers = calloc((size_t)threads, sizeof(worker));
  if (!pool->scratch || !pool->workers) {
    release(pool);
    return NULL;
  }
  for (qk_int i = 0; i < threads - 1; i++) {
    pool->workers[i] = (worker){.pool = pool, .index = i + 1};
    if (pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]) != 0) {
      stop_workers(pool, i);
      release(pool);
      return NULL;
    }
  }
  return pool;
}

void qk_pool_destroy(qk_pool *pool) {
  if (!pool) return;
  stop_workers(pool, pool->threads - 1);
  release(pool);
}

qk_int qk_pool_threads(const qk_pool *pool) { return pool->threads; }

qk_int qk_pool_pin(qk_pool *pool, const int32_t *cpus) {
  qk_int refused = 0;
  for (qk_int i = 1; i < pool->threads; i++) refused += qk_pin_thread(pool->workers[i - 1].thread, cpus[i]) != 0;
  return refused;
}

int32_t qk_pool_reserve(qk_pool *pool, qk_int bytes) {
  if (bytes <= pool->scratch_bytes) return 0;
  if (bytes > PTRDIFF_MAX - CACHE_LINE - 2 * SCRATCH_MARGIN) return -1;
  const qk_int rounded = (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
  void *fresh[QK_POOL_MAX_THREADS];
  for (qk_int i = 0; i < pool->threads; i++) {
    fresh[i] = aligned_alloc(CACHE_LINE, (size_t)(rounded + 2 * SCRATCH_MARGIN));
    if (fresh[i]) continue;
    while (i-- > 0) free(fresh[i]);
    return -1;
  }
  for (qk_int i = 0; i < pool->threads; i++) {
    free(pool->scratch[i]);
    pool->scratch[i] = fresh[i];
  }
  pool->scratch_bytes = rounded;
  return 0;
}

void *qk_pool_scratch(const qk_pool *pool, qk_int worker) {
  return pool->scratch[worker] ? (uint8_t *)pool->scratch[worker] + SCRATCH_MARGIN : NULL;
}

qk_int qk_pool_scratch_bytes(const qk_pool *pool) { return pool->scratch_bytes; }
