// The life of one connection as a pure state machine: bytes and events go in, actions come out of `next`. Requests
// are parsed ahead up to a bound, but one exchange is in flight at a time, so that answers keep their order.
// No socket, clock or thread inside (house rule 3); Connection performs the actions.

package struct ParsedRequest: Equatable, Sendable {
  package let head: RequestHead
  package let body: [UInt8]
}

package struct ConnectionState: Sendable {
  package enum Action: Equatable, Sendable {
    /// Start an exchange; `exchangeEnded` must follow.
    case handle(ParsedRequest)
    /// Send the interim answer "100 Continue".
    case sendContinue
    /// Answer with a protocol error, then end the connection.
    case reject(Rejection)
    /// End the connection once the output is flushed.
    case close
    /// The client went away while an exchange was in flight.
    case disconnect
  }

  /// What the connection waits for from the client.
  package enum Waiting: Equatable, Sendable { case nothing, idle, head, body }

  private enum Stage: Sendable {
    case head
    case body(RequestHead, BodyDecoder)
    /// Nothing more is read: a rejection is queued, or the request that ends the connection.
    case stopped
  }
  private enum Pending: Sendable {
    case request(ParsedRequest)
    case rejection(Rejection)
  }

  /// Raw bytes kept beyond the parsed requests before reading pauses.
  private static let maxBufferedInputBytes = 65_536

  private let limits: ParserLimits
  private let maxPipelinedRequests: Int
  private var input: [UInt8] = []
  private var consumed = 0
  private var parser: RequestParser
  private var stage = Stage.head
  private var pending: [Pending] = []  // at most maxPipelinedRequests
  private var pendingBodyBytes = 0
  private var isInFlight = false
  private var isKeepAlive = true
  private var owesContinue = false
  private var isEndOfInput = false
  private var mustClose = false
  private var isDraining = false
  private var closesIdle = false
  private var isOver = false
  /// Counts requests, so that a deadline is told from the one of the request before.
  package private(set) var requestOrdinal = 0

  package init(limits: ParserLimits, maxPipelinedRequests: Int) {
    self.limits = limits
    self.maxPipelinedRequests = max(1, maxPipelinedRequests)
    parser = RequestParser(limits: limits)
  }

  package mutating func receive(_ bytes: some Collection<UInt8>) {
    guard !isOver, !isStopped else { return }
    input.append(contentsOf: bytes)
  }

  package mutating func receiveEndOfInput() { isEndOfInput = true }

  /// The answer is complete. `isClosing`: its head said "Connection: close", or it is delimited by the close.
  package mutating func exchangeEnded(isClosing: Bool) {
    isInFlight = false
    if isClosing || !isKeepAlive { mustClose = true }
  }

  /// From now on the connection ends after its answer; with nothing under way it is closed at once, unless it is new
  /// (`isNew`) and shall be told so in an answer.
  package mutating func drain(isNew: Bool = false) {
    isDraining = true
    closesIdle = !isNew
  }

  /// A deadline for what `waiting` says has passed.
  package mutating func deadlinePassed() {
    switch waiting {
    case .nothing: break
    case .idle: mustClose = true
    case .head: stop(Rejection(408, "the request head did not arrive in time"))
    case .body: stop(Rejection(408, "the request body did not arrive in time"))
    }
  }

  /// Whether more bytes are welcome.
  package var wantsInput: Bool {
    !isOver && !isEndOfInput && !isStopped && mayParseAhead && input.count - consumed < Self.maxBufferedInputBytes
  }

  /// Bytes of request bodies that are held here, complete or not.
  package var bufferedBodyBytes: Int {
    if case .body(_, let decoder) = stage { pendingBodyBytes + decoder.body.count } else { pendingBodyBytes }
  }

  /// The server has no room for the body that is arriving.
  package mutating func refuseBody(_ rejection: Rejection) {
    if case .body = stage { stop(rejection) }
  }

  package var waiting: Waiting {
    guard !isOver, !isInFlight, !isStopped else { return .nothing }
    if case .body = stage { return .body }
    return parser.hasStarted ? .head : .idle
  }

  /// Whether the answer of the exchange in flight leaves the connection open, as far as the client and drain allow.
  package var leavesOpen: Bool { isKeepAlive && !isDraining && !mustClose }

  /// The next thing to do, until nil. With `isBacklogged` (output waits for a slow reader) no new request starts.
  package mutating func next(isBacklogged: Bool = false) -> Action? {
    guard !isOver else { return nil }
    parseAhead()
    if isInFlight { return isEndOfInput ? end(.disconnect) : nil }
    if mustClose { return end(.close) }
    if isBacklogged { return nil }
    if !pending.isEmpty {
      switch pending.removeFirst() {
      case .request(let request):
        isInFlight = true
        pendingBodyBytes -= request.body.count
        isKeepAlive = request.head.isKeepAlive
        return .handle(request)
      case .rejection(let rejection): return end(.reject(rejection))
      }
    }
    if owesContinue {
      owesContinue = false
      return .sendContinue
    }
    // An incomplete request followed by the end of input: nobody is there to read an answer.
    if isEndOfInput || (closesIdle && waiting == .idle) { return end(.close) }
    return nil
  }

  private mutating func end(_ action: Action) -> Action {
    isOver = true
    input = []
    consumed = 0
    pending = []
    pendingBodyBytes = 0
    stage = .stopped
    return action
  }

  private var mayParseAhead: Bool {
    pending.isEmpty || (pending.count < maxPipelinedRequests && pendingBodyBytes < Self.maxBufferedInputBytes)
  }

  private var isStopped: Bool { if case .stopped = stage { true } else { false } }

  private mutating func stop(_ rejection: Rejection) {
    pending.append(.rejection(rejection))
    stage = .stopped
    owesContinue = false
    input = []
    consumed = 0
  }

  private mutating func parseAhead() {
    while mayParseAhead {
      switch stage {
      case .stopped: return
      case .head:
        guard consumed < input.count else { return compact() }
        switch parser.parse(input, from: consumed) {
        case .needMore: return compact()
        case .failure(let rejection): return stop(rejection)
        case .head(let head):
          consumed += head.byteCount
          requestOrdinal &+= 1
          owesContinue = head.expectsContinue
          stage = .body(head, BodyDecoder(framing: head.framing, limits: limits))
        }
      case .body(let head, var decoder):
        stage = .stopped  // the decoder must have one owner, or its body would be copied on every append
        do {
          consumed = try decoder.consume(input, from: consumed)
        } catch {
          return stop(error)
        }
        guard decoder.isComplete else {
          stage = .body(head, decoder)
          return compact()
        }
        owesContinue = false  // the body came without waiting for the interim answer
        pendingBodyBytes += decoder.body.count
        pending.append(.request(ParsedRequest(head: head, body: decoder.body)))
        stage = head.isKeepAlive ? .head : .stopped
      }
    }
  }

  /// Drops the consumed front; an idle connection keeps no buffer.
  private mutating func compact() {
    guard consumed > 0 else { return }
    if consumed == input.count { input = [] } else { input.removeFirst(consumed) }
    consumed = 0
  }
}
