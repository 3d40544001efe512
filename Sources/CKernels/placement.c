// The system calls of quire_placement.h.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE  // cpu_set_t, pthread_setaffinity_np, syscall
#endif
#include "quire_placement.h"

#include <errno.h>
#include <sched.h>
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

int32_t qk_interleave(void *base, qk_int bytes, const int32_t *nodes, qk_int count) {
  uint64_t mask[NODE_WORDS] = {0};
  for (qk_int i = 0; i < count; i++) {
    if (nodes[i] < 0 || nodes[i] >= QK_MAX_NODES) return EINVAL;
    mask[nodes[i] / BITS_PER_WORD] |= (uint64_t)1 << (nodes[i] % BITS_PER_WORD);
  }
  // The kernel reads one bit less than it is told of (get_nodes in mm/mempolicy.c).
  return syscall(SYS_mbind, base, (unsigned long)bytes, POLICY_INTERLEAVE, mask, (unsigned long)QK_MAX_NODES + 1, 0) == 0 ? 0 : errno;
}
