// Builds a tokenizer from the metadata of a GGUF file (SPEC 4.4): tokens, their types and merges of `tokenizer.ggml.model` "gpt2".
// It knows nothing of the container; its reader hands over plain arrays.

/// `tokenizer.ggml.token_type` (llama.cpp's `llama_token_type`).
private enum GGUFTokenType: Int32 {
  case normal = 1, unknown, control, userDefined, unused, byte
}

extension Tokenizer {
  /// - Parameters:
  ///   - ggufModel: `tokenizer.ggml.model`.
  ///   - pre: `tokenizer.ggml.pre`.
  ///   - tokens: UTF-8; of type normal written in the byte alphabet, of control and user-defined as they are.
  ///   - types: one for each token, or none at all (then every token is normal).
  ///   - merges: "left right", in order of rank.
  package init(ggufModel: String, pre: String?, tokens: [[UInt8]], types: [Int32], merges: [[UInt8]]) throws(TokenizerError) {
    guard ggufModel.utf8.elementsEqual("gpt2".utf8) else {
      throw .unsupported("tokenizer.ggml.model '\(ggufModel)' (known: gpt2, that is byte-level BPE)")
    }
    let preTokenizer = try PreTokenizer(ggufName: pre)
    guard types.isEmpty || types.count == tokens.count else {
      throw .invalid("tokenizer.ggml.token_type has \(types.count) entries, tokenizer.ggml.tokens \(tokens.count)")
    }
    guard tokens.count <= TokenizerLimits.vocabularySize else {
      throw .invalid("\(tokens.count) tokens (limit \(TokenizerLimits.vocabularySize))")
    }
    var entries = EntryTable()
    var added: [AddedToken] = []
    var isLiteral = [Bool](repeating: false, count: tokens.count)
    var isUnusable = [Bool](repeating: false, count: tokens.count)
    for (id, token) in tokens.enumerated() {
      guard UTF8Repair.firstInvalidOffset(in: token) == nil else { throw .invalid("token \(id) is not UTF-8") }
      try entries.insert(token[...], id: id)
      let type = types.isEmpty ? GGUFTokenType.normal : GGUFTokenType(rawValue: types[id])
      // Old files call their padding rows user-defined; matched in text they would give ids that no model knows.
      let isPadding = token.elementsEqual("[PAD\(id)]".utf8)
      switch type {
      case _ where isPadding, .unused, .unknown:
        isLiteral[id] = true
        isUnusable[id] = true
      case .control, .userDefined:
        guard !token.isEmpty else {
          isUnusable[id] = true
          continue
        }
        added.append(AddedToken(id: id, content: token, isSpecial: type == .control, isMatchedFirst: true))
      case .normal, .byte: break
      case nil: throw .invalid("token \(id) has type \(types[id]), known are 1 to 6")
      }
    }
    var builder = MergeBuilder()
    for merge in merges { try builder.append(merge[...], entries) }
    let vocabulary = Vocabulary(entries, added: added, isLiteral: { isLiteral[$0] }, isUnusable: { isUnusable[$0] })
    try self.init(vocabulary: vocabulary, preTokenizer: preTokenizer, encoder: builder.build(entries), matchable: added)
  }
}
