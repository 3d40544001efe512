// Threads of their own, beside the pool's workers: the engine's (Serving) and the cache's.

import Glibc

private final class ThreadStart: @unchecked Sendable {
  let name: String
  let body: () -> Void

  init(_ name: String, _ body: @escaping () -> Void) {
    self.name = name
    self.body = body
  }

  /// For `top -H` and debuggers; the kernel keeps 15 bytes. (Swift's Glibc module lacks pthread_setname_np.)
  func nameThread() {
    guard let file = fopen("/proc/thread-self/comm", "w") else { return }
    fputs(name, file)
    fclose(file)
  }
}

/// Runs `body` on a new thread, which must be joined; what it holds is the thread's from then on. nil: the system refused.
package func startThread(name: String, stackBytes: Int, _ body: sending @escaping () -> Void) -> pthread_t? {
  // Said in any case: the default of a container's libc may be as small as 128 KiB.
  var attributes = pthread_attr_t()
  pthread_attr_init(&attributes)
  pthread_attr_setstacksize(&attributes, stackBytes)
  defer { pthread_attr_destroy(&attributes) }
  let start = Unmanaged.passRetained(ThreadStart(name, body))
  var handle = pthread_t()
  let code = pthread_create(
    &handle, &attributes,
    { @Sendable raw in
      guard let raw else { return nil }
      let start = Unmanaged<ThreadStart>.fromOpaque(raw).takeRetainedValue()
      start.nameThread()
      start.body()
      return nil
    }, start.toOpaque())
  guard code == 0 else {
    start.release()
    return nil
  }
  return handle
}
