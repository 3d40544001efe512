// Whole-body gzip and the reading of Accept-Encoding (RFC 9110 section 12.5.3). Knows no connections.

import CNet

package enum Gzip {
  /// Speed before size: answers are compressed on the I/O loop.
  private static let level: Int32 = 4

  /// Nil when zlib fails or the result would not be smaller.
  package static func compress(_ bytes: [UInt8]) -> [UInt8]? {
    let capacity = cnet_gzip_bound(bytes.count)
    let compressed = [UInt8](unsafeUninitializedCapacity: capacity) { output, count in
      count = bytes.withUnsafeBufferPointer { cnet_gzip($0.baseAddress, $0.count, output.baseAddress, capacity, level) }
    }
    return compressed.isEmpty || compressed.count >= bytes.count ? nil : compressed
  }

  /// Nil unless `bytes` is one whole gzip member of at most `maxBytes` (used by tests and tools).
  package static func decompress(_ bytes: [UInt8], maxBytes: Int) -> [UInt8]? {
    var isGood = false
    let expanded = [UInt8](unsafeUninitializedCapacity: maxBytes) { output, count in
      let written = bytes.withUnsafeBufferPointer { cnet_gunzip($0.baseAddress, $0.count, output.baseAddress, maxBytes) }
      isGood = (0...maxBytes).contains(written)
      count = isGood ? written : 0
    }
    return isGood ? expanded : nil
  }

  /// Whether the client takes gzip: named (or `*`) with a weight above zero. A weight that cannot be read counts as zero.
  package static func isAccepted(by acceptEncoding: String?) -> Bool {
    guard let acceptEncoding else { return false }
    var wildcard = false
    for element in acceptEncoding.utf8.split(separator: UInt8(ascii: ",")) {
      let parts = element.split(separator: UInt8(ascii: ";"), omittingEmptySubsequences: false).map { trimmed($0) }
      guard let coding = parts.first else { continue }
      let isWanted = parts.dropFirst().allSatisfy { !$0.hasPrefix("q=") || isPositiveWeight($0.dropFirst(2)) }
      if coding == "gzip" || coding == "x-gzip" { return isWanted }
      if coding == "*" { wildcard = isWanted }
    }
    return wildcard
  }

  private static func trimmed(_ part: Substring.UTF8View.SubSequence) -> String {
    let isSpace = { (byte: UInt8) in byte == 0x20 || byte == 0x09 }
    guard let start = part.firstIndex(where: { !isSpace($0) }), let end = part.lastIndex(where: { !isSpace($0) }) else { return "" }
    return String(decoding: part[start...end].filter { !isSpace($0) }.map(ASCII.lowercased), as: UTF8.self)
  }

  /// qvalue of RFC 9110 section 12.4.2: 0(.0{0,3}) or 0.d or 1.
  private static func isPositiveWeight(_ text: Substring) -> Bool {
    let bytes = Array(text.utf8)
    guard let first = bytes.first, bytes.count <= 5, first == 0x30 || first == 0x31 else { return false }
    if bytes.count > 1, bytes[1] != UInt8(ascii: ".") { return false }
    let digits = bytes.dropFirst(2)
    guard digits.allSatisfy(ASCII.isDigit) else { return false }
    return first == 0x31 || digits.contains { $0 != 0x30 }
  }
}
