// Why a tokenizer could not be built. Every case holds what an operator needs to find the fault in the file.
// It knows no paths: the caller says which file it was.

package enum TokenizerError: Error, Equatable, CustomStringConvertible {
  /// The text is not JSON, or not the JSON that was expected at this byte.
  case json(offset: Int, message: String)
  /// Well-formed, but something this server does not implement; it names the feature.
  case unsupported(String)
  /// The vocabulary, the merges or the added tokens contradict each other or a limit.
  case invalid(String)

  package var description: String {
    switch self {
    case .json(let offset, let message): "tokenizer: byte \(offset): \(message)"
    case .unsupported(let feature): "tokenizer: unsupported: \(feature)"
    case .invalid(let message): "tokenizer: \(message)"
    }
  }
}

/// Sizes that no real tokenizer comes near; beyond them a file is refused before memory is taken for it.
enum TokenizerLimits {
  /// Ids are 0 ..< this.
  static let vocabularySize = 1 << 22
  static let merges = 1 << 22
  /// Bytes of one added token. It bounds the work per byte of text when added tokens are looked for.
  static let addedTokenBytes = 1024
  /// Nested arrays and objects in tokenizer.json.
  static let jsonDepth = 64
}
