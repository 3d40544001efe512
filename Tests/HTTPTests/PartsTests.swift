// The small parts without sockets: deadlines, dates, response heads, gzip, router, SSE, header fields, lock.

import Dispatch
import Testing

@testable import HTTP

@Suite struct DeadlineQueueTests {
  @Test func expiresInOrderAndForgetsWhatWasCleared() {
    var queue = DeadlineQueue()
    #expect(queue.earliestNanoseconds == nil)
    queue.set(slot: 3, kind: .idle, deadlineNanoseconds: 30)
    queue.set(slot: 1, kind: .head, deadlineNanoseconds: 10)
    queue.set(slot: 2, kind: .idle, deadlineNanoseconds: 20)
    #expect(queue.earliestNanoseconds == 10)
    #expect(queue.takeExpired(nowNanoseconds: 9) == nil)
    #expect(queue.takeExpired(nowNanoseconds: 10)?.slot == 1)
    queue.clear(slot: 2)
    #expect(queue.earliestNanoseconds == 30)
    queue.clear(slot: 99)
    queue.set(slot: 3, kind: .body, deadlineNanoseconds: 50)
    #expect(queue.takeExpired(nowNanoseconds: 40) == nil)
    let last = queue.takeExpired(nowNanoseconds: 50)
    #expect(last?.slot == 3 && last?.kind == .body)
    #expect(queue.earliestNanoseconds == nil)
  }

  @Test func agreesWithADictionary() {
    var random = SplitMix(seed: 7)
    var queue = DeadlineQueue()
    var model: [Int: (DeadlineKind, UInt64)] = [:]
    for now in 0..<20_000 {
      let slot = Int(random.next() % 40)
      if random.next() % 3 == 0 {
        queue.clear(slot: slot)
        model[slot] = nil
      } else {
        let kind = DeadlineKind.allCases[Int(random.next() % 5)]
        let deadline = UInt64(now) + random.next() % 50
        queue.set(slot: slot, kind: kind, deadlineNanoseconds: deadline)
        model[slot] = (kind, deadline)
      }
      while let (slot, kind) = queue.takeExpired(nowNanoseconds: UInt64(now)) {
        let expected = model.removeValue(forKey: slot)
        guard expected?.0 == kind, let deadline = expected?.1, deadline <= UInt64(now) else {
          Issue.record("slot \(slot) expired wrongly at \(now)")
          return
        }
      }
      guard queue.earliestNanoseconds == model.values.map(\.1).min() else {
        Issue.record("wrong earliest at \(now)")
        return
      }
    }
  }
}

/// A small seeded generator (SplitMix64, Steele et al. 2014).
struct SplitMix: RandomNumberGenerator {
  private var state: UInt64
  init(seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var value = state
    value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
    value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
    return value ^ (value >> 31)
  }
}

@Suite struct ResponseWriterTests {
  @Test(arguments: [
    (Int64(0), "Thu, 01 Jan 1970 00:00:00 GMT"), (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
    (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
    (1_709_251_199, "Thu, 29 Feb 2024 23:59:59 GMT"), (4_102_444_800, "Fri, 01 Jan 2100 00:00:00 GMT"),
    (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"), (-5, "Thu, 01 Jan 1970 00:00:00 GMT"),
  ]) func dates(_ seconds: Int64, text: String) {
    #expect(String(decoding: DateCache.render(seconds), as: UTF8.self) == text)
  }

  @Test func headHoldsWhatItShould() {
    var output: [UInt8] = []
    ResponseWriter.appendHead(
      to: &output, status: 200, headers: [("Content-Type", "a/b"), ("content-length", "99"), ("X", "1"), ("Transfer-Encoding", "x")],
      framing: .length(5), connection: "close", date: Array("D".utf8))
    let expected =
      "HTTP/1.1 200 OK\r\nServer: quire\r\nDate: D\r\nContent-Type: a/b\r\nX: 1\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
    #expect(String(decoding: output, as: UTF8.self) == expected)
  }

  @Test(arguments: [("X", "a\r\nB: c"), ("X", "a\nb"), ("X", "a\rb"), ("X", "a\0b"), ("X\r\nY", "a"), ("X Y", "a"), ("", "a"), ("X:", "a")])
  func splittingIsRefused(_ name: String, value: String) {
    #expect(!ResponseWriter.areValid([("A", "b"), (name, value)]))
    var output: [UInt8] = []
    ResponseWriter.appendHead(to: &output, status: 200, headers: [(name, value)], framing: .none, connection: nil, date: [])
    #expect(String(decoding: output, as: UTF8.self) == "HTTP/1.1 200 OK\r\nServer: quire\r\nDate: \r\n\r\n")
  }

  @Test func chunks() {
    var output: [UInt8] = []
    ResponseWriter.appendChunk([UInt8](repeating: 97, count: 26), to: &output)
    #expect(String(decoding: output, as: UTF8.self) == "1a\r\n" + String(repeating: "a", count: 26) + "\r\n")
  }
}

@Suite struct GzipTests {
  @Test(
    arguments: [
      (nil, false), ("", false), ("gzip", true), ("GZIP", true), ("deflate, gzip;q=0.5", true), ("gzip;q=0", false),
      ("gzip; q=0.000", false),
      ("gzip ; Q=1.0", true), ("*", true), ("*;q=0", false), ("gzip;q=0, *", false), ("identity", false), ("x-gzip", true),
      ("gzip;q=abc", false),
      ("gzip;q=0.001", true), ("*;q=0, gzip", true), ("br, zstd", false), (";q=1,gzip", true), ("gzip;q=2", false),
    ] as [(String?, Bool)]) func acceptEncoding(_ value: String?, isAccepted: Bool)
  {
    #expect(Gzip.isAccepted(by: value) == isAccepted)
  }

  @Test func roundTrip() throws {
    for count in [100, 5_000, 300_000] {
      let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 / 50) }
      let compressed = try #require(Gzip.compress(bytes))
      #expect(compressed.count < bytes.count)
      #expect(Gzip.decompress(compressed, maxBytes: count) == bytes)
      #expect(Gzip.decompress(compressed, maxBytes: count - 1) == nil)
      #expect(Gzip.decompress(Array(compressed.dropLast()), maxBytes: count) == nil)
    }
    #expect(Gzip.compress([1, 2, 3]) == nil)
  }
}

@Suite struct RouterTests {
  private func router() -> Router {
    var router = Router()
    for (method, pattern) in [
      ("GET", "/"), ("GET", "/v1/models"), ("GET", "/v1/models/{id}"), ("POST", "/v1/completions"), ("GET", "/files/{rest...}"),
      ("DELETE", "/files/{rest...}"),
    ] { router.add(method, pattern) { _ in } }
    return router
  }

