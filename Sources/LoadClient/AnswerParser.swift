// One HTTP/1.1 answer (RFC 9112), byte by byte: status, framing, and the body without its framing. Written apart from the server's
// own HTTP code, so that a mistake there shows here. Knows no sockets and no JSON.

/// Feed it what arrives; it hands back the body's bytes. For answers to GET and POST only (those to HEAD have no body).
package struct AnswerParser {
  package static let maxLineBytes = 65_536
  package static let maxHeadLines = 200
  package static let maxBodyBytes = 1 << 30

  private enum State: Equatable {
    case statusLine, fields, chunkSize, chunkEnd, trailers, done
    case chunk(remaining: Int)
    case length(remaining: Int)
    case untilClose
  }

  private var state = State.statusLine
  private var line: [UInt8] = []
  private var lineCount = 0
  private var contentLength: Int?
  private var isChunked = false

  package private(set) var status = 0
  /// The connection can carry another request once this answer is done.
  package private(set) var keepsAlive = true
  package var isDone: Bool { state == .done }
  /// No byte of the answer has come.
  package private(set) var isUntouched = true

  package init() {}

  /// - Returns: body bytes, without chunk framing. Bytes behind the end of the answer are a violation: nothing was asked for yet.
  package mutating func feed(_ bytes: ArraySlice<UInt8>) throws(LoadClientError) -> [UInt8] {
    var rest = bytes
    var body: [UInt8] = []
    if !rest.isEmpty { isUntouched = false }
    while !rest.isEmpty {
      switch state {
      case .done: throw .protocolViolation("bytes behind the end of an answer")
      case .untilClose:
        body += rest
        rest = []
      case .length(let remaining): state = takeBody(&rest, remaining, into: &body).map { .length(remaining: $0) } ?? .done
      case .chunk(let remaining): state = takeBody(&rest, remaining, into: &body).map { .chunk(remaining: $0) } ?? .chunkEnd
      case .statusLine, .fields, .chunkSize, .chunkEnd, .trailers:
        guard let text = try takeLine(&rest) else { return body }
        try handle(text)
      }
    }
    return body
  }

  /// The server has closed: an answer without a length ends here.
  package mutating func close() throws(LoadClientError) {
    guard state == .untilClose || state == .done else { throw .closedEarly }
    state = .done
  }

  /// What remains to be read of this piece, or nil at its end.
  private func takeBody(_ rest: inout ArraySlice<UInt8>, _ remaining: Int, into body: inout [UInt8]) -> Int? {
    let piece = rest.prefix(remaining)
    body += piece
    rest = rest.dropFirst(piece.count)
    return remaining > piece.count ? remaining - piece.count : nil
  }

  /// A line without its CRLF, or nil until it is whole.
  private mutating func takeLine(_ rest: inout ArraySlice<UInt8>) throws(LoadClientError) -> String? {
    let end = rest.firstIndex(of: UInt8(ascii: "\n"))
    line += rest[..<(end ?? rest.endIndex)]
    guard line.count <= Self.maxLineBytes else { throw .protocolViolation("a line of more than \(Self.maxLineBytes) bytes") }
    rest = end.map { rest[($0 + 1)...] } ?? []
    guard end != nil else { return nil }
    if line.last == UInt8(ascii: "\r") { line.removeLast() }
    defer { line.removeAll(keepingCapacity: true) }
    return String(decoding: line, as: UTF8.self)
  }

  private mutating func handle(_ text: String) throws(LoadClientError) {
    switch state {
    case .statusLine: try readStatus(text)
    case .fields where text.isEmpty: try startBody()
    case .fields: try readField(text)
    case .chunkSize: try readChunkSize(text)
    case .chunkEnd:
      guard text.isEmpty else { throw .protocolViolation("a chunk longer than its size") }
      state = .chunkSize
    case .trailers: if text.isEmpty { state = .done } else { try countLine() }
    case .done, .chunk, .length, .untilClose: break
    }
  }

  private mutating func readStatus(_ text: String) throws(LoadClientError) {
    let parts = text.split(separator: " ", maxSplits: 2)
    guard parts.count >= 2, parts[0].hasPrefix("HTTP/1."), let code = Int(parts[1]), (100...599).contains(code) else {
      throw .protocolViolation("status line \"\(text.prefix(80))\"")
    }
    status = code
    keepsAlive = parts[0] == "HTTP/1.1"
    state = .fields
  }

  private mutating func readField(_ text: String) throws(LoadClientError) {
    try countLine()
    guard let colon = text.firstIndex(of: ":") else { throw .protocolViolation("header field \"\(text.prefix(80))\"") }
    let value = text[text.index(after: colon)...].split(separator: " ").joined(separator: " ").lowercased()
    switch text[..<colon].lowercased() {
    case "content-length":
      guard let length = Int(value), (0...Self.maxBodyBytes).contains(length) else {
        throw .protocolViolation("Content-Length \(value.prefix(40))")
      }
      contentLength = length
    case "transfer-encoding":
      guard value == "chunked" else { throw .protocolViolation("Transfer-Encoding \(value.prefix(40))") }
      isChunked = true
    case "connection":
      let options = value.split(separator: ",").map { $0.filter { $0 != " " } }
      if options.contains("close") { keepsAlive = false }
      if options.contains("keep-alive") { keepsAlive = true }
    default: break
    }
  }

  private mutating func countLine() throws(LoadClientError) {
    lineCount += 1
    guard lineCount <= Self.maxHeadLines else { throw .protocolViolation("more than \(Self.maxHeadLines) header fields") }
  }

  private mutating func startBody() throws(LoadClientError) {
    if (100..<200).contains(status) {
      // An interim answer; the real one follows.
      state = .statusLine
    } else if status == 204 || status == 304 {
      state = .done
    } else if isChunked {
      state = .chunkSize
    } else if let contentLength {
      state = contentLength > 0 ? .length(remaining: contentLength) : .done
    } else {
      keepsAlive = false
      state = .untilClose
    }
  }

  private mutating func readChunkSize(_ text: String) throws(LoadClientError) {
    let digits = text.prefix { $0 != ";" && $0 != " " }
    guard let size = Int(digits, radix: 16), (0...Self.maxBodyBytes).contains(size) else {
      throw .protocolViolation("chunk size \"\(text.prefix(40))\"")
    }
    state = size == 0 ? .trailers : .chunk(remaining: size)
  }
}
