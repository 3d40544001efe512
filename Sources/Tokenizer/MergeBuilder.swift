// Collects merges, given as the texts of two vocabulary entries, into a byte pair encoder. Kept only for the load.
// It knows neither JSON nor GGUF.

struct MergeBuilder {
  private var merges: [(left: Int32, right: Int32, merged: Int32)] = []
  private var key: [UInt8] = []

  /// - Parameter line: "left right".
  mutating func append(_ line: ArraySlice<UInt8>, _ entries: EntryTable) throws(TokenizerError) {
    guard let space = line.firstIndex(of: 0x20), !line[(space + 1)...].contains(0x20) else {
      throw .invalid("merge \(merges.count) is not two tokens: \(EntryTable.quoted(line))")
    }
    try append(left: line[..<space], right: line[(space + 1)...], entries)
  }

  /// Both tokens and what they merge to must be in the vocabulary, as the `tokenizers` package demands.
  mutating func append(left: ArraySlice<UInt8>, right: ArraySlice<UInt8>, _ entries: EntryTable) throws(TokenizerError) {
    guard merges.count < TokenizerLimits.merges else { throw .invalid("more than \(TokenizerLimits.merges) merges") }
    key.removeAll(keepingCapacity: true)
    key.append(contentsOf: left)
    key.append(contentsOf: right)
    guard let leftID = entries.id(of: left), let rightID = entries.id(of: right), let merged = entries.id(of: key) else {
      throw .invalid("merge \(merges.count) of \(EntryTable.quoted(left)) and \(EntryTable.quoted(right)) is not in the vocabulary")
    }
    merges.append((leftID, rightID, merged))
  }

  func build(_ entries: EntryTable) -> BytePairEncoder {
    var byteTokens = [Int32](repeating: -1, count: 256)
    for byte in UInt8.min...UInt8.max { byteTokens[Int(byte)] = entries.id(of: ByteAlphabet.entry(of: byte)) ?? -1 }
    var table = MergeTable(minimumCapacity: merges.count)
    for (rank, merge) in merges.enumerated() {
      table.insert(left: merge.left, right: merge.right, rank: UInt32(truncatingIfNeeded: rank), merged: merge.merged)
    }
    return BytePairEncoder(byteTokens: byteTokens, merges: table)
  }
}
