// The request target (RFC 9112 section 3.2): origin-form, absolute-form, and "*" for OPTIONS. The path is split at
// "/" before it is percent-decoded, so that "%2F" stays inside its segment. Knows no routes.

package struct RequestTarget: Equatable, Sendable {
  /// Decoded segments after the leading "/"; "/" is one empty segment. Empty for "*".
  package let segments: [String]
  package let query: String?

  package var isAsterisk: Bool { segments.isEmpty }
  package var path: String { isAsterisk ? "*" : "/" + segments.joined(separator: "/") }

  package init(segments: [String], query: String?) {
    self.segments = segments
    self.query = query
  }

  /// `bytes` must be visible ASCII (the parser checks). Any error is status 400.
  package init(parsing bytes: ArraySlice<UInt8>, method: String) throws(Rejection) {
    if bytes.elementsEqual([UInt8(ascii: "*")]) {
      guard method == "OPTIONS" else { throw Rejection(400, "the target * is for OPTIONS only") }
      self.init(segments: [], query: nil)
      return
    }
    var rest = bytes
    if bytes.first != UInt8(ascii: "/") { rest = try Self.droppingAuthority(bytes) }
    guard !rest.contains(UInt8(ascii: "#")) else { throw Rejection(400, "a request target has no fragment") }
    let question = rest.firstIndex(of: UInt8(ascii: "?"))
    let path = rest[..<(question ?? rest.endIndex)]
    var segments: [String] = []
    // "http://host" and "http://host?query" have an empty path, which means "/".
    for segment in path.dropFirst().split(separator: UInt8(ascii: "/"), omittingEmptySubsequences: false) {
      segments.append(try Self.decode(segment))
    }
    self.init(segments: segments, query: question.map { String(decoding: rest[($0 + 1)...], as: UTF8.self) })
  }

  /// The path and query of an absolute-form target.
  private static func droppingAuthority(_ bytes: ArraySlice<UInt8>) throws(Rejection) -> ArraySlice<UInt8> {
    guard let colon = bytes.firstIndex(of: UInt8(ascii: ":")), bytes[colon...].starts(with: "://".utf8),
      ASCII.isEqual(bytes[..<colon], lowercased: "http") || ASCII.isEqual(bytes[..<colon], lowercased: "https")
    else { throw Rejection(400, "the request target is neither a path nor an http URL") }
    let rest = bytes[(colon + 3)...]
    let end = rest.firstIndex { $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: "?") || $0 == UInt8(ascii: "#") } ?? rest.endIndex
    guard end > rest.startIndex, isHost(rest[..<end]) else { throw Rejection(400, "the request target has a bad authority") }
    return rest[end...]
  }

  /// uri-host [":" port] (RFC 9110 section 7.2): no user information, no separators that other parsers read differently.
  package static func isHost(_ bytes: ArraySlice<UInt8>) -> Bool {
    bytes.allSatisfy { byte in
      switch byte {
      case UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "~"), UInt8(ascii: "%"), UInt8(ascii: "!"),
        UInt8(ascii: "$"),
        UInt8(ascii: "&"), UInt8(ascii: "'"), UInt8(ascii: "("), UInt8(ascii: ")"), UInt8(ascii: "*"), UInt8(ascii: "+"), UInt8(ascii: ";"),
        UInt8(ascii: "="), UInt8(ascii: ":"), UInt8(ascii: "["), UInt8(ascii: "]"):
        return true
      default: return ASCII.isLetter(byte) || ASCII.isDigit(byte)
      }
    }
  }

  /// Percent-decoding with every check: two hex digits each, no control character, valid UTF-8.
  package static func decode(_ bytes: ArraySlice<UInt8>) throws(Rejection) -> String {
    var decoded: [UInt8] = []
    decoded.reserveCapacity(bytes.count)
    var position = bytes.startIndex
    while position < bytes.endIndex {
      let byte = bytes[position]
      position += 1
      guard byte == UInt8(ascii: "%") else {
        decoded.append(byte)
        continue
      }
      guard bytes.endIndex - position >= 2, let high = ASCII.hexValue(bytes[position]), let low = ASCII.hexValue(bytes[position + 1])
      else { throw Rejection(400, "bad percent-encoding in the path") }
      let value = high << 4 | low
      guard value >= 0x20, value != 0x7F else { throw Rejection(400, "a control character in the path") }
      decoded.append(value)
      position += 2
    }
    guard let text = String(validating: decoded, as: UTF8.self) else { throw Rejection(400, "the path is not UTF-8") }
    return text
  }
}
