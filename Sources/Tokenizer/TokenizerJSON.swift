// Builds a tokenizer from the bytes of a Hugging Face tokenizer.json (byte-level BPE; format: the `tokenizers` package). Small parts are
// read into values, vocabulary and merges are streamed. What the file asks for and is not implemented is refused by name.
// It knows no paths and no other file.

extension Tokenizer {
  /// - Parameter tokenizerJSON: the whole file.
  package init(tokenizerJSON: [UInt8]) throws(TokenizerError) {
    var parts = TokenizerJSONParts()
    var reader = try JSONReader(tokenizerJSON)
    try parts.readTopLevel(&reader)
    let entries = try parts.readVocabulary(&reader)
    let merges = try parts.readMerges(&reader, entries)
    try parts.checkModel(alphabetIsComplete: merges.knowsEveryByteOfUTF8)
    try parts.checkNormalizerAndDecoder()
    let preTokenizer = try PreTokenizer(json: parts.top["pre_tokenizer"])
    let added = try parts.addedTokens(entries)
    let vocabulary = Vocabulary(entries, added: added, isLiteral: { _ in false }, isUnusable: { _ in false })
    try self.init(vocabulary: vocabulary, preTokenizer: preTokenizer, encoder: merges, matchable: added)
  }
}

private struct TokenizerJSONParts {
  /// The members of the file that are kept as values, and those of its `model`.
  var top: JSONValue = .null
  var model: JSONValue = .null
  private var vocabularyPosition: Int?
  private var mergesPosition: Int?

  mutating func readTopLevel(_ reader: inout JSONReader) throws(TokenizerError) {
    var parts = self
    var members: [(key: [UInt8], value: JSONValue)] = []
    var seen: Set<[UInt8]> = []
    let wanted = ["added_tokens", "normalizer", "pre_tokenizer", "decoder"].map { Array($0.utf8) }
    try reader.object { (reader, key) throws(TokenizerError) in
      guard seen.insert(key).inserted else { throw reader.failure("repeated key \(EntryTable.quoted(key))") }
      if key.elementsEqual("model".utf8) {
        try parts.readModel(&reader)
      } else if wanted.contains(key) {
        members.append((key, try reader.value()))
      } else {
        try reader.skipValue()
      }
    }
    try reader.expectEnd()
    parts.top = .object(members)
    self = parts
  }

  private mutating func readModel(_ reader: inout JSONReader) throws(TokenizerError) {
    var parts = self
    var members: [(key: [UInt8], value: JSONValue)] = []
    var seen: Set<[UInt8]> = []
    try reader.object { (reader, key) throws(TokenizerError) in
      guard seen.insert(key).inserted else { throw reader.failure("repeated key \(EntryTable.quoted(key))") }
      // Merges name vocabulary entries, and either may come first: remember where they are.
      if key.elementsEqual("vocab".utf8) {
        parts.vocabularyPosition = reader.position
        try reader.skipValue()
      } else if key.elementsEqual("merges".utf8) {
        parts.mergesPosition = reader.position
        try reader.skipValue()
      } else {
        members.append((key, try reader.value()))
      }
    }
    parts.model = .object(members)
    self = parts
  }

  func readVocabulary(_ reader: inout JSONReader) throws(TokenizerError) -> EntryTable {
    if let type = model["type"], !type.isText("BPE") { throw .unsupported("model type '\(model.typeName)' (known: BPE)") }
    guard let vocabularyPosition else { throw .invalid("tokenizer.json has no model.vocab") }
    var entries = EntryTable()
    reader.position = vocabularyPosition
    try reader.object { (reader, key) throws(TokenizerError) in
      try entries.insert(key[...], id: try reader.integer())
    }
    return entries
  }

