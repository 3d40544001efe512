// Defines malloc and its family for the whole test process, forwarding to glibc's own entry points and counting per thread.
#include "allocation_counter.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define FOREIGN_MALLOC 1
#endif
#endif

static _Thread_local int64_t count __attribute__((tls_model("initial-exec")));

int64_t allocation_count(void) { return count; }

#ifdef FOREIGN_MALLOC

bool allocation_counter_works(void) { return false; }

#else

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

void *malloc(size_t bytes) {
  count++;
  return __libc_malloc(bytes);
}

void *calloc(size_t items, size_t bytes) {
  count++;
  return __libc_calloc(items, bytes);
}

void *realloc(void *old, size_t bytes) {
  count++;
  return __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes) {
  count++;
  return __libc_memalign(alignment, bytes);
}

void *memalign(size_t alignment, size_t bytes) {
  count++;
  return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes) {
  count++;
  void *memory = __libc_memalign(alignment, bytes);
  if (memory == NULL) return ENOMEM;
  *out = memory;
  return 0;
}

bool allocation_counter_works(void) {
  int64_t before = count;
  void *volatile memory = malloc(16);
  free(memory);
  return count == before + 1;
}

#endif
