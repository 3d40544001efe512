// The connection's state machine without a socket: order of answers, interim answers, ends, deadlines, backpressure.

import Testing

@testable import HTTP

@Suite struct ConnectionStateTests {
  private func makeState(maxPipelined: Int = 4) -> ConnectionState {
    ConnectionState(limits: ParserLimits(), maxPipelinedRequests: maxPipelined)
  }

  private func get(_ path: String, _ extra: String = "") -> [UInt8] { Array("GET \(path) HTTP/1.1\r\nHost: a\r\n\(extra)\r\n".utf8) }

  private func path(_ action: ConnectionState.Action?) -> String? {
    if case .handle(let request) = action { request.head.target.path } else { nil }
  }

  @Test func oneExchangeAtATimeInOrder() {
    var state = makeState()
    state.receive(get("/1") + get("/2") + get("/3"))
    #expect(path(state.next()) == "/1")
    #expect(state.next() == nil)
    #expect(state.waiting == .nothing)
    state.exchangeEnded(isClosing: false)
    #expect(path(state.next()) == "/2")
    state.exchangeEnded(isClosing: false)
    #expect(path(state.next()) == "/3")
    state.exchangeEnded(isClosing: false)
    #expect(state.next() == nil)
    #expect(state.waiting == .idle)
  }

  @Test func readingPausesBehindPipelinedRequests() {
    var state = makeState(maxPipelined: 2)
    state.receive(get("/0"))
    #expect(path(state.next()) == "/0")
    for index in 1...5 { state.receive(get("/\(index)")) }
    #expect(state.next() == nil)
    #expect(!state.wantsInput)
    for index in 1...5 {
      state.exchangeEnded(isClosing: false)
      #expect(path(state.next()) == "/\(index)")
    }
    #expect(state.wantsInput)
  }

  @Test func readingPausesBehindBytes() {
    var state = makeState(maxPipelined: 1)
    state.receive(get("/0"))
    _ = state.next()
    state.receive(get("/1"))
    #expect(state.next() == nil)
    #expect(!state.wantsInput)
  }

  @Test func bodiesParsedAheadAreBounded() {
    var state = makeState(maxPipelined: 16)
    let upload = Array("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n".utf8) + [UInt8](repeating: 65, count: 100_000)
    state.receive(get("/0"))
    #expect(path(state.next()) == "/0")
    for _ in 0..<10 where state.wantsInput {
      state.receive(upload)
      #expect(state.next() == nil)
    }
    #expect(!state.wantsInput)
    #expect(state.bufferedBodyBytes == 100_000)
    state.exchangeEnded(isClosing: false)
    #expect(path(state.next()) == "/")
    #expect(state.bufferedBodyBytes == 0)
  }

  @Test func aBodyCanBeRefusedOnItsWay() {
    var state = makeState()
    state.receive(Array("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nabc".utf8))
    #expect(state.next() == nil)
    #expect(state.bufferedBodyBytes == 3)
    state.refuseBody(Rejection(503, "full"))
    #expect(state.next() == .reject(Rejection(503, "full")))
    #expect(state.bufferedBodyBytes == 0)
  }

  @Test func backlogHoldsTheNextRequest() {
    var state = makeState()
    state.receive(get("/1"))
    #expect(state.next(isBacklogged: true) == nil)
    #expect(path(state.next(isBacklogged: false)) == "/1")
  }

  @Test func interimAnswerComesBeforeTheBodyOnly() {
    let head = Array("POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n".utf8)
    var state = makeState()
    state.receive(head)
    #expect(state.next() == .sendContinue)
    #expect(state.next() == nil)
    #expect(state.waiting == .body)
    state.receive(Array("hi".utf8))
    #expect(path(state.next()) == "/e")
    // The body came along: no interim answer.
    var eager = makeState()
    eager.receive(head + Array("hi".utf8))
    #expect(path(eager.next()) == "/e")
    // While an earlier answer is under way the interim answer would land in its middle.
    var busy = makeState()
    busy.receive(get("/1") + head)
    #expect(path(busy.next()) == "/1")
    #expect(busy.next() == nil)
    busy.exchangeEnded(isClosing: false)
    #expect(busy.next() == .sendContinue)
  }

