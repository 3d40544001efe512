// Takes new connections from one listener and gives each to the loop with the fewest. One listener for all loops and
// no SO_REUSEPORT, so that a second server on the same port is an error, not a thief of half the clients.

import CNet
import Glibc

/// Confined to the first loop.
final class Acceptor: EventHandler {
  private static let maxAcceptsPerTurn = 64
  private static let retryMilliseconds = 100

  private let core: ServerCore
  private let loop: EventLoop
  private let descriptor: Int32
  private var slot = -1
  private var isPaused = false
  private var isClosed = false
  /// Given up for a moment when descriptors run out, so that a waiting client can be accepted and turned away.
  private var reserve: Int32 = -1

  init(core: ServerCore, loop: EventLoop, descriptor: Int32) {
    self.core = core
    self.loop = loop
    self.descriptor = descriptor
    reserve = Self.openReserve()
  }

  private static func openReserve() -> Int32 { Glibc.open("/dev/null", O_RDONLY | O_CLOEXEC) }

  func open() {
    guard let slot = loop.register(descriptor, events: EPOLLIN.rawValue, handler: self) else { return close() }
    self.slot = slot
  }

  func handleEvents(_ events: UInt32) {
    for _ in 0..<Self.maxAcceptsPerTurn {
      guard !isClosed else { return }
      guard core.connectionCount < core.configuration.maxConnections else { return pauseForRoom() }
      guard acceptOne() else { return }
    }
  }

  /// False when there is nothing more to accept now.
  private func acceptOne() -> Bool {
    var address = [CChar](repeating: 0, count: 64)
    let accepted = cnet_accept(descriptor, &address, address.count)
    if accepted >= 0 {
      loop.counters.acceptedConnections += 1
      let text = String(decoding: address.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
      core.adopt(accepted, remoteAddress: text, from: loop)
      return true
    }
    switch -accepted {
    case EAGAIN: return false
    case EMFILE, ENFILE, ENOBUFS, ENOMEM: return turnAwayOne()
    case EBADF, EINVAL, ENOTSOCK, EOPNOTSUPP, EFAULT:
      pause(retries: true)
      return false
    default: return true  // the client gave up while it waited (ECONNABORTED and network errors)
    }
  }

  /// Out of descriptors: without this the listener would stay readable and the loop would spin.
  private func turnAwayOne() -> Bool {
    guard reserve >= 0 else {
      pause(retries: true)
      return false
    }
    Glibc.close(reserve)
    reserve = -1
    var address = [CChar](repeating: 0, count: 64)
    let accepted = cnet_accept(descriptor, &address, address.count)
    if accepted >= 0 { Glibc.close(accepted) }
    reserve = Self.openReserve()
    return accepted >= 0
  }

  private func pauseForRoom() {
    pause(retries: false)
    core.isAcceptPaused.store(true, ordering: .sequentiallyConsistent)
    // A connection may have closed between the check and the mark.
    if core.connectionCount < core.configuration.maxConnections { resume() }
  }

  private func pause(retries: Bool) {
    isPaused = true
    loop.setInterest(descriptor, slot: slot, events: 0)
    if retries { loop.schedule(afterMilliseconds: Self.retryMilliseconds) { [weak self] in self?.resume() } }
  }

  func resume() {
    guard isPaused, !isClosed else { return }
    isPaused = false
    if reserve < 0 { reserve = Self.openReserve() }
    loop.setInterest(descriptor, slot: slot, events: EPOLLIN.rawValue)
  }

  func handleDeadline(_ kind: DeadlineKind) {}
  func handleEndOfTurn() {}
  func handleStop() { close() }

  func close() {
    guard !isClosed else { return }
    isClosed = true
    if slot >= 0 { loop.unregister(descriptor, slot: slot) }
    Glibc.close(descriptor)
    if reserve >= 0 { Glibc.close(reserve) }
  }
}
