// Finds out what a strange server serves and which token ids it takes, with short completions.
// Knows no load.

package struct ServerProbe: Equatable, Sendable {
  package let model: String
  package let tokenIDs: Range<Int>

  /// Ids below are often special tokens.
  private static let firstPlainID = 100
  /// Tried in turn where the server does not tell: vocabularies of real models, then of small ones.
  private static let vocabularySizes = [30_000, 8_000, 2_000, 256]
  private static let probeTokens = 2

  /// - Throws: `LoadClientError`, of the last attempt if no id was taken.
  package init(_ url: ServerURL) throws(LoadClientError) {
    let client = CompletionClient(url)
    let listed = try client.firstModel()
    let sizes: [Int] = if let size = listed.vocabularySize, size > 0 { [size] } else { Self.vocabularySizes }
    var failure = LoadClientError.noModel
    for size in sizes {
      do throws(LoadClientError) {
        _ = try client.complete(model: listed.id, prompt: [size - 1, size - 1], maxTokens: Self.probeTokens)
        model = listed.id
        tokenIDs = min(Self.firstPlainID, size - 1)..<size
        return
      } catch {
        // Ids out of range are refused with 400 by vLLM, llama-server and Quire; anything else will not get better.
        guard case .status(400, _) = error else { throw error }
        failure = error
      }
    }
    throw failure
  }
}