  @Test func endOfInputDuringAnExchangeIsADisconnect() {
    var state = makeState()
    state.receive(get("/1"))
    #expect(path(state.next()) == "/1")
    state.receiveEndOfInput()
    #expect(state.next() == .disconnect)
    #expect(state.next() == nil)
  }

  @Test func endOfInputElsewhereCloses() {
    var idle = makeState()
    idle.receiveEndOfInput()
    #expect(idle.next() == .close)
    var partial = makeState()
    partial.receive(Array("GET / HT".utf8))
    partial.receiveEndOfInput()
    #expect(partial.next() == .close)
    var pipelined = makeState()
    pipelined.receive(get("/1") + get("/2"))
    pipelined.receiveEndOfInput()
    #expect(path(pipelined.next()) == "/1")
    pipelined.exchangeEnded(isClosing: false)
    #expect(path(pipelined.next()) == "/2")
    pipelined.exchangeEnded(isClosing: false)
    #expect(pipelined.next() == .close)
  }

  @Test func rejectionWaitsForItsTurnAndEndsAll() {
    var state = makeState()
    state.receive(get("/1") + Array("BAD\r\n\r\n".utf8) + get("/2"))
    #expect(path(state.next()) == "/1")
    #expect(state.next() == nil)
    state.exchangeEnded(isClosing: false)
    #expect(state.next() == .reject(Rejection(400, "bad request line")))
    #expect(state.next() == nil)
    state.receive(get("/3"))
    #expect(state.next() == nil)
    #expect(!state.wantsInput)
  }

  @Test func closeRequestsEndTheConnection() {
    var state = makeState()
    state.receive(get("/1", "Connection: close\r\n") + get("/2"))
    #expect(path(state.next()) == "/1")
    #expect(!state.leavesOpen)
    state.exchangeEnded(isClosing: true)
    #expect(state.next() == .close)
  }

  @Test func deadlines() {
    var idle = makeState()
    #expect(idle.waiting == .idle)
    idle.deadlinePassed()
    #expect(idle.next() == .close)
    var head = makeState()
    head.receive(Array("G".utf8))
    #expect(head.next() == nil)
    #expect(head.waiting == .head)
    head.deadlinePassed()
    #expect(head.next() == .reject(Rejection(408, "the request head did not arrive in time")))
    var body = makeState()
    body.receive(Array("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc".utf8))
    #expect(body.next() == nil)
    #expect(body.waiting == .body)
    body.deadlinePassed()
    #expect(body.next() == .reject(Rejection(408, "the request body did not arrive in time")))
    // A stray empty line does not start a request.
    var stray = makeState()
    stray.receive(Array("\r\n".utf8))
    #expect(stray.next() == nil)
    #expect(stray.waiting == .idle)
  }

  @Test func drainClosesWhatIsIdleAndFinishesTheRest() {
    var idle = makeState()
    idle.drain()
    #expect(idle.next() == .close)
    var new = makeState()
    new.drain(isNew: true)
    #expect(new.next() == nil)
    new.receive(get("/1"))
    #expect(path(new.next()) == "/1")
    #expect(!new.leavesOpen)
    var partial = makeState()
    partial.receive(Array("GET /1 HTTP/1.1\r\n".utf8))
    #expect(partial.next() == nil)
    partial.drain()
    #expect(partial.next() == nil)
    partial.receive(Array("Host: a\r\n\r\n".utf8))
    #expect(path(partial.next()) == "/1")
    #expect(!partial.leavesOpen)
    partial.exchangeEnded(isClosing: true)
    #expect(partial.next() == .close)
  }
}