  private func describe(_ method: String, _ segments: [String]) -> String {
    switch router().match(method: method, target: RequestTarget(segments: segments, query: nil)) {
    case .handler(_, let pattern, let parameters): "\(pattern) \(parameters.map { "\($0)=\($1)" }.sorted().joined(separator: ","))"
    case .options(let allow, _): "options \(allow)"
    case .methodNotAllowed(let allow, _): "405 \(allow)"
    case .unknownMethod: "501"
    case .notFound: "404"
    }
  }

  @Test func matches() {
    #expect(describe("GET", [""]) == "/ ")
    #expect(describe("HEAD", ["v1", "models"]) == "/v1/models ")
    #expect(describe("GET", ["v1", "models", "a/b"]) == "/v1/models/{id} id=a/b")
    #expect(describe("GET", ["v1", "models", ""]) == "404")
    #expect(describe("GET", ["v1", "models", "a", "b"]) == "404")
    #expect(describe("GET", ["files", "a", "b"]) == "/files/{rest...} rest=a/b")
    #expect(describe("GET", ["files"]) == "404")
    #expect(describe("GET", ["files", ""]) == "404")
    #expect(describe("GET", ["v1", "completions"]) == "405 OPTIONS, POST")
    #expect(describe("DELETE", ["v1", "models"]) == "405 GET, HEAD, OPTIONS")
    #expect(describe("OPTIONS", ["files", "x"]) == "options DELETE, GET, HEAD, OPTIONS")
    #expect(describe("OPTIONS", []) == "options DELETE, GET, HEAD, OPTIONS, POST")
    #expect(describe("BREW", [""]) == "501")
    #expect(describe("get", [""]) == "501")
  }
}

@Suite struct SSETests {
  @Test(arguments: [
    ("{}", "data: {}\n\n"), ("", "data: \n\n"), ("a\nb", "data: a\ndata: b\n\n"), ("a\r\nb\rc", "data: a\ndata: b\ndata: c\n\n"),
  ])
  func data(_ payload: String, event: String) {
    #expect(String(decoding: SSE.data(Array(payload.utf8)), as: UTF8.self) == event)
  }
}

@Suite struct HeaderFieldsTests {
  @Test func bytesAreBytes() {
    let fields = HeaderFields([("X-é", "1"), ("x-e\u{301}", "2"), ("A", "b")])
    #expect(fields["X-e\u{301}"] == "2")
    #expect(fields["x-é"] == "1")
    #expect(fields.pairs.count == 3)
    #expect(fields == HeaderFields([("X-é", "1"), ("x-e\u{301}", "2"), ("A", "b")]))
    #expect(fields != HeaderFields([("X-é", "1"), ("x-e\u{301}", "2"), ("Ab", "")]))
  }
}

@Suite struct LockedTests {
  @Test func countsFromManyThreads() {
    let counter = Locked(0)
    DispatchQueue.concurrentPerform(iterations: 4) { _ in for _ in 0..<10_000 { counter.withLock { $0 += 1 } } }
    #expect(counter.withLock { $0 } == 40_000)
  }
}
