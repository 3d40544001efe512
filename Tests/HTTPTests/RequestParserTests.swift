// The request head parser: what is taken, what is refused and how, and that no cut of the input changes the answer.

import Testing

@testable import HTTP

/// The actions of a connection that gets `pieces`, every request answered at once.
func actions(for pieces: [[UInt8]], limits: ParserLimits = ParserLimits(), isEnding: Bool = true) -> [ConnectionState.Action] {
  var state = ConnectionState(limits: limits, maxPipelinedRequests: 4)
  var all: [ConnectionState.Action] = []
  func drain() {
    while let action = state.next() {
      // Whether the interim answer is owed depends on what has come, not on what was said.
      if action != .sendContinue { all.append(action) }
      if case .handle = action { state.exchangeEnded(isClosing: false) }
    }
  }
  for piece in pieces {
    state.receive(piece)
    drain()
  }
  if isEnding {
    state.receiveEndOfInput()
    drain()
  }
  return all
}

func actions(for text: String) -> [ConnectionState.Action] { actions(for: [Array(text.utf8)]) }

/// The status of the first refusal.
func rejection(_ text: String, limits: ParserLimits = ParserLimits()) -> Int? {
  for action in actions(for: [Array(text.utf8)], limits: limits) { if case .reject(let rejection) = action { return rejection.status } }
  return nil
}

func requests(_ text: String) -> [ParsedRequest] {
  actions(for: text).compactMap { if case .handle(let request) = $0 { request } else { nil } }
}

