// UTF-8 a byte at a time: complete sequences come out as they are, a sequence that can no longer complete becomes one U+FFFD
// (one for each maximal subpart, Unicode 16 section 3.9 table 3-8; Python's `errors="replace"` does the same).
// It knows nothing of tokens.

struct UTF8Repair: Sendable {
  /// Bytes of an unfinished sequence, the first in the lowest byte.
  private var pending: UInt32 = 0
  private var pendingCount = 0
  /// Length of the unfinished sequence when it is complete.
  private var length = 0
  /// What the next byte of the unfinished sequence may be.
  private var lower: UInt8 = 0x80
  private var upper: UInt8 = 0xBF

  private static let replacement: [UInt8] = [0xEF, 0xBF, 0xBD]

  mutating func append(_ bytes: some Sequence<UInt8>, to out: inout [UInt8]) {
    for byte in bytes { append(byte, to: &out) }
  }

  mutating func append(_ byte: UInt8, to out: inout [UInt8]) {
    if pendingCount > 0 {
      if byte >= lower, byte <= upper {
        pending |= UInt32(byte) << UInt32(8 * pendingCount)
        pendingCount += 1
        (lower, upper) = (0x80, 0xBF)
        if pendingCount == length { flush(to: &out) }
        return
      }
      out.append(contentsOf: Self.replacement)
      pendingCount = 0
    }
    start(byte, to: &out)
  }

  /// The end of the text: an unfinished sequence becomes U+FFFD.
  mutating func finish(to out: inout [UInt8]) {
    if pendingCount > 0 { out.append(contentsOf: Self.replacement) }
    pendingCount = 0
  }

  private mutating func flush(to out: inout [UInt8]) {
    for index in 0..<pendingCount { out.append(UInt8(truncatingIfNeeded: pending >> UInt32(8 * index))) }
    pendingCount = 0
  }

  private mutating func start(_ byte: UInt8, to out: inout [UInt8]) {
    switch byte {
    case 0x00...0x7F:
      out.append(byte)
      return
    case 0xC2...0xDF: (length, lower, upper) = (2, 0x80, 0xBF)
    case 0xE0: (length, lower, upper) = (3, 0xA0, 0xBF)
    case 0xED: (length, lower, upper) = (3, 0x80, 0x9F)
    case 0xE1...0xEF: (length, lower, upper) = (3, 0x80, 0xBF)
    case 0xF0: (length, lower, upper) = (4, 0x90, 0xBF)
    case 0xF1...0xF3: (length, lower, upper) = (4, 0x80, 0xBF)
    case 0xF4: (length, lower, upper) = (4, 0x80, 0x8F)
    default:
      out.append(contentsOf: Self.replacement)
      return
    }
    pending = UInt32(byte)
    pendingCount = 1
  }

  /// Valid UTF-8 with the content of `bytes`; the same array when nothing has to be replaced.
  static func repaired(_ bytes: [UInt8]) -> [UInt8] {
    guard firstInvalidOffset(in: bytes) != nil else { return bytes }
    var out: [UInt8] = []
    out.reserveCapacity(bytes.count)
    var repair = UTF8Repair()
    repair.append(bytes, to: &out)
    repair.finish(to: &out)
    return out
  }

  /// Offset of the first sequence that is not UTF-8; nil when all is well.
  static func firstInvalidOffset(in bytes: [UInt8]) -> Int? {
    var index = 0
    while index < bytes.count {
      let byte = bytes[index]
      if byte < 0x80 {
        index += 1
        continue
      }
      var probe = UTF8Repair()
      var ignored: [UInt8] = []
      probe.start(byte, to: &ignored)
      guard probe.pendingCount == 1, bytes.count - index >= probe.length else { return index }
      for offset in 1..<probe.length {
        guard bytes[index + offset] >= probe.lower, bytes[index + offset] <= probe.upper else { return index }
        (probe.lower, probe.upper) = (0x80, 0xBF)
      }
      index += probe.length
    }
    return nil
  }
}
