// The byte alphabet of GPT-2 style vocabularies: each byte is written as one printable code point, so that entries are text
// (SPEC 4.1). Bytes 33-126, 161-172 and 174-255 stand for themselves, the other 68 take U+0100 and up in increasing order.

enum ByteAlphabet {
  /// The byte that a code point below U+0144 stands for; -1: none.
  private static let bytes: [Int16] = {
    var table = [Int16](repeating: -1, count: 0x144)
    var next = 0x100
    for byte in 0..<256 {
      if (33...126).contains(byte) || (161...172).contains(byte) || byte >= 174 {
        table[byte] = Int16(byte)
      } else {
        table[next] = Int16(byte)
        next += 1
      }
    }
    return table
  }()

  /// Appends the bytes that a vocabulary entry stands for.
  ///
  /// - Parameter entry: valid UTF-8.
  /// - Returns: false, with nothing appended, when a code point is not in the alphabet.
  static func decode(_ entry: ArraySlice<UInt8>, to out: inout [UInt8]) -> Bool {
    let before = out.count
    var index = entry.startIndex
    while index < entry.endIndex {
      let first = entry[index]
      var scalar = Int(first)
      index += 1
      if first >= 0x80 {
        // Only two-byte sequences (U+0080 to U+07FF) can be in the alphabet.
        guard first < 0xE0, index < entry.endIndex else {
          out.removeSubrange(before...)
          return false
        }
        scalar = Int(first & 0x1F) << 6 | Int(entry[index] & 0x3F)
        index += 1
      }
      guard scalar < bytes.count, bytes[scalar] >= 0 else {
        out.removeSubrange(before...)
        return false
      }
      out.append(UInt8(truncatingIfNeeded: bytes[scalar]))
    }
    return true
  }

  /// The entry of a single byte, UTF-8.
  static func entry(of byte: UInt8) -> [UInt8] {
    guard let scalar = bytes.firstIndex(of: Int16(byte)) else { return [] }
    return scalar < 0x80 ? [UInt8(scalar)] : [0xC0 | UInt8(scalar >> 6), 0x80 | UInt8(scalar & 0x3F)]
  }
}
