// What a model directory or GGUF file says about its tokenizer, as raw material for the Tokenizer module.
// Knows no tokenization.

package enum TokenizerSource: Sendable {
  case json(tokenizerJSON: [UInt8], config: TokenizerConfigValues)
  case gguf(GGUFTokenizer)
  case none
}

/// `tokenizer.ggml.*` (SPEC 4.4).
package struct GGUFTokenizer: Sendable {
  package var model: String
  package var pre: String?
  package var tokens: [[UInt8]]  // as stored
  package var types: [Int32]  // [tokens.count], or empty when the file has none
  package var merges: [[UInt8]]
  package var bos: Int32?
  package var eos: Int32?
  package var eot: Int32?
  package var padding: Int32?
  package var addBos: Bool?
  package var addEos: Bool?

  static let tokenLimit = HyperparameterLimits.vocabulary
  static let mergeLimit = 1 << 23

  /// nil when the file holds no vocabulary.
  init?(_ metadata: GGUFMetadata) throws(ModelFileError) {
    let p = "tokenizer.ggml."
    guard let model = try metadata.string(p + "model"), model != "none" else { return nil }
    guard let tokens = try metadata.stringArray(p + "tokens", limit: GGUFTokenizer.tokenLimit) else { return nil }
    self.model = model
    self.tokens = tokens
    pre = try metadata.string(p + "pre")
    merges = try metadata.stringArray(p + "merges", limit: GGUFTokenizer.mergeLimit) ?? []
    types = []
    if let stored = try metadata.integerArray(p + "token_type", limit: GGUFTokenizer.tokenLimit) {
      guard stored.count == tokens.count else {
        throw .badValue(path: metadata.file.path, key: p + "token_type", reason: "has \(stored.count) elements for \(tokens.count) tokens")
      }
      types = stored.map { Int32(truncatingIfNeeded: $0) }
    }
    func id(_ key: String) throws(ModelFileError) -> Int32? {
      guard let id = try metadata.integer(p + key) else { return nil }
      return id >= 0 && id < tokens.count ? Int32(exactly: id) : nil
    }
    bos = try id("bos_token_id")
    eos = try id("eos_token_id")
    eot = try id("eot_token_id")
    padding = try id("padding_token_id")
    addBos = try metadata.bool(p + "add_bos_token")
    addEos = try metadata.bool(p + "add_eos_token")
  }
}

/// The parts of tokenizer_config.json that matter to serving.
package struct TokenizerConfigValues: Sendable, Equatable {
  package var addBos: Bool?
  package var bosToken: String?
  package var eosToken: String?
  package var chatTemplate: String?

  package init(addBos: Bool? = nil, bosToken: String? = nil, eosToken: String? = nil, chatTemplate: String? = nil) {
    self.addBos = addBos
    self.bosToken = bosToken
    self.eosToken = eosToken
    self.chatTemplate = chatTemplate
  }

  init(_ bytes: [UInt8], path: String) throws(ModelFileError) {
    let config = try JSONObject(try JSONValue(parsing: bytes, path: path), path: path)
    addBos = try config.bool("add_bos_token")
    bosToken = TokenizerConfigValues.tokenText(config["bos_token"])
    eosToken = TokenizerConfigValues.tokenText(config["eos_token"])
    chatTemplate = TokenizerConfigValues.template(config["chat_template"])
  }

  /// A token is written as its text or as an AddedToken object.
  private static func tokenText(_ value: JSONValue?) -> String? {
    value?.stringValue ?? value?.objectValue?["content"]?.stringValue
  }

  /// One template, or a list of named ones of which "default" is for chat.
  private static func template(_ value: JSONValue?) -> String? {
    if let text = value?.stringValue { return text }
    let named = value?.arrayValue?.compactMap(\.objectValue) ?? []
    return (named.first { $0["name"] == .string("default") } ?? named.first)?["template"]?.stringValue
  }
}

/// The added tokens of a tokenizer.json, text to id. They resolve `eos_token` and find `<|EOT|>` (SPEC 4.6).
enum AddedTokens {
  static let fileBytesLimit = 128 << 20
  static let endOfTurn = "<|EOT|>"

  static func ids(inTokenizerJSON bytes: [UInt8], path: String) throws(ModelFileError) -> [String: Int] {
    var ids: [String: Int] = [:]
    var reader = JSONReader(bytes, path: path)
    try reader.object { (reader, key) throws(ModelFileError) in
      guard key == "added_tokens" else { return try reader.skip() }
      guard case .array(let tokens) = try reader.value() else { return }
      for token in tokens.compactMap(\.objectValue) {
        if let text = token["content"]?.stringValue, let id = token["id"]?.integerValue { ids[text] = id }
      }
    }
    try reader.finish()
    return ids
  }
}
