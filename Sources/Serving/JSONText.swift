// Writes JSON text (RFC 8259) piece by piece into one byte array: answers are a fixed frame with escaped strings and numbers in
// it, so no encoder and no tree of values is needed. Knows nothing of what the text means.

/// Text under construction. What is passed to `raw` must be JSON already; everything else is escaped or checked here.
package struct JSONText: Sendable {
  package var bytes: [UInt8] = []

  package init(reserving capacity: Int = 0) {
    if capacity > 0 { bytes.reserveCapacity(capacity) }
  }

  package mutating func raw(_ text: StaticString) {
    bytes.append(contentsOf: UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
  }

  package mutating func raw(_ prepared: [UInt8]) { bytes.append(contentsOf: prepared) }

  package mutating func string(_ text: String) {
    bytes.append(Self.quote)
    escaped(text.utf8)
    bytes.append(Self.quote)
  }

  /// `utf8` must be valid UTF-8.
  package mutating func string(utf8: [UInt8]) {
    bytes.append(Self.quote)
    escaped(utf8)
    bytes.append(Self.quote)
  }

  package mutating func optionalString(_ text: String?) {
    if let text { string(text) } else { raw("null") }
  }

  package mutating func integer(_ value: Int) { bytes.append(contentsOf: String(value).utf8) }

  /// JSON has no infinities and no NaN: those become null.
  package mutating func number(_ value: Float) {
    if value.isFinite { bytes.append(contentsOf: value.description.utf8) } else { raw("null") }
  }

  package mutating func number(_ value: Double) {
    if value.isFinite { bytes.append(contentsOf: value.description.utf8) } else { raw("null") }
  }

  package mutating func boolean(_ value: Bool) {
    if value { raw("true") } else { raw("false") }
  }

  /// The inside of a string. Bytes from 0x80 on pass as they are.
  private mutating func escaped(_ utf8: some Sequence<UInt8>) {
    for byte in utf8 {
      switch byte {
      case Self.quote: raw("\\\"")
      case UInt8(ascii: "\\"): raw("\\\\")
      case 0x0A: raw("\\n")
      case 0x0D: raw("\\r")
      case 0x09: raw("\\t")
      case 0..<0x20:
        raw("\\u00")
        bytes.append(Self.hexDigits[Int(byte >> 4)])
        bytes.append(Self.hexDigits[Int(byte & 15)])
      default: bytes.append(byte)
      }
    }
  }

  private static let quote = UInt8(ascii: "\"")
  private static let hexDigits = Array("0123456789abcdef".utf8)
}
