// One client's socket on its loop: reads, feeds ConnectionState, performs its actions, and writes once at the end of
// the turn. Answers are framed in ConnectionResponses.swift. Knows no routes beyond asking the router.

import CNet
import Glibc

/// Confined to its loop.
final class Connection: EventHandler {
  private enum Phase {
    case open
    /// No more requests: what is in the output is flushed, then the socket is closed.
    case flushing(lingers: Bool)
    /// Our side is shut; input is dropped until the client has closed its own.
    case lingering
    case closed
  }

  /// Output beyond this keeps further pipelined requests waiting.
  private static let backlogBytes = 65_536
  /// A client must take so much output within each write deadline.
  private static let writeProgressBytes = 65_536

  let core: ServerCore
  let loop: EventLoop
  let remoteAddress: String
  private let descriptor: Int32
  private var slot = -1
  var state: ConnectionState
  private let tls: TLSSession?
  /// What the next write sends: plaintext, or with TLS what is to be encrypted at the end of the turn.
  var output: [UInt8] {
    get { tls == nil ? wire.bytes : plaintext }
    _modify {
      if tls == nil { yield &wire.bytes } else { yield &plaintext }
    }
  }
  private var plaintext: [UInt8] = []
  private var wire = OutputBuffer()
  var exchange: Exchange?
  private var phase = Phase.open
  private var isPumping = false
  private var isWritable = true
  private var isPeerDone = false
  private var interest: UInt32 = 0
  private var deadline: (kind: DeadlineKind, ordinal: Int)?
  private var sentBytes = 0
  private var accountedBodyBytes = 0

  init(core: ServerCore, loop: EventLoop, descriptor: Int32, remoteAddress: String, tls: TLSSession?) {
    self.core = core
    self.loop = loop
    self.descriptor = descriptor
    self.remoteAddress = remoteAddress
    self.tls = tls
    state = ConnectionState(limits: core.configuration.parserLimits, maxPipelinedRequests: core.configuration.maxPipelinedRequests)
  }

  /// Takes the connection into the loop; false when the kernel refuses (the caller closes the descriptor).
  func open() -> Bool {
    interest = EPOLLIN.rawValue | EPOLLRDHUP.rawValue
    guard let slot = loop.register(descriptor, events: interest, handler: self) else { return false }
    self.slot = slot
    core.observer?.connectionOpened()
    if core.isDraining { state.drain(isNew: true) }
    pump()
    refresh()
    return true
  }

  private var isClosed: Bool { if case .closed = phase { true } else { false } }
  private var pendingBytes: Int { wire.count + plaintext.count }

  // MARK: Events

  func handleEvents(_ events: UInt32) {
    if events & (EPOLLERR.rawValue | EPOLLHUP.rawValue) != 0 { return abort() }
    if events & EPOLLOUT.rawValue != 0 {
      isWritable = true
      loop.needsEndOfTurn(slot: slot)
    }
    if events & (EPOLLIN.rawValue | EPOLLRDHUP.rawValue) != 0 { receive(isPeerDone: events & EPOLLRDHUP.rawValue != 0) }
    guard !isClosed else { return }
    pump()
    refresh()
  }

  private func receive(isPeerDone peerDone: Bool) {
    if case .lingering = phase { return discardInput() }
    if interest & EPOLLIN.rawValue != 0 {
      loop.counters.receiveCalls += 1
      let count = cnet_receive(descriptor, loop.scratch.baseAddress, loop.scratch.count)
      if count > 0 {
        take(UnsafeBufferPointer(rebasing: loop.scratch[..<count]))
      } else if count == 0 {
        isPeerDone = true
        state.receiveEndOfInput()
      } else if count != -Int(EAGAIN) {
        return abort()
      }
    }
    guard peerDone, !isPeerDone, !isClosed else { return }
    // The client has shut its side. With an exchange in flight that is a disconnect, whatever bytes are still unread;
    // otherwise they are read first.
    if case .open = phase { pump() }
    if exchange != nil {
      isPeerDone = true
      state.receiveEndOfInput()
    } else if interest & EPOLLIN.rawValue == 0 {
      isPeerDone = true  // the end of input is read when reading resumes
    }
  }

