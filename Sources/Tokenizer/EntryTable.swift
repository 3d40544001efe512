// The entries of a vocabulary while it is being built: id -> entry as the file writes it, and back. Kept only for the load.
// It knows neither JSON nor GGUF. Entries are compared as bytes, never as String: "é" and "e\u{301}" are different tokens.

struct EntryTable {
  /// All entries, one after the other.
  private var bytes: [UInt8] = []
  /// Where entry `id` lies in `bytes`; nil: a hole.
  private var ranges: [Range<Int>?] = []
  /// Open addressing, salted by `Hasher`: id, or -1 where free. [a power of two, at most half full]
  private var places = [Int32](repeating: -1, count: 1 << 10)
  private(set) var count = 0

  /// One more than the largest id.
  var size: Int { ranges.count }

  /// The entry as written in the file; nil for a hole.
  func entry(_ id: Int) -> ArraySlice<UInt8>? {
    guard ranges.indices.contains(id), let range = ranges[id] else { return nil }
    return bytes[range]
  }

  func id(of entry: some Collection<UInt8>) -> Int32? {
    let found = places[place(of: ArraySlice(entry))]
    return found < 0 ? nil : found
  }

  mutating func insert(_ entry: ArraySlice<UInt8>, id: Int) throws(TokenizerError) {
    guard (0..<TokenizerLimits.vocabularySize).contains(id) else {
      throw .invalid("id \(id) of \(Self.quoted(entry)) is not in 0 ..< \(TokenizerLimits.vocabularySize)")
    }
    if let other = self.entry(id) { throw .invalid("id \(id) is given twice: \(Self.quoted(other)) and \(Self.quoted(entry))") }
    let place = place(of: entry)
    if places[place] >= 0 { throw .invalid("\(Self.quoted(entry)) is in the vocabulary twice, ids \(places[place]) and \(id)") }
    while ranges.count <= id { ranges.append(nil) }
    ranges[id] = bytes.count..<bytes.count + entry.count
    bytes.append(contentsOf: entry)
    places[place] = Int32(truncatingIfNeeded: id)
    count += 1
    if count * 2 > places.count { grow() }
  }

  /// An entry for an error message.
  static func quoted(_ entry: some Collection<UInt8>) -> String {
    "'\(String(decoding: Array(entry.prefix(60)), as: UTF8.self))'"
  }

  /// Where the entry is, or the free place where it belongs.
  private func place(of entry: ArraySlice<UInt8>) -> Int {
    var hasher = Hasher()
    entry.withUnsafeBytes { hasher.combine(bytes: $0) }
    var index = hasher.finalize() & (places.count - 1)
    while places[index] >= 0, let other = self.entry(Int(places[index])), other != entry { index = (index + 1) & (places.count - 1) }
    return index
  }

  private mutating func grow() {
    let old = places
    places = [Int32](repeating: -1, count: old.count * 2)
    for id in old where id >= 0 {
      if let entry = entry(Int(id)) { places[place(of: entry)] = id }
    }
  }
}