@Suite struct RequestParserTests {
  static let good: [(String, Int)] = [
    ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
    ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 1),
    ("GET /a%20b?x=%zz HTTP/1.1\r\nHOST:a:80\r\nX-Empty:\r\nX-Spaces: \t a b \t\r\n\r\n", 1),
    ("GET http://example.com/x?y HTTP/1.1\r\nHost: example.com\r\n\r\n", 1),
    ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 1),
    ("GET / HTTP/1.0\r\n\r\n", 1),
    ("GET / HTTP/1.7\r\nHost: a\r\n\r\n", 1),
    ("POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n", 2),
    ("POST /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n1;x=\"y\"\r\n!\r\n0\r\nTrailer: t\r\n\r\n", 1),
    ("POST /e HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\nhi", 1),
    ("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\nGET /3 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", 3),
    ("GET /x HTTP/1.1\r\nHost: a\r\nX-Latin: \u{E9}\r\n\r\n", 1),
  ]

  static let bad: [(String, Int)] = [
    // request line
    ("GET /\r\n\r\n", 400), ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400), ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400), ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400), ("GET / http/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400), ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505), ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    ("GET / HTTP/1.1\nHost: a\n\n", 400), ("GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", 400), ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501), ("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("AVERYLONGMETHODNAMETHATNOBODYKNOWS / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    // target
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400), ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400), ("GET http://u@h/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400), ("GET /%2 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n", 400), ("GET /%0d%0a HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /%ff HTTP/1.1\r\nHost: a\r\n\r\n", 400), ("GET /\u{E9} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("GET /\u{0} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    // fields
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400), ("GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400), ("GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400), ("GET / HTTP/1.1\r\nHost: a\r\nX: a\nY: b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{0}\r\n\r\n", 400), ("GET / HTTP/1.1\r\nHost: a\r\nX: \u{7F}\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\n\u{E9}: b\r\n\r\n", 400), ("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\r\n\r\n", 400),
    // Host
    ("GET / HTTP/1.1\r\n\r\n", 400), ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400), ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400), ("GET / HTTP/1.1\r\nHost: u@b\r\n\r\n", 400),
    ("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    // length and coding: request smuggling
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n", 400), ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\n", 400), ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 3\r\n\r\n", 400), ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9999999999999999999\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 00000000000000000000003\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\n", 413),
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8388609\r\n\r\n", 413), ("POST / HTTP/1.1\r\nHost: a\r\n\r\n", 411),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{B}chunked\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n\r\n", 400),
    ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n", 400),
    ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\n", 417),
    // chunks
    (chunked("g\r\n"), 400), (chunked("\r\n"), 400), (chunked("-1\r\n"), 400), (chunked("0x1\r\na\r\n"), 400),
    (chunked(" 1\r\na\r\n"), 400),
    (chunked("1 \r\na\r\n"), 400), (chunked("1\na\r\n"), 400), (chunked("1\r\nab\r\n"), 400), (chunked("1\r\na\n"), 400),
    (chunked("1\r\na\rb"), 400),
    (chunked("FFFFFFFFFFFFFFFF\r\n"), 400), (chunked("10000000000000000\r\n"), 400), (chunked("00000000000000001\r\na\r\n"), 400),
    (chunked("7FFFFFFFFFFFFFFF\r\n"), 413), (chunked("800001\r\n"), 413), (chunked("1;a\rb\r\na\r\n"), 400),
    (chunked("1;\u{0}\r\na\r\n"), 400),
    (chunked("1;" + String(repeating: "x", count: 300) + "\r\na\r\n"), 400), (chunked("0\r\nbad trailer\r\n\r\n"), 400),
    (chunked("0\r\nX: 1\n\r\n"), 400), (chunked("0\r\n folded: 1\r\n\r\n"), 400),
    (chunked(String(repeating: "1;" + String(repeating: "x", count: 200) + "\r\na\r\n", count: 100)), 431),
    (chunked("0\r\n" + String(repeating: "X: 1\r\n", count: 101) + "\r\n"), 431),
    (chunked("0\r\nX: " + String(repeating: "x", count: 17_000) + "\r\n\r\n"), 431),
    // size of the head
    ("GET /" + String(repeating: "a", count: 8192) + " HTTP/1.1\r\nHost: a\r\n\r\n", 414), (String(repeating: "A", count: 20_000), 414),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: " + String(repeating: "a", count: 20_000), 431),
    ("GET / HTTP/1.1\r\nHost: a\r\n" + String(repeating: "X: 1\r\n", count: 100) + "\r\n", 431),
  ]

  static func chunked(_ body: String) -> String { "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body }

  @Test(arguments: good) func takes(_ text: String, count: Int) {
    #expect(rejection(text) == nil)
    #expect(requests(text).count == count)
  }

  @Test(arguments: bad) func refuses(_ text: String, status: Int) {
    #expect(rejection(text) == status, "\(text.prefix(120).debugDescription)")
    #expect(requests(text).isEmpty)
  }

  @Test func noCutChangesTheAnswer() {
    for (text, _) in Self.good + Self.bad {
      let bytes = Array(text.utf8)
      let whole = actions(for: [bytes])
      #expect(actions(for: bytes.map { [$0] }) == whole, "byte by byte: \(text.prefix(100).debugDescription)")
      // Every pair of cuts for short inputs, every single cut for the rest; long runs of one byte are sampled.
      if bytes.count <= 150 {
        for first in stride(from: 0, through: bytes.count, by: bytes.count <= 60 ? 1 : 3) {
          for second in stride(from: first, through: bytes.count, by: bytes.count <= 60 ? 1 : 11) {
            let pieces = [Array(bytes[..<first]), Array(bytes[first..<second]), Array(bytes[second...])]
            guard actions(for: pieces) == whole else {
              Issue.record("cut at \(first), \(second): \(text.debugDescription)")
              return
            }
          }
        }
      }
      for cut in stride(from: 0, through: bytes.count, by: max(1, bytes.count / 200)) {
        #expect(actions(for: [Array(bytes[..<cut]), Array(bytes[cut...])]) == whole, "cut at \(cut): \(text.prefix(100).debugDescription)")
      }
    }
  }

  @Test func readsTheHead() throws {
    let text = "POST /v1/a%2Fb/%C3%A9?q=1%20 HTTP/1.1\r\nhOsT: x\r\nAccept: a\r\nAccept: b\r\nContent-Length: 3\r\n\r\nabc"
    let request = try #require(requests(text).first)
    #expect(request.head.method == "POST")
    #expect(request.head.target.segments == ["v1", "a/b", "é"])
    #expect(request.head.target.path == "/v1/a/b/é")
    #expect(request.head.target.query == "q=1%20")
    #expect(request.head.headers["HOST"] == "x")
    #expect(request.head.headers["accept"] == "a")
    #expect(request.head.headers.list("ACCEPT") == "a, b")
    #expect(request.head.headers["missing"] == nil)
    #expect(request.head.framing == .length(3))
    #expect(request.head.byteCount == text.utf8.count - 3)
    #expect(request.body == Array("abc".utf8))
  }

  @Test func joinsChunksAndDropsTrailers() throws {
    let request = try #require(
      requests(Self.chunked("3\r\nabc\r\n0A;x=y\r\n0123456789\r\n0\r\nHost: evil\r\nContent-Length: 7\r\n\r\n")).first)
    #expect(request.body == Array("abc0123456789".utf8))
    #expect(request.head.headers.values(of: "host").count == 1)
    #expect(request.head.headers["content-length"] == nil)
  }

  @Test(arguments: [
    ("GET / HTTP/1.1\r\nHost: a\r\n", true), ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n", false),
    ("GET / HTTP/1.1\r\nHost: a\r\nConnection: TE, Close\r\n", false), ("GET / HTTP/1.0\r\n", false),
    ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n", true), ("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n", false),
  ]) func keepAlive(_ head: String, isKept: Bool) throws {
    #expect(try #require(requests(head + "\r\n").first).head.isKeepAlive == isKept)
  }

  @Test func asteriskAndAbsoluteTargets() throws {
    #expect(try #require(requests("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").first).head.target.isAsterisk)
    for (target, path) in [("http://h", "/"), ("HTTPS://h:1/a/b?c", "/a/b"), ("http://[::1]:80/x", "/x"), ("http://h?q", "/")] {
      #expect(try #require(requests("GET \(target) HTTP/1.1\r\nHost: a\r\n\r\n").first).head.target.path == path)
    }
  }
}
