// A cursor over bytes that come from a file: every read is checked against the end, every error carries the byte offset.
// Knows nothing of formats.

struct ByteReader {
  let path: String
  let bytes: UnsafeRawBufferPointer  // the whole file
  private(set) var offset = 0

  init(_ file: MappedFile) {
    path = file.path
    bytes = file.bytes
  }

  var remaining: Int { bytes.count - offset }

  func malformed(_ reason: String) -> ModelFileError { .malformed(path: path, byteOffset: offset, reason: reason) }

  /// Moves past `count` bytes and returns them.
  mutating func take(_ count: Int, _ what: String) throws(ModelFileError) -> UnsafeRawBufferPointer {
    guard count >= 0, count <= remaining else {
      throw malformed("\(what) needs \(count) bytes, \(remaining) are left (truncated file?)")
    }
    let slice = UnsafeRawBufferPointer(rebasing: bytes[offset..<offset + count])
    offset += count
    return slice
  }

  mutating func integer<T: FixedWidthInteger>(_ type: T.Type, _ what: String) throws(ModelFileError) -> T {
    T(littleEndian: try take(MemoryLayout<T>.size, what).loadUnaligned(as: T.self))
  }

  /// A u64 that counts or measures something in memory: must fit `Int`.
  mutating func count(_ what: String, limit: Int) throws(ModelFileError) -> Int {
    let start = offset
    let raw = try integer(UInt64.self, what)
    guard let value = Int(exactly: raw), value <= limit else {
      throw .malformed(path: path, byteOffset: start, reason: "\(what) is \(raw), the limit here is \(limit)")
    }
    return value
  }

  /// A GGUF string: u64 length and bytes.
  mutating func string(_ what: String, limit: Int) throws(ModelFileError) -> UnsafeRawBufferPointer {
    let length = try count("length of \(what)", limit: min(limit, max(0, remaining - 8)))
    return try take(length, what)
  }
}
