// TLS over real sockets, with the self-signed certificate of Fixtures/tls (made by make.sh there).

import Glibc
import Testing

@testable import HTTP

@Suite struct TLSTests {
  private func makeServer(_ change: (inout ServerConfiguration) -> Void = { _ in }) throws -> (TestServer, TLSContext) {
    let server = try TestServer {
      $0.tls = TLSFiles(certificatePath: localFixture("tls/certificate.pem"), keyPath: localFixture("tls/key.pem"))
      change(&$0)
    }
    return (server, try TLSContext(trustingPath: localFixture("tls/certificate.pem")))
  }

  @Test func requestsStreamsAndLargeBodies() throws {
    let (test, context) = try makeServer()
    defer { test.server.stop() }
    let client = try TestClient(port: test.server.port, tls: context)
    #expect(try client.get("/hello").text == "hello")
    #expect(try client.get("/stream/20").text.hasSuffix("data: 19\n\n"))
    #expect(try client.get("/turns/5").body.count == 150)
    let body = pattern(1_000_000)
    try client.send(Array("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: \(body.count)\r\n\r\n".utf8) + body)
    #expect(try client.readResponse().body == body)
    // close_notify arrives before the end of the stream: the client can tell a full answer from a cut one.
    try client.send("GET /hello HTTP/1.0\r\n\r\n")
    #expect(try client.readResponse().text == "hello")
  }

  @Test func partialWritesToASlowReader() throws {
    let (test, context) = try makeServer()
    defer { test.server.stop() }
    let client = try TestClient(port: test.server.port, receiveBufferBytes: 4096, tls: context)
    #expect(try client.get("/big/3000000").body == pattern(3_000_000))
    #expect(try client.get("/hello").text == "hello")
  }

  @Test func oneWriteATurn() throws {
    let (test, context) = try makeServer { $0.loopCount = 1 }
    defer { test.server.stop() }
    let client = try TestClient(port: test.server.port, tls: context)
    #expect(try client.get("/hello").status == 200)
    let before = test.counters()
    #expect(try client.get("/stream/10").status == 200)
    #expect(test.counters().sendCalls - before.sendCalls == 1)
  }

  @Test func leavingIsSeen() throws {
    let (test, context) = try makeServer()
    defer { test.server.stop() }
    let client = try TestClient(port: test.server.port, tls: context)
    try client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(test.probe.eventually { test.probe.waiting.withLock { $0.count } == 1 })
    client.reset()
    #expect(test.probe.eventually { test.probe.disconnects.withLock { $0 } == 1 && test.server.connectionCount == 0 })
  }

  @Test func garbageAndSilenceInTheHandshake() throws {
    let (test, context) = try makeServer { $0.headTimeoutMilliseconds = 200 }
    defer { test.server.stop() }
    let plain = try test.client()
    try plain.send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
    _ = try? plain.readToEnd()
    #expect(test.probe.eventually { test.server.connectionCount == 0 })
    let silent = try test.client()
    #expect(silent.isClosedByServer())
    var random = SplitMix(seed: 3)
    for _ in 0..<50 {
      let noise = try test.client()
      try noise.send([22, 3, 1] + (0..<Int(random.next() % 400)).map { _ in UInt8(truncatingIfNeeded: random.next()) })
      noise.close()
    }
    #expect(test.probe.eventually { test.server.connectionCount == 0 })
    #expect(try TestClient(port: test.server.port, tls: context).get("/hello").text == "hello")
  }

  @Test func certificateErrors() {
    let key = localFixture("tls/key.pem")
    #expect(throws: ServerError.self) { try TLSContext(TLSFiles(certificatePath: key, keyPath: key)) }
    #expect(throws: ServerError.self) {
      try TLSContext(TLSFiles(certificatePath: localFixture("tls/certificate.pem"), keyPath: "/nonexistent"))
    }
  }
}
