// Byte classes of HTTP's grammar (RFC 9110 section 5.6.2, RFC 3986). Bytes are bytes: no String comparison here.

package enum ASCII {
  @inline(__always) package static func isDigit(_ byte: UInt8) -> Bool { byte &- 0x30 < 10 }

  @inline(__always) package static func isLetter(_ byte: UInt8) -> Bool { (byte | 0x20) &- 0x61 < 26 }

  @inline(__always) package static func lowercased(_ byte: UInt8) -> UInt8 { byte &- 0x41 < 26 ? byte | 0x20 : byte }

  /// tchar.
  @inline(__always) package static func isToken(_ byte: UInt8) -> Bool {
    if isLetter(byte) || isDigit(byte) { return true }
    switch byte {
    case UInt8(ascii: "!"), UInt8(ascii: "#"), UInt8(ascii: "$"), UInt8(ascii: "%"), UInt8(ascii: "&"), UInt8(ascii: "'"),
      UInt8(ascii: "*"),
      UInt8(ascii: "+"), UInt8(ascii: "-"), UInt8(ascii: "."), UInt8(ascii: "^"), UInt8(ascii: "_"), UInt8(ascii: "`"), UInt8(ascii: "|"),
      UInt8(ascii: "~"):
      return true
    default: return false
    }
  }

  /// A byte of a field value: HTAB, SP, VCHAR, obs-text. Not NUL, CR, LF, DEL or another control.
  @inline(__always) package static func isFieldValue(_ byte: UInt8) -> Bool { byte == 0x09 || (byte >= 0x20 && byte != 0x7F) }

  @inline(__always) package static func hexValue(_ byte: UInt8) -> UInt8? {
    if isDigit(byte) { return byte &- 0x30 }
    let letter = byte | 0x20
    return letter &- 0x61 < 6 ? letter &- 0x61 &+ 10 : nil
  }

  /// Whether the bytes are `text` (given in lower case) but for the case of letters.
  package static func isEqual(_ bytes: some Sequence<UInt8>, lowercased text: StaticString) -> Bool {
    text.withUTF8Buffer { expected in
      var position = 0
      for byte in bytes {
        guard position < expected.count, lowercased(byte) == expected[position] else { return false }
        position += 1
      }
      return position == expected.count
    }
  }
}
