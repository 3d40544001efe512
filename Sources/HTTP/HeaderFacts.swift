// The header fields that steer the protocol itself: Host, Content-Length, Transfer-Encoding, Connection, Expect.
// Everything two parsers could read differently is refused (RFC 9112 sections 6.1, 6.3 and 11.2).

struct HeaderFacts: Sendable {
  private static let maxLengthDigits = 19

  private(set) var hostCount = 0
  private(set) var asksClose = false
  private(set) var asksKeepAlive = false
  private(set) var expectsContinue = false
  private(set) var hasUnknownExpectation = false
  private var contentLength: Int?
  private var transferEncoding: [UInt8]?

  mutating func note(name: ArraySlice<UInt8>, value: ArraySlice<UInt8>) throws(Rejection) {
    switch name.count {
    case 4 where ASCII.isEqual(name, lowercased: "host"):
      hostCount += 1
      guard RequestTarget.isHost(value) else { throw Rejection(400, "bad Host header") }
    case 6 where ASCII.isEqual(name, lowercased: "expect"):
      if ASCII.isEqual(value, lowercased: "100-continue") { expectsContinue = true } else { hasUnknownExpectation = true }
    case 10 where ASCII.isEqual(name, lowercased: "connection"): noteConnection(value)
    case 14 where ASCII.isEqual(name, lowercased: "content-length"): try noteLength(value)
    case 17 where ASCII.isEqual(name, lowercased: "transfer-encoding"):
      guard transferEncoding == nil else { throw Rejection(400, "more than one Transfer-Encoding header") }
      transferEncoding = Array(value)
    default: break
    }
  }

  private mutating func noteConnection(_ value: ArraySlice<UInt8>) {
    for option in Self.elements(of: value) {
      if ASCII.isEqual(option, lowercased: "close") { asksClose = true }
      if ASCII.isEqual(option, lowercased: "keep-alive") { asksKeepAlive = true }
    }
  }

  private mutating func noteLength(_ value: ArraySlice<UInt8>) throws(Rejection) {
    guard contentLength == nil else { throw Rejection(400, "more than one Content-Length header") }
    // Digits only: no sign, no list, no space inside; long runs of zeros are refused with the rest.
    guard !value.isEmpty, value.count <= Self.maxLengthDigits, value.allSatisfy(ASCII.isDigit) else {
      throw Rejection(400, "bad Content-Length")
    }
    var length = 0
    for digit in value {
      let (tens, isTensOverflow) = length.multipliedReportingOverflow(by: 10)
      let (sum, isSumOverflow) = tens.addingReportingOverflow(Int(digit &- 0x30))
      guard !isTensOverflow, !isSumOverflow else { throw Rejection(400, "bad Content-Length") }
      length = sum
    }
    contentLength = length
  }

  func framing(minorVersion: Int, maxBodyBytes: Int) throws(Rejection) -> BodyFraming {
    if let transferEncoding {
      guard contentLength == nil else { throw Rejection(400, "Content-Length together with Transfer-Encoding") }
      guard minorVersion > 0 else { throw Rejection(400, "Transfer-Encoding in HTTP/1.0") }
      let codings = Self.elements(of: transferEncoding[...])
      let isChunked = { (coding: ArraySlice<UInt8>) in ASCII.isEqual(coding, lowercased: "chunked") }
      guard let last = codings.last, isChunked(last), !codings.dropLast().contains(where: isChunked) else {
        throw Rejection(400, "the last transfer coding must be chunked")
      }
      guard codings.count == 1 else { throw Rejection(501, "only the transfer coding chunked is supported") }
      return .chunked
    }
    guard let contentLength else { return .none }
    guard contentLength <= maxBodyBytes else { throw Rejection(413, "the body is larger than \(maxBodyBytes) bytes") }
    return .length(contentLength)
  }

  /// The elements of a comma-separated list, without surrounding spaces.
  private static func elements(of value: ArraySlice<UInt8>) -> [ArraySlice<UInt8>] {
    value.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false).map { element in
      var element = element
      while let first = element.first, first == 0x20 || first == 0x09 { element = element.dropFirst() }
      while let last = element.last, last == 0x20 || last == 0x09 { element = element.dropLast() }
      return element
    }
  }
}
