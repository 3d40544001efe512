// What all loops of one server share: configuration, router, counts, and the steps of a drain. Everything here is
// immutable, atomic or Locked.

import CNet
import Glibc
import Synchronization

final class ServerCore: @unchecked Sendable {
  /// Larger answers are sent as they are: compressing them would stall the loop's other clients.
  static let maxGzipBytes = 2_097_152

  let configuration: ServerConfiguration
  let router: Router
  let errorBody: @Sendable (Int, String) -> HTTPResponse
  let observer: ServerObserver?
  let tls: TLSContext?
  let loops: [EventLoop]
  let isAcceptPaused = Atomic<Bool>(false)
  /// Of all connections; bounded by maxBufferedBodyBytes.
  let bufferedBodyBytes = Atomic<Int>(0)
  private let connections = Atomic<Int>(0)
  private let exchanges = Atomic<Int>(0)
  private let draining = Atomic<Bool>(false)
  private let drainState = Locked(DrainState())
  private var acceptors: [Acceptor] = []  // confined to the first loop

  private struct DrainState {
    var completion: (@Sendable () -> Void)?
    /// The last exchange has ended, or the deadline has passed.
    var isFinal = false
    var isListenerClosed = false
  }

  init(
    configuration: ServerConfiguration, router: Router, errorBody: @escaping @Sendable (Int, String) -> HTTPResponse,
    observer: ServerObserver?, tls: TLSContext?, loops: [EventLoop]
  ) {
    self.configuration = configuration
    self.router = router
    self.errorBody = errorBody
    self.observer = observer
    self.tls = tls
    self.loops = loops
  }

  var isDraining: Bool { draining.load(ordering: .sequentiallyConsistent) }
  var connectionCount: Int { connections.load(ordering: .sequentiallyConsistent) }
  private var exchangeCount: Int { exchanges.load(ordering: .sequentiallyConsistent) }

  /// On the first loop.
  func openListeners(_ descriptors: [Int32]) {
    guard let first = loops.first else { return }
    acceptors = descriptors.map { Acceptor(core: self, loop: first, descriptor: $0) }
    for acceptor in acceptors { acceptor.open() }
  }

  /// On the first loop. Breaks the cycle of references between acceptors and core, too.
  func closeListeners() {
    for acceptor in acceptors { acceptor.close() }
    acceptors = []
  }

  // MARK: Connections

  /// Gives an accepted descriptor to the loop with the fewest connections. On the first loop.
  func adopt(_ descriptor: Int32, remoteAddress: String, from current: EventLoop) {
    var target = current
    var fewest = Int.max
    for loop in loops {
      let count = loop.connectionCount.load(ordering: .relaxed)
      if count < fewest { (target, fewest) = (loop, count) }
    }
    connections.add(1, ordering: .sequentiallyConsistent)
    target.connectionCount.add(1, ordering: .relaxed)
    if target === current { return open(descriptor, remoteAddress: remoteAddress, on: target) }
    let chosen = target
    chosen.post { self.open(descriptor, remoteAddress: remoteAddress, on: chosen) }
  }

  private func open(_ descriptor: Int32, remoteAddress: String, on loop: EventLoop) {
    var session: TLSSession?
    if let tls {
      session = TLSSession(tls)
      guard session != nil else { return refuse(descriptor, on: loop) }
    }
    let connection = Connection(core: self, loop: loop, descriptor: descriptor, remoteAddress: remoteAddress, tls: session)
    if !connection.open() { refuse(descriptor, on: loop) }
  }

  private func refuse(_ descriptor: Int32, on loop: EventLoop) {
    Glibc.close(descriptor)
    forgetConnection(on: loop)
  }

  func connectionClosed(on loop: EventLoop) {
    observer?.connectionClosed()
    forgetConnection(on: loop)
  }

  private func forgetConnection(on loop: EventLoop) {
    loop.connectionCount.subtract(1, ordering: .relaxed)
    connections.subtract(1, ordering: .sequentiallyConsistent)
    if isAcceptPaused.load(ordering: .sequentiallyConsistent), isAcceptPaused.exchange(false, ordering: .sequentiallyConsistent) {
      loops.first?.post { for acceptor in self.acceptors { acceptor.resume() } }
    }
    if isDraining { advanceDrain() }
  }

  // MARK: Exchanges

  func exchangeStarted() { exchanges.add(1, ordering: .sequentiallyConsistent) }

  func exchangeFinished(_ exchange: Exchange, isDisconnected: Bool) {
    observer?.requestFinished(
      RequestRecord(
        method: exchange.request.method, routePattern: exchange.routePattern, status: exchange.status ?? 499,
        requestBytes: exchange.head.byteCount + exchange.request.body.count, responseBytes: exchange.responseBytes,
        durationNanoseconds: cnet_monotonic_nanoseconds() &- exchange.startNanoseconds, isDisconnected: isDisconnected))
    exchanges.subtract(1, ordering: .sequentiallyConsistent)
    if isDraining { advanceDrain() }
  }

  // MARK: Drain

  /// Idle connections close now; answers say "Connection: close"; the listener stays until the last exchange in flight
  /// has ended, so that new requests are told why they are refused.
  func drain(deadlineMilliseconds: Int, completion: @escaping @Sendable () -> Void) {
    let isFirst = drainState.withLock { state in
      guard state.completion == nil, !isDraining else { return false }
      state.completion = completion
      draining.store(true, ordering: .sequentiallyConsistent)
      return true
    }
    guard isFirst, let first = loops.first else { return }
    for loop in loops { loop.post { self.drainConnections(of: loop, isFinal: false) } }
    first.post {
      first.schedule(afterMilliseconds: deadlineMilliseconds) {
        self.beginFinalPhase()
        for loop in self.loops { loop.post { for handler in loop.handlers { handler.handleStop() } } }
        first.post { self.advanceDrain() }
      }
      self.advanceDrain()
    }
  }

  private func drainConnections(of loop: EventLoop, isFinal: Bool) {
    for handler in loop.handlers { (handler as? Connection)?.drain(isFinal: isFinal) }
  }

  /// On any loop. Goes on when the last exchange has ended, and completes when the last connection has closed.
  private func advanceDrain() {
    if exchangeCount == 0 { beginFinalPhase() }
    guard connectionCount == 0 else { return }
    let completion = drainState.withLock { state -> (@Sendable () -> Void)? in
      guard state.isListenerClosed else { return nil }
      defer { state.completion = nil }
      return state.completion
    }
    completion?()
  }

  private func beginFinalPhase() {
    let isFirst = drainState.withLock { state in
      defer { state.isFinal = true }
      return !state.isFinal
    }
    guard isFirst else { return }
    loops.first?.post {
      self.closeListeners()
      self.drainState.withLock { $0.isListenerClosed = true }
      // Connections accepted before this point have been posted to their loops: they are seen below.
      for loop in self.loops { loop.post { self.drainConnections(of: loop, isFinal: true) } }
      self.advanceDrain()
    }
  }
}
