// Graceful drain: what is in flight finishes, what is idle closes, the listener goes last.

import Glibc
import Testing

@testable import HTTP

@Suite struct DrainTests {
  @Test func finishesWhatIsInFlight() throws {
    let test = try TestServer()
    let probe = test.probe
    defer { test.server.stop() }
    let idle = try test.client()
    #expect(try idle.get("/hello").status == 200)
    let streams = try (0..<4).map { _ in try test.client() }
    for stream in streams {
      try stream.send("GET /open HTTP/1.1\r\nHost: a\r\n\r\n")
      _ = try stream.readHead()
      #expect(try stream.readChunk() == Array("first".utf8))
    }
    test.server.drain(deadlineMilliseconds: 600_000) { probe.flags.withLock { _ = $0.insert("drained") } }
    #expect(idle.isClosedByServer())
    // New requests still reach the handlers; their connections end.
    let late = try test.client().get("/hello")
    #expect(late.status == 200 && late.header("Connection") == "close")
    #expect(!probe.flags.withLock { $0.contains("drained") })
    for exchange in probe.waiting.withLock({ $0 }) {
      exchange.loop.post {
        exchange.write(Array("last".utf8))
        exchange.end()
      }
    }
    for stream in streams {
      #expect(try stream.readChunk() == Array("last".utf8))
      #expect(try stream.readChunk() == nil)
      #expect(stream.isClosedByServer())
    }
    #expect(probe.eventually { probe.flags.withLock { $0.contains("drained") } })
    #expect(test.server.connectionCount == 0)
    #expect(throws: ClientFailure.self) { try test.client() }
    #expect(probe.disconnects.withLock { $0 } == 0)
  }

  /// A client that connected just before the drain, and speaks after it began, gets an answer.
  @Test func aNewConnectionIsAnswered() throws {
    let test = try TestServer { $0.loopCount = 1 }  // the one whose turn `counters` waits for
    let probe = test.probe
    defer { test.server.stop() }
    let running = try test.client()
    try running.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(probe.eventually { probe.waiting.withLock { $0.count } == 1 })
    let early = try test.client()
    #expect(probe.eventually { test.server.connectionCount == 2 })
    test.server.drain(deadlineMilliseconds: 600_000) { probe.flags.withLock { _ = $0.insert("drained") } }
    _ = test.counters()
    let response = try early.get("/hello")
    #expect(response.status == 200 && response.header("Connection") == "close")
    #expect(early.isClosedByServer())
    running.close()
    #expect(probe.eventually { probe.flags.withLock { $0.contains("drained") } })
  }

  @Test func anIdleServerDrainsAtOnce() throws {
    let test = try TestServer()
    let probe = test.probe
    defer { test.server.stop() }
    let connected = try test.client()
    #expect(try connected.get("/hello").status == 200)
    test.server.drain(deadlineMilliseconds: 600_000) { probe.flags.withLock { _ = $0.insert("drained") } }
    #expect(probe.eventually { probe.flags.withLock { $0.contains("drained") } })
    #expect(connected.isClosedByServer())
  }

  /// A request whose body is still arriving when the drain begins is answered.
  @Test func anUploadUnderWayIsAnswered() throws {
    let test = try TestServer { $0.loopCount = 1 }
    let probe = test.probe
    defer { test.server.stop() }
    let client = try test.client()
    try client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel")
    #expect(probe.eventually { test.server.bufferedBodyBytes == 3 })
    test.server.drain(deadlineMilliseconds: 600_000) { probe.flags.withLock { _ = $0.insert("drained") } }
    _ = test.counters()
    try client.send("lo")
    let response = try client.readResponse()
    #expect(response.text == "hello" && response.header("Connection") == "close")
    #expect(probe.eventually { probe.flags.withLock { $0.contains("drained") } })
  }

  @Test func theDeadlineEndsWhatDoesNotFinish() throws {
    let test = try TestServer()
    let probe = test.probe
    defer { test.server.stop() }
    let client = try test.client()
    try client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(probe.eventually { probe.waiting.withLock { $0.count } == 1 })
    test.server.drain(deadlineMilliseconds: 50) { probe.flags.withLock { _ = $0.insert("drained") } }
    #expect(probe.eventually { probe.flags.withLock { $0.contains("drained") } })
    #expect(probe.disconnects.withLock { $0 } == 1)
    #expect(client.isClosedByServer())
  }

  /// An answer that is still in the output when the last exchange ends is not cut off.
  @Test func aLargeAnswerIsFlushedBeforeTheEnd() throws {
    let test = try TestServer()
    let probe = test.probe
    defer { test.server.stop() }
    let client = try test.client(receiveBufferBytes: 4096)
    try client.send("GET /big/8000000 HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(probe.eventually { probe.records.withLock { $0.count } == 1 })
    test.server.drain(deadlineMilliseconds: 600_000) { probe.flags.withLock { _ = $0.insert("drained") } }
    #expect(try client.readResponse().body.count == 8_000_000)
    #expect(client.isClosedByServer())
    #expect(probe.eventually { probe.flags.withLock { $0.contains("drained") } })
  }

  @Test func stopTellsTheWaiting() throws {
    let test = try TestServer()
    let client = try test.client()
    try client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(test.probe.eventually { test.probe.waiting.withLock { $0.count } == 1 })
    test.server.stop()
    #expect(test.probe.disconnects.withLock { $0 } == 1)
    #expect(client.isClosedByServer())
    #expect(test.server.connectionCount == 0)
  }
}
