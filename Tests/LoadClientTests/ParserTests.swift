// Answers and event streams fed in pieces of every size, and the ways in which a server can break them.

import Testing

@testable import LoadClient

@Suite("Answers")
struct AnswerParserTests {
  /// Status and body, the answer fed in pieces of `size` bytes.
  private func parse(_ text: String, pieces size: Int = .max, closes: Bool = false) throws(LoadClientError) -> (AnswerParser, String) {
    var parser = AnswerParser()
    var body: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
      body += try parser.feed(rest.prefix(size))
      rest = rest.dropFirst(size)
    }
    if closes { try parser.close() }
    return (parser, String(decoding: body, as: UTF8.self))
  }

  @Test("chunked, with extensions and trailers, in pieces", arguments: [1, 2, 3, 7, 1000])
  func chunked(pieces: Int) throws {
    let breaks = String(repeating: "\r\n", count: 13)
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    let text = "\(head)5;x=1\r\nhello\r\n1A\r\n\(breaks)\r\n0\r\nA: b\r\n\r\n"
    let (parser, body) = try parse(text, pieces: pieces)
    #expect(parser.isDone && parser.status == 200 && parser.keepsAlive && !parser.isUntouched)
    #expect(body == "hello" + breaks)
  }

  @Test("a length, an interim answer before, and Connection: close")
  func length() throws {
    let (parser, body) = try parse(
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nconnection: Close\r\ncontent-length: 2\r\n\r\nno", pieces: 3)
    #expect(parser.isDone && parser.status == 404 && !parser.keepsAlive && body == "no")
    let (empty, _) = try parse("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    #expect(empty.isDone && empty.keepsAlive)
  }

  @Test("without a length it goes on until the server closes; other answers must not end so")
  func untilClose() throws {
    let (parser, body) = try parse("HTTP/1.0 200 OK\r\n\r\nall of it", pieces: 4, closes: true)
    #expect(parser.isDone && !parser.keepsAlive && body == "all of it")
    for text in [
      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfour", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n", "HT",
    ] {
      #expect(throws: LoadClientError.closedEarly) { try parse(text, closes: true) }
    }
  }

  @Test(
    "violations are errors, not crashes",
    arguments: [
      "nonsense\r\n", "HTTP/1.1 twohundred\r\n", "HTTP/1.1 99 Low\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7FFFFFFFFFFFFFFF\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
    ])
  func violations(text: String) {
    #expect {
      try parse(text)
    } throws: { error in
      if case .protocolViolation = error as? LoadClientError { true } else { false }
    }
  }

  @Test("no end of header fields, no end of a line")
  func endless() {
    for text in ["HTTP/1.1 200 OK\r\n" + String(repeating: "a: b\r\n", count: 300), String(repeating: "x", count: 70_000)] {
      violations(text: text)
    }
  }
}

@Suite("Completion streams")
struct CompletionStreamTests {
  private static func chunk(_ text: String, finish: String = "null") -> String {
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"text\":\"\(text)\",\"finish_reason\":\(finish)}],\"usage\":null}\n\n"
  }
  private static let usage =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":3}}}\n\n"
  private static let done = "data: [DONE]\n\n"

  /// Fed in pieces of `size` bytes; the n-th piece arrives at time n.
  private func record(_ text: String, pieces size: Int = .max) throws(LoadClientError) -> StreamRecord {
    var stream = CompletionStream()
    var rest = Array(text.utf8)[...]
    var time: UInt64 = 0
    while !rest.isEmpty {
      try stream.feed(Array(rest.prefix(size)), at: time)
      rest = rest.dropFirst(size)
      time += 1
    }
    return try stream.finish()
  }

  @Test("one token per event, an empty text too; usage, comments and CRLF")
  func events() throws {
    let text = ": hello\r\n\r\n" + Self.chunk("a") + Self.chunk("").replacing("\n", with: "\r\n") + Self.usage + Self.done
    let expected = StreamRecord(tokenTimes: [0, 0], promptTokens: 5, cachedPromptTokens: 3, completionTokens: 2)
    #expect(try record(text) == expected)
    for size in [1, 2, 5, 64] {
      let pieces = try record(text, pieces: size)
      #expect(pieces.completionTokens == 2 && pieces.tokenTimes.count == 2 && pieces.tokenTimes[0] <= pieces.tokenTimes[1])
    }
  }

  @Test("a lone finish reason is no token where the usage counts fewer; without usage every event is one")
  func counting() throws {
    let three = Self.chunk("a") + Self.chunk("b") + Self.chunk("", finish: "\"length\"")
    #expect(try record(three + Self.usage + Self.done).tokenTimes.count == 2)
    let plain = try record(three + Self.done)
    #expect(plain.tokenTimes.count == 3 && plain.completionTokens == 3 && plain.promptTokens == nil)
    let merged = try record(Self.chunk("ab") + Self.usage + Self.done)
    #expect(merged.tokenTimes.count == 1 && merged.completionTokens == 2)
  }

  @Test("streams that break off, hold no token, an error or nonsense")
  func failures() {
    #expect(throws: LoadClientError.notDone) { try record(Self.chunk("a") + Self.usage) }
    #expect(throws: LoadClientError.noTokens) { try record(Self.done) }
    for (text, isError) in [("data: {\"error\":{\"message\":\"out\"}}\n", true), ("data: [1\n", false)] {
      #expect {
        try record(Self.chunk("a") + text + Self.done)
      } throws: { error in
        switch error as? LoadClientError {
        case .streamError: isError
        case .badEvent: !isError
        default: false
        }
      }
    }
    let absurd = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":-2}}\n"
    #expect(throws: LoadClientError.self) { try record(Self.chunk("a") + absurd + Self.done) }
    #expect(throws: LoadClientError.self) { try record("data: " + String(repeating: "x", count: CompletionStream.maxEventBytes)) }
  }
}

@Suite("Server URLs")
struct ServerURLTests {
  @Test("host, port and prefix")
  func good() throws {
    #expect(try ServerURL("http://127.0.0.1:8080") == ServerURL(host: "127.0.0.1", port: 8080))
    #expect(try ServerURL("HTTP://box/") == ServerURL(host: "box", port: 80))
    #expect(try ServerURL("http://[::1]:9/v1/") == ServerURL(host: "::1", port: 9))
    #expect(try ServerURL("http://box:9/llm/v1") == ServerURL(host: "box", port: 9, prefix: "/llm"))
    #expect(try ServerURL("http://[::1]:9").authority == "[::1]:9")
  }

  @Test(
    "refusals",
    arguments: [
      "", "box:80", "https://box", "http://", "http://:80", "http://box:", "http://box:0", "http://box:70000", "http://box:x",
      "http://a@box",
      "http://box/?q", "http://box/a b", "http://[::1]x", "http://[::1", "http://b\u{E9}",
    ])
  func bad(text: String) {
    #expect(throws: LoadClientError.self) { try ServerURL(text) }
  }
}