  /// Each merge is "left right" (older files) or ["left", "right"].
  func readMerges(_ reader: inout JSONReader, _ entries: EntryTable) throws(TokenizerError) -> BytePairEncoder {
    guard let mergesPosition else { throw .invalid("tokenizer.json has no model.merges") }
    var builder = MergeBuilder()
    var joined: [UInt8] = []
    reader.position = mergesPosition
    try reader.array { (reader) throws(TokenizerError) in
      joined.removeAll(keepingCapacity: true)
      if try reader.peek() == UInt8(ascii: "\"") {
        try reader.string(appendingTo: &joined)
        // The package skips lines that look like the header of a merges.txt.
        if !joined.starts(with: "#version".utf8) { try builder.append(joined[...], entries) }
        return
      }
      var ends: [Int] = []
      try reader.array { (reader) throws(TokenizerError) in
        try reader.string(appendingTo: &joined)
        ends.append(joined.count)
        if ends.count > 2 { throw reader.failure("a merge of more than two tokens") }
      }
      guard ends.count == 2 else { throw reader.failure("a merge of less than two tokens") }
      try builder.append(left: joined[..<ends[0]], right: joined[ends[0]...], entries)
    }
    return builder.build(entries)
  }

  func checkModel(alphabetIsComplete: Bool) throws(TokenizerError) {
    if let dropout = model["dropout"], dropout != .number(0) { throw .unsupported("BPE dropout") }
    if model["ignore_merges"]?.flag ?? false { throw .unsupported("BPE ignore_merges") }
    for name in ["continuing_subword_prefix", "end_of_word_suffix"] {
      if let affix = model[name], !affix.isText("") { throw .unsupported("BPE \(name)") }
    }
    // With a token for every byte there is nothing unknown and nothing to fall back from.
    guard !alphabetIsComplete else { return }
    if model["unk_token"] != nil { throw .unsupported("BPE unk_token with a vocabulary that lacks single bytes") }
    if model["byte_fallback"]?.flag ?? false { throw .unsupported("BPE byte_fallback with a vocabulary that lacks single bytes") }
  }

  func checkNormalizerAndDecoder() throws(TokenizerError) {
    if let normalizer = top["normalizer"], !(normalizer.isType("Sequence") && normalizer["normalizers"]?.elements?.isEmpty ?? false) {
      throw .unsupported("normalizer '\(normalizer.typeName)'")
    }
    if let decoder = top["decoder"], !decoder.isType("ByteLevel") { throw .unsupported("decoder '\(decoder.typeName)' (known: ByteLevel)") }
  }

  func addedTokens(_ entries: EntryTable) throws(TokenizerError) -> [AddedToken] {
    guard let list = top["added_tokens"] else { return [] }
    guard let elements = list.elements else { throw .invalid("added_tokens is no list") }
    var tokens: [AddedToken] = []
    var idOf: [[UInt8]: Int] = [:]
    var contentOf: [Int: [UInt8]] = [:]
    for element in elements {
      guard let content = element["content"]?.text, let id = element["id"]?.integer else {
        throw .invalid("an added token without content or id")
      }
      if content.isEmpty { continue }  // as the package does
      guard (0..<TokenizerLimits.vocabularySize).contains(id) else {
        throw .invalid("id \(id) of added token \(EntryTable.quoted(content)) is not in 0 ..< \(TokenizerLimits.vocabularySize)")
      }
      for name in ["single_word", "lstrip", "rstrip"] where element[name]?.flag ?? false {
        throw .unsupported("\(name) of added token \(EntryTable.quoted(content))")
      }
      if let known = idOf[content] ?? entries.id(of: content).map(Int.init), known != id {
        throw .invalid("added token \(EntryTable.quoted(content)) has ids \(known) and \(id)")
      }
      if let other = contentOf[id] ?? entries.entry(id).map(Array.init), other != content {
        throw .invalid("id \(id) is given to \(EntryTable.quoted(other)) and to added token \(EntryTable.quoted(content))")
      }
      if idOf.updateValue(id, forKey: content) != nil { continue }
      contentOf[id] = content
      let isSpecial = element["special"]?.flag ?? false
      let isNormalized = element["normalized"]?.flag ?? !isSpecial
      tokens.append(AddedToken(id: id, content: content, isSpecial: isSpecial, isMatchedFirst: !isNormalized))
    }
    return tokens
  }
}
