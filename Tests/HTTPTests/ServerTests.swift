// The server over real sockets. Every wait has a limit that no healthy run comes near; timing decides nothing else.

import CNet
import Dispatch
import Glibc
import Testing

@testable import HTTP

@Suite struct ServerTests {
  @Test func keepAliveAndPipelining() throws {
    let test = try TestServer()
    defer { test.server.stop() }
    let client = try test.client()
    for _ in 0..<3 {
      let response = try client.get("/hello")
      #expect(response.status == 200 && response.text == "hello")
      #expect(response.header("Server") == "quire" && response.header("Content-Length") == "5" && response.header("Connection") == nil)
      #expect(response.header("Date")?.hasSuffix("GMT") == true)
    }
    // Answers keep the order of the requests, though the first is answered from another thread.
    try client.send("GET /later HTTP/1.1\r\nHost: a\r\n\r\nGET /hello HTTP/1.1\r\nHost: a\r\n\r\nGET /models/x HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(try client.readResponse().text == "later")
    #expect(try client.readResponse().text == "hello")
    #expect(try client.readResponse().text == "x")
    // Far more than is parsed ahead.
    try client.send(String(repeating: "GET /later HTTP/1.1\r\nHost: a\r\n\r\n", count: 200))
    for _ in 0..<200 { #expect(try client.readResponse().text == "later") }
    #expect(test.probe.records.withLock { $0.count } == 206)
  }

  @Test func routingAnswers() throws {
    let test = try TestServer()
    defer { test.server.stop() }
    let client = try test.client()
    #expect(try client.get("/models/a%2Fb").text == "a/b")
    #expect(try client.get("/files/a/b%20c").text == "a/b c")
    #expect(try client.get("/nothing").status == 404)
    try client.send("DELETE /hello HTTP/1.1\r\nHost: a\r\n\r\n")
    let refused = try client.readResponse()
    #expect(refused.status == 405 && refused.header("Allow") == "GET, HEAD, OPTIONS")
    try client.send("OPTIONS /hello HTTP/1.1\r\nHost: a\r\n\r\n")
    let options = try client.readResponse()
    #expect(options.status == 204 && options.header("Allow") == "GET, HEAD, OPTIONS" && options.header("Content-Length") == nil)
    try client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\nBREW /hello HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(try client.readResponse().status == 204)
    #expect(try client.readResponse().status == 501)
    // Response splitting: nothing of the handler's answer is sent.
    let split = try client.get("/split")
    #expect(split.status == 500 && split.header("Set-Cookie") == nil && split.header("X-Evil") == nil)
    #expect(try client.get("/hello").status == 200)
  }

  @Test func headAnswersWithoutBody() throws {
    let test = try TestServer()
    defer { test.server.stop() }
    let client = try test.client()
    for (path, length) in [("/hello", "5" as String?), ("/stream/3", nil)] {
      try client.send("HEAD \(path) HTTP/1.1\r\nHost: a\r\n\r\n")
      let response = try client.readResponse(hasBody: false)
      #expect(response.status == 200 && response.header("Content-Length") == length)
    }
    #expect(try client.get("/hello").text == "hello")  // nothing was left over in between
  }

  @Test func http10() throws {
    let test = try TestServer()
    defer { test.server.stop() }
    let plain = try test.client()
    try plain.send("GET /hello HTTP/1.0\r\n\r\n")
    let response = try plain.readResponse()
    #expect(response.text == "hello" && response.header("Connection") == "close")
    #expect(plain.isClosedByServer())
    let kept = try test.client()
    for _ in 0..<2 {
      try kept.send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
      #expect(try kept.readResponse().header("Connection") == "keep-alive")
    }
    // A stream is delimited by the close.
    try kept.send("GET /stream/3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    let stream = try kept.readResponse()
    #expect(stream.header("Transfer-Encoding") == nil && stream.text == "data: 0\n\ndata: 1\n\ndata: 2\n\n")
  }

  @Test func bodiesAndContinue() throws {
    let test = try TestServer()
    defer { test.server.stop() }
    let client = try test.client()
    let body = pattern(3_000_000)
    try client.send(Array("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: \(body.count)\r\n\r\n".utf8) + body)
    #expect(try client.readResponse().body == body)
    try client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for start in stride(from: 0, to: 100_000, by: 1000) {
      try client.send(Array("3e8\r\n".utf8) + body[start..<(start + 1000)] + Array("\r\n".utf8))
    }
    try client.send("0\r\n\r\n")
    #expect(try client.readResponse().body == Array(body[..<100_000]))
    try client.send("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    #expect(try client.readHead().status == 100)
    try client.send("hi")
    #expect(try client.readResponse().text == "hi")
  }

  @Test func refusalsReachTheClientAndClose() throws {
    let test = try TestServer { $0.maxBodyBytes = 1000 }
    defer { test.server.stop() }
    for (request, status) in [
      ("GET / HTTP/1.1\r\n\r\n", 400), ("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n", 413),
      ("POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1001\r\n\r\n", 413),
      ("POST /echo HTTP/1.1\r\nHost: a\r\n\r\n", 411), ("GET / HTTP/3.0\r\n\r\n", 505),
    ] {
      let client = try test.client()
      try client.send(request)
      let response = try client.readResponse()
      #expect(response.status == status && response.header("Connection") == "close")
      #expect(response.text.hasPrefix("{\"error\""))
      #expect(client.isClosedByServer())
    }
    // The client is still sending while it is refused: the answer must not be lost to a reset.
    let client = try test.client()
    let body = [UInt8](repeating: 65, count: 2_000_000)
    try client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: \(body.count)\r\n\r\n")
    for start in stride(from: 0, to: body.count, by: 100_000) { try client.send(Array(body[start..<(start + 100_000)])) }
    #expect(try client.readResponse().status == 413)
  }

  @Test func uploadsTogetherAreBounded() throws {
    let test = try TestServer { $0.maxBufferedBodyBytes = 50_000 }
    defer { test.server.stop() }
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n"
    let first = try test.client()
    try first.send(Array(head.utf8) + [UInt8](repeating: 65, count: 39_999))
    #expect(test.probe.eventually { test.server.bufferedBodyBytes == 39_999 })
    let second = try test.client()
    try second.send(Array(head.utf8) + [UInt8](repeating: 66, count: 39_999))
    #expect(try second.readResponse().status == 503)
    try first.send("A")
    #expect(try first.readResponse().body.count == 40_000)
    #expect(test.probe.eventually { test.server.bufferedBodyBytes == 0 })
    #expect(try test.client().get("/hello").status == 200)
  }

  @Test func anAnswerBeforeUnreadBytesIsNotLost() throws {
    let test = try TestServer()
    defer { test.server.stop() }
    for _ in 0..<10 {
      let client = try test.client()
      try client.send("GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" + String(repeating: "x", count: 200_000))
      #expect(try client.readResponse().text == "hello")
    }
  }

  @Test func gzip() throws {
    let test = try TestServer()
    defer { test.server.stop() }
    let client = try test.client()
    let plain = try client.get("/big/100000")
    #expect(plain.header("Content-Encoding") == nil && plain.header("Vary") == "Accept-Encoding" && plain.body.count == 100_000)
    let packed = try client.get("/big/100000", headers: "Accept-Encoding: br, gzip\r\n")
    #expect(packed.header("Content-Encoding") == "gzip" && packed.header("Vary") == "Accept-Encoding")
    #expect(packed.body.count < 20_000 && Gzip.decompress(packed.body, maxBytes: 100_000) == plain.body)
    #expect(try client.get("/big/100000", headers: "Accept-Encoding: gzip;q=0\r\n").header("Content-Encoding") == nil)
    #expect(try client.get("/big/100", headers: "Accept-Encoding: gzip\r\n").header("Vary") == nil)
    #expect(try client.get("/stream/5", headers: "Accept-Encoding: gzip\r\n").header("Content-Encoding") == nil)
  }

  @Test func oneWriteATurn() throws {
    let test = try TestServer { $0.loopCount = 1 }
    defer { test.server.stop() }
    let client = try test.client()
    var before = test.counters()
    #expect(try client.get("/stream/10").text.hasSuffix("data: 9\n\n"))
    var after = test.counters()
    #expect(after.sendCalls - before.sendCalls == 1)
    before = after
    #expect(try client.get("/turns/5").body.count == 150)
    after = test.counters()
    // The head's turn, then five turns of three chunks each; the end rides with the last.
    #expect(after.sendCalls - before.sendCalls == 6)
    before = after
    try client.send(String(repeating: "GET /hello HTTP/1.1\r\nHost: a\r\n\r\n", count: 10))
    for _ in 0..<10 { _ = try client.readResponse() }
    after = test.counters()
    #expect(after.sendCalls - before.sendCalls == 1)
    // An idle server does not turn: the counter itself costs one turn.
    before = test.counters()
    usleep(200_000)
    #expect(test.counters().turns - before.turns == 1)
  }

  @Test func postsWakeOncePerBatch() throws {
    let test = try TestServer { $0.loopCount = 1 }
    defer { test.server.stop() }
    let loop = try #require(test.server.loops.first)
    let before = test.counters()
    let order = Locked<[Int]>([])
    let gate = DispatchSemaphore(value: 0)
    loop.post { gate.wait() }  // the loop is busy while the batch is posted
    let isBusy = Locked(false)
    loop.post { isBusy.withLock { $0 = true } }
    for index in 0..<1000 { loop.post { order.withLock { $0.append(index) } } }
    gate.signal()
    #expect(test.probe.eventually { order.withLock { $0.count } == 1000 })
    #expect(order.withLock { $0 } == Array(0..<1000))
    #expect(test.counters().wakeWrites - before.wakeWrites <= 4)
  }

  @Test func addresses() throws {
    let dual = try TestServer { $0.host = "::" }
    defer { dual.server.stop() }
    #expect(try dual.client().get("/who").text == "127.0.0.1")
    #expect(try dual.client(isIPv6: true).get("/who").text == "::1")
    let local = try TestServer { $0.host = "localhost" }
    defer { local.server.stop() }
    #expect(try local.client().get("/who").text == "127.0.0.1")
    let six = try TestServer { $0.host = "::1" }
    defer { six.server.stop() }
    #expect(try six.client(isIPv6: true).get("/who").text == "::1")
    #expect(throws: (any Error).self) { try six.client() }
  }

  @Test func startErrors() throws {
    let test = try TestServer()
    defer { test.server.stop() }
    let port = test.server.port
    #expect(throws: ServerError.addressInUse(host: "127.0.0.1", port: port)) { try TestServer { $0.port = port } }
    #expect(throws: ServerError.self) { try TestServer { $0.host = "no such host." } }
    #expect(throws: ServerError.self) { try TestServer { $0.host = "192.0.2.1" } }
    #expect(throws: ServerError.badAddress(host: "127.0.0.1", reason: "port 70000 is not in 0...65535")) {
      try TestServer { $0.port = 70_000 }
    }
    #expect(throws: ServerError.alreadyStarted) { try test.server.start() }
    #expect(throws: ServerError.self) { try TestServer { $0.tls = TLSFiles(certificatePath: "/nonexistent", keyPath: "/nonexistent") } }
  }

  @Test func connectionLimitMakesClientsWait() throws {
    let test = try TestServer { $0.maxConnections = 2 }
    defer { test.server.stop() }
    let first = try test.client()
    let second = try test.client()
    #expect(try first.get("/hello").status == 200)
    #expect(try second.get("/hello").status == 200)
    let third = try test.client()
    try third.send("GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
    #expect(!third.isReadable(withinMilliseconds: 50))
    first.close()
    #expect(try third.readResponse().status == 200)
    #expect(test.probe.opened.withLock { $0 } == 3)
  }
}
