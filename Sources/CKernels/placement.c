// The system calls of quire_placement.h.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE  // cpu_set_t, pthread_setaffinity_np, syscall
#endif
#include "quire_placement.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SETS = QK_MAX_CPUS / CPU_SETSIZE, BITS_PER_WORD = 64, NODE_WORDS = QK_MAX_NODES / BITS_PER_WORD };

// linux/mempolicy.h, which is not everywhere installed.
enum { POLICY_INTERLEAVE = 3 };

int32_t qk_affinity(uint8_t *usable) {
  cpu_set_t sets[SETS];
  if (sched_getaffinity(0, sizeof sets, sets) != 0) return errno;
  for (int cpu = 0; cpu < QK_MAX_CPUS; cpu++) usable[cpu] = CPU_ISSET_S(cpu, sizeof sets, sets) != 0;
  return 0;
}

int32_t qk_pin_thread(pthread_t thread, int32_t cpu) {
  if (cpu < 0 || cpu >= QK_MAX_CPUS) return EINVAL;
  cpu_set_t sets[SETS];
  CPU_ZERO_S(sizeof sets, sets);
  CPU_SET_S(cpu, sizeof sets, sets);
  return pthread_setaffinity_np(thread, sizeof sets, sets);
}

int32_t qk_pin_caller(int32_t cpu) { return qk_pin_thread(pthread_self(), cpu); }

/// linux/sched/types.h, SCHED_ATTR_SIZE_VER0; C libraries before glibc 2.41 do not declare it.
typedef struct {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
} turn_attributes;

static bool read_turns(turn_attributes *attributes) {
  return syscall(SYS_sched_getattr, 0, attributes, (unsigned int)sizeof *attributes, 0) == 0;
}

int32_t qk_take_long_turns(void) {
  turn_attributes attributes;
  if (!read_turns(&attributes)) return errno;
  // A real-time thread keeps what its owner gave it.
  if (attributes.policy != SCHED_OTHER && attributes.policy != SCHED_BATCH) return 0;
  attributes.runtime = QK_LONG_TURN_NANOSECONDS;
  return syscall(SYS_sched_setattr, 0, &attributes, 0) == 0 ? 0 : errno;
}

int64_t qk_turn_nanoseconds(void) {
  turn_attributes attributes;
  return read_turns(&attributes) ? (int64_t)attributes.runtime : 0;
}

int32_t qk_interleave(void *base, qk_int bytes, const int32_t *nodes, qk_int count) {
  uint64_t mask[NODE_WORDS] = {0};
  for (qk_int i = 0; i < count; i++) {
    if (nodes[i] < 0 || nodes[i] >= QK_MAX_NODES) return EINVAL;
    mask[nodes[i] / BITS_PER_WORD] |= (uint64_t)1 << (nodes[i] % BITS_PER_WORD);
  }
  // The kernel reads one bit less than it is told of (get_nodes in mm/mempolicy.c).
  return syscall(SYS_mbind, base, (unsigned long)bytes, POLICY_INTERLEAVE, mask, (unsigned long)QK_MAX_NODES + 1, 0) == 0 ? 0 : errno;
}
