// The body of POST /v1/completions: OpenAI's legacy completions with vLLM's additions. Decodes and checks what can be checked
// without a model; CompletionPlan.swift does the rest. Unknown members are ignored, as OpenAI's server does.

/// A decoded request; every value is in its range.
package struct CompletionRequest: Sendable, Equatable {
  package static let defaultMaxTokens = 16
  package static let maxChoices = 128
  package static let maxLogProbabilities = 20

  package enum Prompt: Sendable, Equatable {
    case texts([String])
    case tokens([[Int]])
    package var count: Int {
      switch self {
      case .texts(let texts): texts.count
      case .tokens(let lists): lists.count
      }
    }
  }

  package var model: String?
  package var prompt: Prompt
  /// nil: not said, so the default is cut to what fits.
  package var maxTokens: Int?
  package var choicesPerPrompt = 1
  package var logProbabilities: Int?
  package var tokensAsIDs = false
  package var echo = false
  package var stream = false
  package var includeUsage = false
  package var addSpecialTokens = true
  package var sampling: SamplingFields

  package static func decode(_ body: [UInt8]) throws(APIError) -> CompletionRequest {
    try RequestBody.decode(Wire.self, from: body).request
  }

  private struct Wire: Decodable {
    let request: CompletionRequest
    init(from decoder: any Decoder) throws { request = try CompletionRequest(RequestFields(decoder)) }
  }

  private init(_ fields: RequestFields) throws(APIError) {
    model = try fields.string("model")
    prompt = try Self.prompt(fields)
    maxTokens = try fields.integer("max_tokens", 1...Int(Int32.max))
    sampling = try SamplingFields(fields)
    choicesPerPrompt = try fields.integer("n", 1...Self.maxChoices) ?? 1
    if let best = try fields.integer("best_of", 1...Self.maxChoices), best != choicesPerPrompt {
      throw .unsupported("best_of", "; only a value equal to `n` is accepted")
    }
    logProbabilities = try fields.integer("logprobs", 0...Self.maxLogProbabilities)
    tokensAsIDs = try fields.boolean("return_tokens_as_token_ids") ?? false
    echo = try fields.boolean("echo") ?? false
    if echo, logProbabilities != nil { throw .unsupported("echo", " together with `logprobs`") }
    if let suffix = try fields.string("suffix"), !suffix.isEmpty { throw .unsupported("suffix") }
    stream = try fields.boolean("stream") ?? false
    if let options = try fields.object("stream_options") {
      guard stream else { throw .invalid("stream_options", "`stream_options` needs `stream` to be true.") }
      includeUsage = try options.boolean("include_usage") ?? false
    }
    addSpecialTokens = try fields.boolean("add_special_tokens") ?? true
    try checkCombinations()
  }

  private func checkCombinations() throws(APIError) {
    if sampling.minTokens > maxTokens ?? Self.defaultMaxTokens {
      throw .invalid("min_tokens", "`min_tokens` must not be above `max_tokens`.")
    }
  }

  private static let promptForms =
    "a string, an array of strings, an array of token ids, or an array of arrays of token ids"

  private static func prompt(_ fields: RequestFields) throws(APIError) -> Prompt {
    guard fields.contains("prompt") else { throw .invalid("prompt", "`prompt` is missing: it must be \(promptForms).") }
    // Each attempt stops at its first mismatch, so the order costs nothing.
    let found: Prompt? = fields.first(
      "prompt",
      of: [
        { container, key in (try? container.decode(String.self, forKey: key)).map { .texts([$0]) } },
        { container, key in (try? container.decode([Int].self, forKey: key)).map { .tokens([$0]) } },
        { container, key in (try? container.decode([String].self, forKey: key)).map { .texts($0) } },
        { container, key in (try? container.decode([[Int]].self, forKey: key)).map { .tokens($0) } },
      ])
    switch found {
    case nil: throw .invalid("prompt", "`prompt` must be \(promptForms).")
    case .tokens(let lists) where lists.isEmpty || lists.contains(where: \.isEmpty):
      throw .invalid("prompt", "`prompt` must hold at least one token.")
    case .texts(let texts) where texts.isEmpty: throw .invalid("prompt", "`prompt` must hold at least one prompt.")
    case .some(let prompt): return prompt
    }
  }
}
