// Names for `top -H` and debuggers. (Swift's Glibc module lacks pthread_setname_np.)

import Glibc

/// Names the calling thread; the kernel keeps 15 bytes.
package func nameThread(_ name: String) {
  guard let file = fopen("/proc/thread-self/comm", "w") else { return }
  fputs(name, file)
  fclose(file)
}