  private func take(_ bytes: UnsafeBufferPointer<UInt8>) {
    guard let tls else { return state.receive(bytes) }
    var received: [UInt8] = []
    let reading = tls.receive(bytes, plaintext: &received)
    if !received.isEmpty { state.receive(received) }
    loop.needsEndOfTurn(slot: slot)  // handshake or alert bytes
    switch reading {
    case .open: break
    case .closed: state.receiveEndOfInput()
    case .failed:
      tls.takeOutput(into: &wire.bytes)
      if !wire.isEmpty { _ = wire.withUnsent { cnet_send(descriptor, $0.baseAddress, $0.count) } }
      abort()
    }
  }

  private func discardInput() {
    let count = cnet_receive(descriptor, loop.scratch.baseAddress, loop.scratch.count)
    if count == 0 || (count < 0 && count != -Int(EAGAIN)) { close() }
  }

  func handleDeadline(_ kind: DeadlineKind) {
    deadline = nil
    switch kind {
    case .write: return abort()
    case .linger: return close()
    case .head, .body, .idle: state.deadlinePassed()
    }
    pump()
    refresh()
  }

  func handleStop() { abort() }

  /// The server drains. `isFinal`: no exchange is in flight any more on any connection.
  func drain(isFinal: Bool) {
    guard !isClosed else { return }
    // A client that has only just connected is told in an answer, not by a close.
    state.drain(isNew: !isFinal && state.requestOrdinal == 0)
    pump()
    // A request that is arriving may still be answered, within its deadlines and the drain's.
    if isFinal, case .open = phase, exchange == nil, state.waiting == .idle { finish(lingers: false) }
    if isFinal, case .lingering = phase { close() }
    refresh()
  }

  // MARK: Actions

  /// Performs what the state wants until it wants no more. Answers given inside a handler continue this loop
  /// instead of nesting.
  func pump() {
    guard !isPumping, case .open = phase else { return }
    isPumping = true
    defer { isPumping = false }
    while case .open = phase, let action = state.next(isBacklogged: pendingBytes > Self.backlogBytes) {
      switch action {
      case .handle(let request):
        begin(request)
        // The client is known to have shut its side: an exchange still in flight is for nobody.
        if isPeerDone, exchange != nil { state.receiveEndOfInput() }
      case .sendContinue:
        output.append(contentsOf: ResponseWriter.continueHead)
        loop.needsEndOfTurn(slot: slot)
      case .reject(let rejection):
        reject(rejection)
        finish(lingers: true)
      case .close: finish(lingers: false)
      case .disconnect: abort()
      }
    }
  }

  /// To be called after output was appended outside of `pump`.
  func wantsFlush() { loop.needsEndOfTurn(slot: slot) }

  /// Bookkeeping after an exchange ended or output was appended outside an event.
  func resume() {
    guard !isPumping, !isClosed else { return }
    pump()
    refresh()
  }

  private func finish(lingers: Bool) {
    guard case .open = phase else { return }
    phase = .flushing(lingers: lingers)
    loop.needsEndOfTurn(slot: slot)
  }

  // MARK: Output

  func handleEndOfTurn() {
    guard !isClosed else { return }
    if let tls {
      if !plaintext.isEmpty {
        guard tls.send(plaintext) else { return abort() }
        plaintext.removeAll(keepingCapacity: plaintext.capacity <= Self.backlogBytes)
      }
      if case .flushing = phase { tls.shutdown() }
      tls.takeOutput(into: &wire.bytes)
    }
    guard flush() else { return abort() }
    // The slow reader of a stream: tokens would pile up without bound.
    if exchange?.stage == .streaming, pendingBytes > core.configuration.maxPendingOutputBytes { return abort() }
    if wire.isEmpty, case .flushing(let lingers) = phase { return lingers || hasUnreadInput() ? linger() : close() }
    pump()
    refresh()
  }

