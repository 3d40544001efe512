// Counts heap allocations of the calling thread, for tests that promise "no allocation in the steady state". Test code only.
#ifndef QUIRE_ALLOCATION_COUNTER_H
#define QUIRE_ALLOCATION_COUNTER_H

#include <stdbool.h>
#include <stdint.h>

/// False where another library owns malloc (sanitizers): nothing is counted there.
bool allocation_counter_works(void);
/// Allocations made by this thread since it began.
int64_t allocation_count(void);

#endif
