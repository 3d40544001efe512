// The server under test with the routes that the socket tests need, and a record of what happened to its exchanges.

import Dispatch
import Glibc
import Testing

@testable import HTTP

/// What handlers and observer saw; shared by loops and tests.
final class Probe: Sendable {
  let disconnects = Locked(0)
  let waiting = Locked<[Exchange]>([])
  let records = Locked<[RequestRecord]>([])
  let opened = Locked(0)
  let closed = Locked(0)
  let flags = Locked<Set<String>>([])

  /// Waits for something that other threads bring about; false after a time no healthy run needs.
  func eventually(_ condition: () -> Bool) -> Bool {
    for _ in 0..<60_000 {
      if condition() { return true }
      usleep(1000)
    }
    return false
  }
}

struct TestServer {
  let server: Server
  let probe: Probe

  init(_ change: (inout ServerConfiguration) -> Void = { _ in }) throws {
    let probe = Probe()
    self.probe = probe
    var configuration = ServerConfiguration()
    // A busy machine may stall the test itself; only the tests of deadlines shorten them.
    configuration.headTimeoutMilliseconds = 600_000
    configuration.bodyTimeoutMilliseconds = 600_000
    configuration.idleTimeoutMilliseconds = 600_000
    configuration.writeTimeoutMilliseconds = 600_000
    configuration.lingerTimeoutMilliseconds = 60_000
    change(&configuration)
    let observer = ServerObserver(
      connectionOpened: { probe.opened.withLock { $0 += 1 } }, connectionClosed: { probe.closed.withLock { $0 += 1 } },
      requestFinished: { record in probe.records.withLock { $0.append(record) } })
    server = Server(
      configuration: configuration, router: Self.router(probe),
      errorBody: { status, message in
        .bytes(status, Array("{\"error\":\"\(message)\"}".utf8), contentType: "application/json")
      }, observer: observer)
    try server.start()
  }

  func client(isIPv6: Bool = false, receiveBufferBytes: Int32? = nil) throws -> TestClient {
    try TestClient(port: server.port, isIPv6: isIPv6, receiveBufferBytes: receiveBufferBytes)
  }

  /// The counters of the first loop.
  func counters() -> LoopCounters {
    let result = Locked(LoopCounters())
    let done = DispatchSemaphore(value: 0)
    guard let loop = server.loops.first else { return LoopCounters() }
    loop.post {
      let snapshot = loop.snapshotCounters()
      result.withLock { $0 = snapshot }
      done.signal()
    }
    done.wait()
    return result.withLock { $0 }
  }

  private static func router(_ probe: Probe) -> Router {
    var router = Router()
    router.add("GET", "/hello") { $0.respond(.text(200, "hello")) }
    router.add("POST", "/echo") { exchange in exchange.respond(.bytes(200, exchange.request.body, contentType: "application/octet-stream"))
    }
    router.add("GET", "/who") { exchange in exchange.respond(.text(200, exchange.request.remoteAddress)) }
    router.add("GET", "/models/{id}") { exchange in exchange.respond(.text(200, exchange.request.pathParameters["id"] ?? "")) }
    router.add("GET", "/files/{path...}") { exchange in exchange.respond(.text(200, exchange.request.pathParameters["path"] ?? "")) }
    router.add("GET", "/big/{bytes}") { exchange in
      let count = Int(exchange.request.pathParameters["bytes"] ?? "") ?? 0
      exchange.respond(.bytes(200, pattern(count), contentType: "text/plain"))
    }
    router.add("GET", "/split") { exchange in
      exchange.respond(HTTPResponse(status: 200, headers: [("X-Evil", "a\r\nSet-Cookie: b")], body: [65]))
    }
    router.add("GET", "/stream/{count}") { exchange in
      let count = Int(exchange.request.pathParameters["count"] ?? "") ?? 0
      exchange.startStream(status: 200, headers: [("Content-Type", "text/event-stream")])
      for index in 0..<count { exchange.write(SSE.data(Array("\(index)".utf8))) }
      exchange.end()
    }
    router.add("GET", "/turns/{count}") { exchange in
      exchange.startStream(status: 200, headers: [])
      turn(exchange, Int(exchange.request.pathParameters["count"] ?? "") ?? 0)
    }
    router.add("GET", "/later") { exchange in
      DispatchQueue.global().async { @Sendable in exchange.loop.post { exchange.respond(.text(200, "later")) } }
    }
    router.add("GET", "/wait") { exchange in
      exchange.onDisconnect = { probe.disconnects.withLock { $0 += 1 } }
      probe.waiting.withLock { $0.append(exchange) }
    }
    router.add("GET", "/open") { exchange in
      exchange.startStream(status: 200, headers: [])
      exchange.write(Array("first".utf8))
      exchange.onDisconnect = { probe.disconnects.withLock { $0 += 1 } }
      probe.waiting.withLock { $0.append(exchange) }
    }
    router.add("GET", "/flood") { exchange in
      exchange.onDisconnect = { probe.disconnects.withLock { $0 += 1 } }
      exchange.startStream(status: 200, headers: [])
      flood(exchange)
    }
    return router
  }

  /// Three chunks in each of `remaining` turns.
  private static func turn(_ exchange: Exchange, _ remaining: Int) {
    guard remaining > 0 else { return exchange.end() }
    exchange.loop.post { @Sendable in
      for _ in 0..<3 { exchange.write([UInt8](repeating: 120, count: 10)) }
      turn(exchange, remaining - 1)
    }
  }

  private static func flood(_ exchange: Exchange) {
    guard !exchange.isDisconnected else { return }
    exchange.write([UInt8](repeating: 120, count: 16_384))
    exchange.loop.post { @Sendable in flood(exchange) }
  }
}

/// Byte i is i / 64.
func pattern(_ count: Int) -> [UInt8] {
  var bytes: [UInt8] = []
  bytes.reserveCapacity(count + 64)
  for block in 0...(count / 64) { bytes.append(contentsOf: repeatElement(UInt8(truncatingIfNeeded: block), count: 64)) }
  return Array(bytes[..<count])
}

func localFixture(_ name: String, file: StaticString = #filePath) -> String {
  let parts = file.description.split(separator: "/", omittingEmptySubsequences: false).dropLast(2)
  return parts.joined(separator: "/") + "/Fixtures/" + name
}
