// Clients that go away, read slowly, dribble or say nothing: each is noticed, told where it helps, and leaves nothing behind.

import Glibc
import Testing

@testable import HTTP

@Suite struct DisconnectTests {
  @Test(arguments: ["fin", "rst", "half"]) func waitingClientLeaves(_ way: String) throws {
    let test = try TestServer { $0.loopCount = 1 }
    defer { test.server.stop() }
    let client = try test.client()
    try client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(test.probe.eventually { test.probe.waiting.withLock { $0.count } == 1 })
    leave(client, way)
    #expect(test.probe.eventually { test.probe.disconnects.withLock { $0 } == 1 && test.server.connectionCount == 0 })
    #expect(test.probe.records.withLock { $0.first?.status } == 499)
    #expect(test.probe.records.withLock { $0.first?.isDisconnected } == true)
    // Late answers to a client that has gone do nothing.
    let exchange = try #require(test.probe.waiting.withLock { $0.first })
    exchange.loop.post {
      exchange.respond(.text(200, "late"))
      exchange.startStream(status: 200, headers: [])
      exchange.write([1])
      exchange.end()
    }
    _ = test.counters()
    #expect(test.probe.records.withLock { $0.count } == 1)
  }

  @Test(arguments: ["fin", "rst", "half"]) func streamingClientLeaves(_ way: String) throws {
    let test = try TestServer()
    defer { test.server.stop() }
    let client = try test.client()
    try client.send("GET /open HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(try client.readHead().status == 200)
    #expect(try client.readChunk() == Array("first".utf8))
    leave(client, way)
    #expect(test.probe.eventually { test.probe.disconnects.withLock { $0 } == 1 && test.server.connectionCount == 0 })
    #expect(test.probe.records.withLock { $0.first?.status } == 200)
  }

  /// Reading is paused behind pipelined requests: the end must be seen all the same.
  @Test func leavingIsSeenWhileReadingIsPaused() throws {
    let test = try TestServer { $0.maxPipelinedRequests = 1 }
    defer { test.server.stop() }
    let client = try test.client()
    try client.send(String(repeating: "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n", count: 3000))
    #expect(test.probe.eventually { test.probe.waiting.withLock { $0.count } == 1 })
    client.shutdownWriting()
    #expect(test.probe.eventually { test.probe.disconnects.withLock { $0 } == 1 && test.server.connectionCount == 0 })
  }

  @Test func onDisconnectSetTooLateIsCalledAtOnce() throws {
    let test = try TestServer { $0.loopCount = 1 }
    defer { test.server.stop() }
    let client = try test.client()
    try client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(test.probe.eventually { test.probe.waiting.withLock { $0.count } == 1 })
    let exchange = try #require(test.probe.waiting.withLock { $0.first })
    let probe = test.probe
    exchange.loop.post { exchange.onDisconnect = nil }
    _ = test.counters()  // the loop has done that
    client.reset()
    #expect(probe.eventually { test.server.connectionCount == 0 })
    #expect(probe.disconnects.withLock { $0 } == 0)
    exchange.loop.post { exchange.onDisconnect = { probe.disconnects.withLock { $0 += 1 } } }
    exchange.loop.post { exchange.onDisconnect = { probe.disconnects.withLock { $0 += 1 } } }
    #expect(probe.eventually { probe.disconnects.withLock { $0 } == 1 })
    _ = test.counters()
    #expect(probe.disconnects.withLock { $0 } == 1)
  }

  @Test func aClientThatShutsItsSideStillGetsAReadyAnswer() throws {
    let test = try TestServer()
    defer { test.server.stop() }
    for _ in 0..<20 {
      let client = try test.client()
      try client.send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
      client.shutdownWriting()
      #expect(try client.readResponse().text == "hello")
      #expect(client.isClosedByServer())
    }
  }

  @Test func slowReaderOfAStreamIsDisconnected() throws {
    let test = try TestServer { $0.maxPendingOutputBytes = 262_144 }
    defer { test.server.stop() }
    let client = try test.client(receiveBufferBytes: 4096)
    try client.send("GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(test.probe.eventually { test.probe.disconnects.withLock { $0 } == 1 && test.server.connectionCount == 0 })
  }

  @Test func readerThatStopsIsDisconnectedByTheWriteDeadline() throws {
    let test = try TestServer { $0.writeTimeoutMilliseconds = 100 }
    defer { test.server.stop() }
    let client = try test.client(receiveBufferBytes: 4096)
    try client.send("GET /big/16000000 HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(test.probe.eventually { test.probe.records.withLock { $0.count } == 1 && test.server.connectionCount == 0 })
  }

  @Test func largeAnswerToASlowButLivingReader() throws {
    let test = try TestServer()
    defer { test.server.stop() }
    let client = try test.client(receiveBufferBytes: 4096)
    try client.send("GET /big/5000000 HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(try client.readResponse().body == pattern(5_000_000))
    #expect(try client.readResponse().text == "hello")
  }

  @Test func slowHeads() throws {
    let test = try TestServer { $0.headTimeoutMilliseconds = 80 }
    defer { test.server.stop() }
    let stuck = try test.client()
    try stuck.send("GET /hello HT")
    #expect(try stuck.readResponse().status == 408)
    #expect(stuck.isClosedByServer())
    // One byte at a time renews nothing.
    let dribbling = try test.client()
    let head = Array("GET /hello HTTP/1.1\r\nX: ".utf8) + [UInt8](repeating: 65, count: 10_000)
    var sent = 0
    while sent < head.count, !dribbling.isReadable(withinMilliseconds: 5) {
      try dribbling.send([head[sent]])
      sent += 1
    }
    #expect(try dribbling.readResponse().status == 408)
    #expect(sent < head.count)
    // Nothing said at all: closed without a word.
    #expect(try test.client().isClosedByServer())
  }

  @Test func slowBodiesAndIdleConnections() throws {
    let test = try TestServer {
      $0.bodyTimeoutMilliseconds = 80
      $0.idleTimeoutMilliseconds = 80
    }
    defer { test.server.stop() }
    let slow = try test.client()
    try slow.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
    #expect(try slow.readResponse().status == 408)
    let idle = try test.client()
    #expect(try idle.get("/hello").status == 200)
    #expect(idle.isClosedByServer())
    // An exchange in flight has no deadline of its own.
    let waiting = try test.client()
    try waiting.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(!waiting.isReadable(withinMilliseconds: 300))
  }

  @Test func hangUpStorm() throws {
    let rounds = getenv("QUIRE_SOAK") == nil ? 600 : 60_000
    let test = try TestServer { $0.loopCount = 3 }
    defer { test.server.stop() }
    var random = SplitMix(seed: 42)
    for _ in 0..<rounds {
      let client = try test.client()
      switch random.next() % 7 {
      case 0: break
      case 1: try client.send("GET /hel")
      case 2: try client.send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
      case 3: try client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
      case 4: try client.send("GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
      case 5: try client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc")
      default: try client.send("GET /later HTTP/1.1\r\nHost: a\r\n\r\nGET /turns/3 HTTP/1.1\r\nHost: a\r\n\r\n")
      }
      if random.next() % 4 == 0 { usleep(UInt32(random.next() % 500)) }
      if random.next() % 2 == 0 { client.reset() } else { client.close() }
    }
    #expect(test.probe.eventually { test.server.connectionCount == 0 })
    #expect(test.probe.opened.withLock { $0 } == test.probe.closed.withLock { $0 })
    #expect(try test.client().get("/hello").text == "hello")
  }

  private func leave(_ client: TestClient, _ way: String) {
    switch way {
    case "fin": client.close()
    case "rst": client.reset()
    default: client.shutdownWriting()
    }
  }
}
