// Sans-IO parser of a request head (RFC 9112), line by line over a growing buffer: each byte is looked at once,
// whatever the cuts, and a bad line is refused as soon as it is complete. Three answers: need more, a head, or a
// rejection. Strict where leniency lets two parsers disagree (request smuggling). Knows no body and no sockets.

package struct ParserLimits: Sendable, Equatable {
  package var maxHeadBytes = 16_384
  package var maxTargetBytes = 8_192
  package var maxHeaderFields = 100
  package var maxBodyBytes = 8_388_608

  package init() {}
}

package struct RequestParser: Sendable {
  package enum Answer: Equatable, Sendable {
    case needMore
    /// The head is the first `head.byteCount` bytes of the input.
    case head(RequestHead)
    case failure(Rejection)
  }

  private static let maxMethodBytes = 32

  private let limits: ParserLimits
  private var scanned = 0  // bytes of the input searched for a line end
  private var lineStart = 0
  private var isFirstLine = true
  private var requestLine: (method: String, target: Range<Int>, minorVersion: Int)?
  private var headers = HeaderFields()
  private var facts = HeaderFacts()

  package init(limits: ParserLimits) { self.limits = limits }

  /// Whether a byte of a request has come since the last head; the one tolerated empty line is none.
  package var hasStarted: Bool { requestLine != nil || scanned > lineStart }

  /// `input[start...]` begins with the first byte of the request and holds everything of the calls before, then more.
  /// After a head or a failure the parser is ready for the next request.
  package mutating func parse(_ input: [UInt8], from start: Int = 0) -> Answer {
    do {
      guard let head = try advance(input, from: start) else { return .needMore }
      self = RequestParser(limits: limits)
      return .head(head)
    } catch {
      self = RequestParser(limits: limits)
      return .failure(error)
    }
  }

  private mutating func advance(_ input: [UInt8], from start: Int) throws(Rejection) -> RequestHead? {
    while let feed = input[(start + scanned)...].firstIndex(of: UInt8(ascii: "\n")) {
      let line = input[(start + lineStart)..<feed]
      scanned = feed + 1 - start
      lineStart = scanned
      guard scanned <= limits.maxHeadBytes else { throw tooLarge }
      if requestLine == nil, line.count > maxRequestLineBytes { throw tooLarge }
      guard line.last == UInt8(ascii: "\r") else { throw Rejection(400, "a line ends without CR") }
      let isEndOfHead = try takeLine(line.dropLast(), offset: start)
      if isEndOfHead { return try finish(input, from: start) }
    }
    scanned = input.count - start
    guard scanned <= limits.maxHeadBytes else { throw tooLarge }
    if requestLine == nil, scanned - lineStart > maxRequestLineBytes { throw tooLarge }
    return nil
  }

  /// With room for two spaces, the version and CR.
  private var maxRequestLineBytes: Int { limits.maxTargetBytes + Self.maxMethodBytes + 16 }

  private var tooLarge: Rejection {
    requestLine == nil
      ? Rejection(414, "the request line is too long") : Rejection(431, "the request head is larger than \(limits.maxHeadBytes) bytes")
  }

  /// True at the empty line that ends the head.
  private mutating func takeLine(_ line: ArraySlice<UInt8>, offset: Int) throws(Rejection) -> Bool {
    if requestLine == nil {
      // One empty line before a request is tolerated (RFC 9112 section 2.2).
      if line.isEmpty, isFirstLine {
        isFirstLine = false
        return false
      }
      isFirstLine = false
      requestLine = try parseRequestLine(line, offset: offset)
      return false
    }
    if line.isEmpty { return true }
    guard headers.count < limits.maxHeaderFields else { throw Rejection(431, "more than \(limits.maxHeaderFields) header fields") }
    let (name, value) = try FieldLine.parse(line)
    try facts.note(name: name, value: value)
    headers.append(name: name, value: value)
    return false
  }

  private func parseRequestLine(_ line: ArraySlice<UInt8>, offset: Int) throws(Rejection) -> (String, Range<Int>, Int) {
    let parts = line.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
    guard parts.count == 3, let method = parts.first, let target = parts.dropFirst().first, let version = parts.last, !method.isEmpty,
      !target.isEmpty
    else { throw Rejection(400, "bad request line") }
    guard method.allSatisfy(ASCII.isToken) else { throw Rejection(400, "bad method") }
    guard method.count <= Self.maxMethodBytes else { throw Rejection(501, "unknown method") }
    guard target.count <= limits.maxTargetBytes else {
      throw Rejection(414, "the request target is longer than \(limits.maxTargetBytes) bytes")
    }
    guard target.allSatisfy({ $0 > 0x20 && $0 < 0x7F }) else { throw Rejection(400, "bad byte in the request target") }
    let digits = Array(version.dropFirst(5))
    guard version.starts(with: "HTTP/".utf8), digits.count == 3, digits[1] == UInt8(ascii: "."), ASCII.isDigit(digits[0]),
      ASCII.isDigit(digits[2])
    else { throw Rejection(400, "bad HTTP version") }
    guard digits[0] == UInt8(ascii: "1") else { throw Rejection(505, "only HTTP/1.0 and HTTP/1.1 are spoken here") }
    let minorVersion = digits[2] == UInt8(ascii: "0") ? 0 : 1
    return (String(decoding: method, as: UTF8.self), (target.startIndex - offset)..<(target.endIndex - offset), minorVersion)
  }

  private func finish(_ input: [UInt8], from start: Int) throws(Rejection) -> RequestHead {
    guard let requestLine else { throw Rejection(400, "bad request line") }
    let (method, targetRange, minorVersion) = requestLine
    guard method != "CONNECT" else { throw Rejection(501, "CONNECT is not supported") }
    let target = try RequestTarget(parsing: input[(start + targetRange.lowerBound)..<(start + targetRange.upperBound)], method: method)
    let framing = try facts.framing(minorVersion: minorVersion, maxBodyBytes: limits.maxBodyBytes)
    if framing == .none, method == "POST" || method == "PUT" || method == "PATCH" {
      throw Rejection(411, "a \(method) request needs a Content-Length or chunked transfer coding")
    }
    guard facts.hostCount == 1 || (minorVersion == 0 && facts.hostCount == 0) else {
      throw Rejection(400, facts.hostCount == 0 ? "the Host header is missing" : "more than one Host header")
    }
    if facts.hasUnknownExpectation, minorVersion > 0 { throw Rejection(417, "only 100-continue can be expected") }
    return RequestHead(
      method: method, target: target, minorVersion: minorVersion, headers: headers, framing: framing,
      isKeepAlive: !facts.asksClose && (minorVersion > 0 || facts.asksKeepAlive),
      expectsContinue: facts.expectsContinue && minorVersion > 0 && framing != .none && framing != .length(0), byteCount: scanned)
  }
}

/// One field line (RFC 9112 section 5), also for trailers.
enum FieldLine {
  static func parse(_ line: ArraySlice<UInt8>) throws(Rejection) -> (name: ArraySlice<UInt8>, value: ArraySlice<UInt8>) {
    // A line that starts with a space would be folded onto the one before by some parsers (obs-fold), not by others.
    guard line.first != 0x20, line.first != 0x09 else { throw Rejection(400, "a folded header line") }
    guard let colon = line.firstIndex(of: UInt8(ascii: ":")) else { throw Rejection(400, "a header line without a colon") }
    let name = line[..<colon]
    // This refuses a space before the colon too.
    guard !name.isEmpty, name.allSatisfy(ASCII.isToken) else { throw Rejection(400, "bad header name") }
    var value = line[(colon + 1)...]
    while let first = value.first, first == 0x20 || first == 0x09 { value = value.dropFirst() }
    while let last = value.last, last == 0x20 || last == 0x09 { value = value.dropLast() }
    guard value.allSatisfy(ASCII.isFieldValue) else { throw Rejection(400, "bad byte in a header value") }
    return (name, value)
  }
}
