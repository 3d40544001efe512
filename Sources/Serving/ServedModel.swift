// What the request side must know of the loaded model: names, tokenizer, limits, and its rules for the first and last token.
// Immutable, shared by all threads. Knows no weights.

import Tokenizer

package struct ServedModel: Sendable {
  /// In the API and in metrics.
  package let name: String
  package let tokenizer: Tokenizer
  /// Ids of the model; token-id prompts may use all of them.
  package let vocabularySize: Int
  /// Put before text prompts that do not begin with it already; nil: none (SPEC 4.5).
  package let beginToken: Int32?
  /// Sampling one of these ends a sequence (SPEC 4.6).
  package let stopTokens: [Int32]
  /// Prompt and generated tokens of one sequence: the least of the model's, the operator's and the cache's limit.
  package let maxContextTokens: Int
  package let createdUnixSeconds: Int

  package init(
    name: String, tokenizer: Tokenizer, vocabularySize: Int, beginToken: Int32?, stopTokens: [Int32], maxContextTokens: Int,
    createdUnixSeconds: Int = Clock.unixSeconds()
  ) {
    self.name = name
    self.tokenizer = tokenizer
    self.vocabularySize = vocabularySize
    self.beginToken = beginToken
    self.stopTokens = stopTokens
    self.maxContextTokens = maxContextTokens
    self.createdUnixSeconds = createdUnixSeconds
  }

  /// Ids of a text as a raw prompt: exactly one BOS at the front where the model wants one.
  package func promptTokens(_ text: String, addSpecialTokens: Bool = true) -> [Int32] {
    let tokens = tokenizer.encode(text)
    guard addSpecialTokens, let beginToken, tokens.first != beginToken else { return tokens }
    return [beginToken] + tokens
  }

  /// As text that a client can read back: UTF-8 as it is, a token in the middle of a character as OpenAI's `bytes:\xNN`.
  package func display(_ token: Int32, asID: Bool) -> [UInt8] {
    if asID { return Array("token_id:\(token)".utf8) }
    let bytes = tokenizer.bytes(of: token)
    if Self.isUTF8(bytes) { return bytes }
    let digits = Array("0123456789abcdef".utf8)
    return Array("bytes:".utf8) + bytes.flatMap { Array("\\x".utf8) + [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }
  }

  private static func isUTF8(_ bytes: [UInt8]) -> Bool {
    String(validating: bytes, as: UTF8.self) != nil
  }
}
