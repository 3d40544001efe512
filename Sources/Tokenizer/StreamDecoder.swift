// Turns a stream of token ids into text, a token at a time. What it gives out is always complete UTF-8; the end of a token in the middle
// of a character is held back until the next one completes it. It knows nothing of stop strings.

package struct StreamDecoder: Sendable {
  private let vocabulary: Vocabulary
  private let skipSpecial: Bool
  private var repair = UTF8Repair()

  /// - Parameter skipSpecial: control tokens give no text.
  package init(_ tokenizer: Tokenizer, skipSpecial: Bool = true) {
    vocabulary = tokenizer.vocabulary
    self.skipSpecial = skipSpecial
  }

  /// The text that is complete with this token; may be empty. All outputs and that of `finish` together are the bytes of all
  /// tokens with each broken sequence replaced by U+FFFD (one for each maximal subpart).
  package mutating func append(_ id: Int32) -> [UInt8] {
    var out: [UInt8] = []
    if skipSpecial, vocabulary.isSpecial(id) { return out }
    repair.append(vocabulary.bytes(of: id), to: &out)
    return out
  }

  /// The end: U+FFFD when a character was left unfinished, else nothing.
  package mutating func finish() -> [UInt8] {
    var out: [UInt8] = []
    repair.finish(to: &out)
    return out
  }
}
