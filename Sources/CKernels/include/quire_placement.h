// Which CPUs a thread may use, how long its turns on them are and which memory nodes a mapping lies on: the system calls for it, which
// Swift's Glibc module lacks.
// Raw calls, no libnuma. Knows nothing of cores or policy.
#ifndef QUIRE_PLACEMENT_H
#define QUIRE_PLACEMENT_H

#include <pthread.h>
#include <stdint.h>

#include "quire_pool.h"

#pragma clang assume_nonnull begin

/// Linux's own upper limits on x86-64 (NR_CPUS, MAX_NUMNODES).
#define QK_MAX_CPUS 8192
#define QK_MAX_NODES 1024

/// usable[cpu] becomes 1 for each CPU that the calling thread may use, else 0 (usable: [QK_MAX_CPUS]). 0, or an errno.
int32_t qk_affinity(uint8_t *usable);

/// Keeps a thread on one CPU. 0, or an errno (EINVAL: not a CPU that the process may use).
int32_t qk_pin_thread(pthread_t thread, int32_t cpu);
int32_t qk_pin_caller(int32_t cpu);

/// How long the threads that compute may run before others get their turn.
#define QK_LONG_TURN_NANOSECONDS 20000000

/// Asks for turns of that length for the calling thread (sched_setattr, sched_runtime; priority and share of the CPU stay as they are).
/// Since Linux 6.12 a thread that wakes takes the CPU at once from one whose turns are longer than its own, and waits for the end of the
/// turn, up to 3 ms, of one whose turns are as long: so the server's other threads and clients on this machine get their tokens when
/// they are there. A wish: older kernels do nothing. 0, or an errno.
int32_t qk_take_long_turns(void);
/// Of the calling thread; 0 if the kernel does not say (before 6.12).
int64_t qk_turn_nanoseconds(void);

/// Pages of the mapping that are touched from now on come from the `count` nodes in turn. `base` is page-aligned. 0, or an errno
/// (EPERM: a container's seccomp filter; EINVAL: no such node; ENOSYS: a kernel without NUMA).
int32_t qk_interleave(void *base, qk_int bytes, const int32_t *nodes, qk_int count);

#pragma clang assume_nonnull end
#endif
