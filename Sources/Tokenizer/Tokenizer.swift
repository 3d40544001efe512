// Text to token ids and back: added tokens, pre-tokenizer, byte pair encoding, in the order of SPEC 4.1. Ids equal those of the Python
// package `tokenizers`. It knows no files; TokenizerJSON and TokenizerGGUF build it from their contents.

package struct Tokenizer: Sendable {
  let vocabulary: Vocabulary
  private let preTokenizer: PreTokenizer
  private let encoder: BytePairEncoder
  /// Added tokens that are looked for in the whole text, and those looked for in what the first leave.
  private let firstAdded: AddedTokenTrie
  private let laterAdded: AddedTokenTrie

  init(vocabulary: Vocabulary, preTokenizer: PreTokenizer, encoder: BytePairEncoder, matchable: [AddedToken]) throws(TokenizerError) {
    self.vocabulary = vocabulary
    self.preTokenizer = preTokenizer
    self.encoder = encoder
    var first = AddedTokenTrie()
    var later = AddedTokenTrie()
    for token in matchable {
      guard token.content.count <= TokenizerLimits.addedTokenBytes else {
        throw .invalid("added token \(token.id) is longer than \(TokenizerLimits.addedTokenBytes) bytes")
      }
      let id = Int32(truncatingIfNeeded: token.id)
      if token.isMatchedFirst { first.insert(token.content, id: id) } else { later.insert(token.content, id: id) }
    }
    firstAdded = first
    laterAdded = later
  }

  /// Ids are in 0 ..< this; there may be holes.
  package var vocabularySize: Int { vocabulary.size }

  /// The name of the pre-tokenizer, as GGUF's `tokenizer.ggml.pre` has it.
  package var preTokenizerName: String { preTokenizer.scheme.rawValue }

  // MARK: text to ids

  /// Token ids of a text; no BOS is added (SPEC 4.5). Time is O(n log n) for one piece, linear over pieces.
  ///
  /// - Parameters:
  ///   - text: UTF-8; broken sequences count as U+FFFD.
  ///   - matchAddedTokens: false encodes the text of added tokens (`<｜User｜>`) like any other text: for content from users.
  package func encode(_ text: [UInt8], matchAddedTokens: Bool = true) -> [Int32] {
    var operationCount = 0
    return encode(text, matchAddedTokens: matchAddedTokens, operationCount: &operationCount)
  }

  package func encode(_ text: String, matchAddedTokens: Bool = true) -> [Int32] {
    encode(Array(text.utf8), matchAddedTokens: matchAddedTokens)
  }

  /// As `encode`; adds to `operationCount` how many merges were looked at.
  func encode(_ text: [UInt8], matchAddedTokens: Bool, operationCount: inout Int) -> [Int32] {
    let text = UTF8Repair.repaired(text)
    var ids: [Int32] = []
    ids.reserveCapacity(text.count / 3)
    var pieces = PreTokenizer.Scratch()
    var merging = BytePairEncoder.Scratch()
    let plain = { (part: ArraySlice<UInt8>) in
      preTokenizer.forEachPiece(of: part, &pieces) { encoder.encode($0, &merging, into: &ids) }
    }
    if matchAddedTokens {
      let token = { (id: Int32) in ids.append(id) }
      firstAdded.forEachPart(of: text[...], text: { laterAdded.forEachPart(of: $0, text: plain, token: token) }, token: token)
    } else if !text.isEmpty {
      plain(text[...])
    }
    operationCount += merging.operationCount
    return ids
  }

  // MARK: ids to text

  /// The bytes a token stands for, not always whole characters; of an added token its text. Empty for unknown ids.
  package func bytes(of id: Int32) -> [UInt8] { Array(vocabulary.bytes(of: id)) }

  /// Control tokens: skipped in output text.
  package func isSpecial(_ id: Int32) -> Bool { vocabulary.isSpecial(id) }

  /// False for ids that must never be sampled: holes, padding (`[PADn]`), place holders, and everything outside the vocabulary.
  package func isUsable(_ id: Int32) -> Bool { vocabulary.isUsable(id) }

  /// The id of the added token with exactly this text.
  package func id(ofAddedToken text: String) -> Int32? {
    firstAdded.id(of: Array(text.utf8)) ?? laterAdded.id(of: Array(text.utf8))
  }

  /// The text of `ids`; bytes that are no UTF-8 become U+FFFD, one for each maximal subpart.
  package func decode(_ ids: [Int32], skipSpecial: Bool = true) -> String {
    var decoder = StreamDecoder(self, skipSpecial: skipSpecial)
    var out: [UInt8] = []
    for id in ids { out += decoder.append(id) }
    out += decoder.finish()
    return String(decoding: out, as: UTF8.self)
  }
}