  /// At most one write. False when the connection is dead.
  private func flush() -> Bool {
    guard isWritable, !wire.isEmpty else { return true }
    loop.counters.sendCalls += 1
    let sent = wire.withUnsent { cnet_send(descriptor, $0.baseAddress, $0.count) }
    if sent >= 0 {
      wire.didSend(sent)
      sentBytes &+= sent
    } else if sent != -Int(EAGAIN) {
      return false
    }
    isWritable = wire.isEmpty
    return true
  }

  // MARK: Interest and deadline

  private func refresh() {
    guard !isClosed else { return }
    accountBody()
    var wanted: UInt32 = isPeerDone ? 0 : EPOLLRDHUP.rawValue
    switch phase {
    case .open: if state.wantsInput, pendingBytes <= Self.backlogBytes { wanted |= EPOLLIN.rawValue }
    case .lingering: wanted = EPOLLIN.rawValue
    case .flushing: wanted = 0
    case .closed: break
    }
    if !isWritable { wanted |= EPOLLOUT.rawValue }
    if wanted != interest {
      interest = wanted
      loop.setInterest(descriptor, slot: slot, events: wanted)
    }
    refreshDeadline()
  }

  private func refreshDeadline() {
    let wanted = wantedDeadline()
    guard wanted?.kind != deadline?.kind || wanted?.ordinal != deadline?.ordinal else { return }
    deadline = wanted
    guard let wanted else { return loop.clearDeadline(slot: slot) }
    loop.setDeadline(slot: slot, kind: wanted.kind, afterMilliseconds: core.configuration.timeoutMilliseconds(of: wanted.kind))
  }

  /// One deadline at a time; the ordinal tells two of a kind apart, so that only progress renews a deadline.
  private func wantedDeadline() -> (kind: DeadlineKind, ordinal: Int)? {
    if case .lingering = phase { return (.linger, 0) }
    if !isWritable { return (.write, sentBytes / Self.writeProgressBytes) }
    switch state.waiting {
    case .nothing: return nil
    case .head: return (.head, state.requestOrdinal)
    case .body: return (.body, state.requestOrdinal)
    // A new client must start to speak as soon as it must finish a head.
    case .idle: return (state.requestOrdinal == 0 ? .head : .idle, state.requestOrdinal)
    }
  }

  /// Keeps the server's count of body bytes; refuses this body when all of them are too many.
  private func accountBody() {
    let held = state.bufferedBodyBytes
    guard held != accountedBodyBytes else { return }
    let isGrowing = held > accountedBodyBytes
    let total = core.bufferedBodyBytes.add(held - accountedBodyBytes, ordering: .relaxed).newValue
    accountedBodyBytes = held
    guard isGrowing, total > core.configuration.maxBufferedBodyBytes else { return }
    state.refuseBody(Rejection(503, "too many uploads at once, try again later"))
    pump()
    accountBody()
  }

  // MARK: The end

  /// Closing a socket with unread bytes sends RST, which can take the answer from the client's hands.
  private func hasUnreadInput() -> Bool {
    !isPeerDone && cnet_receive(descriptor, loop.scratch.baseAddress, loop.scratch.count) > 0
  }

  private func linger() {
    guard !isPeerDone else { return close() }
    phase = .lingering
    Glibc.shutdown(descriptor, Int32(SHUT_WR))
    refresh()
  }

  /// The client is gone, or has to go: nothing more is sent.
  private func abort() { close() }

  private func close() {
    guard !isClosed else { return }
    phase = .closed
    loop.unregister(descriptor, slot: slot)
    Glibc.close(descriptor)
    wire = OutputBuffer()
    plaintext = []
    core.bufferedBodyBytes.subtract(accountedBodyBytes, ordering: .relaxed)
    accountedBodyBytes = 0
    if let exchange {
      self.exchange = nil
      exchange.disconnected()
      core.exchangeFinished(exchange, isDisconnected: true)
    }
    core.connectionClosed(on: loop)
  }
}
