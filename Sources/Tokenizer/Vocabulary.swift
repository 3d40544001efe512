// What each token id stands for: its bytes, and whether it is special or usable. Read-only after the load.
// It knows nothing of files, merges and matching.

struct AddedToken {
  let id: Int
  /// Its text, UTF-8; never empty.
  let content: [UInt8]
  /// A control token: skipped in output text.
  let isSpecial: Bool
  /// Looked for in the whole text before those that are not (`normalized: false` in tokenizer.json).
  let isMatchedFirst: Bool
}

struct Vocabulary: Sendable {
  private static let present: UInt8 = 1
  private static let special: UInt8 = 2
  private static let unusable: UInt8 = 4

  /// The bytes of all tokens, one after the other, and where each starts. [size + 1]
  private let storage: [UInt8]
  private let offsets: [Int]
  private let flags: [UInt8]

  /// Ids are 0 ..< this, holes included.
  var size: Int { flags.count }

  /// - Parameters:
  ///   - isLiteral: entries that stand for their own text, not for bytes of the alphabet.
  ///   - isUnusable: ids that must never be sampled although they have an entry.
  init(_ entries: EntryTable, added: [AddedToken], isLiteral: (Int) -> Bool, isUnusable: (Int) -> Bool) {
    let size = max(entries.size, (added.map(\.id).max() ?? -1) + 1)
    var addedIndex = [Int32](repeating: -1, count: size)
    for (index, token) in added.enumerated() { addedIndex[token.id] = Int32(truncatingIfNeeded: index) }
    var storage: [UInt8] = []
    var offsets = [0]
    var flags: [UInt8] = []
    offsets.reserveCapacity(size + 1)
    flags.reserveCapacity(size)
    for id in 0..<size {
      var flag: UInt8 = 0
      if addedIndex[id] >= 0 {
        let token = added[Int(addedIndex[id])]
        storage.append(contentsOf: token.content)
        flag = Self.present | (token.isSpecial ? Self.special : 0)
        if isUnusable(id) || Self.isPlaceHolder(token.content) { flag |= Self.unusable }
      } else if let entry = entries.entry(id) {
        // An entry that is not written in the alphabet stands for itself, as in the `tokenizers` package.
        if isLiteral(id) || !ByteAlphabet.decode(entry, to: &storage) { storage.append(contentsOf: entry) }
        flag = Self.present | (isUnusable(id) ? Self.unusable : 0)
      }
      flags.append(flag)
      offsets.append(storage.count)
    }
    self.storage = storage
    self.offsets = offsets
    self.flags = flags
  }

  /// Empty for an id that is not in the vocabulary.
  func bytes(of id: Int32) -> ArraySlice<UInt8> {
    guard id >= 0, Int(id) < size else { return [] }
    return storage[offsets[Int(id)]..<offsets[Int(id) + 1]]
  }

  func isSpecial(_ id: Int32) -> Bool { has(id, Self.special) }

  func isUsable(_ id: Int32) -> Bool { has(id, Self.present) && !has(id, Self.unusable) }

  private func has(_ id: Int32, _ flag: UInt8) -> Bool { id >= 0 && Int(id) < size && flags[Int(id)] & flag != 0 }

  /// `<｜place▁holder▁no▁k｜>`: untrained rows of DeepSeek-V3's vocabulary.
  private static func isPlaceHolder(_ content: [UInt8]) -> Bool {
    content.starts(with: "<｜place▁holder▁no▁".utf8) && content.suffix(4).elementsEqual("｜>".utf8)
  }
}
