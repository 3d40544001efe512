// Signals as ordinary calls on a thread of their own (signalfd). Knows nothing of what they mean.

import CNet
import Dispatch
import Glibc

/// Make it first thing in the process, on the main thread: the signals are blocked in the calling thread and in every
/// thread that starts after it, and then only come here.
package final class SignalWatcher: Sendable {
  private let signalDescriptor: Int32
  private let stopDescriptor: Int32
  let readerThread = Locked<UInt?>(nil)

  package init(signals: [Int32], handler: @escaping @Sendable (Int32) -> Void) throws(ServerError) {
    var set = sigset_t()
    sigemptyset(&set)
    for signal in signals { sigaddset(&set, signal) }
    pthread_sigmask(SIG_BLOCK, &set, nil)
    signalDescriptor = signalfd(-1, &set, Int32(SFD_CLOEXEC))
    guard signalDescriptor >= 0 else { throw .system(call: "signalfd", errno: errno) }
    stopDescriptor = eventfd(0, Int32(EFD_CLOEXEC))
    guard stopDescriptor >= 0 else {
      let code = errno
      close(signalDescriptor)
      throw .system(call: "eventfd", errno: code)
    }
    let blocked = set
    DispatchQueue(label: "quire.signals").async { @Sendable in
      var set = blocked
      pthread_sigmask(SIG_BLOCK, &set, nil)
      self.readerThread.withLock { $0 = cnet_current_thread() }
      self.run(handler)
    }
  }

  private func run(_ handler: @Sendable (Int32) -> Void) {
    defer {
      close(signalDescriptor)
      close(stopDescriptor)
    }
    var descriptors = [
      pollfd(fd: signalDescriptor, events: Int16(POLLIN), revents: 0), pollfd(fd: stopDescriptor, events: Int16(POLLIN), revents: 0),
    ]
    while true {
      guard poll(&descriptors, nfds_t(descriptors.count), -1) > 0 else { continue }
      if descriptors[1].revents != 0 { return }
      var information = signalfd_siginfo()
      let size = MemoryLayout<signalfd_siginfo>.size
      if read(signalDescriptor, &information, size) == size { handler(Int32(bitPattern: information.ssi_signo)) }
    }
  }

  /// Ends the watching; the signals stay blocked.
  package func cancel() {
    var one: UInt64 = 1
    _ = write(stopDescriptor, &one, MemoryLayout<UInt64>.size)
  }
}
