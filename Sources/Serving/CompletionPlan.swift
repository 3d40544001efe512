// From a decoded request and the loaded model to the sequences the engine shall run: tokenisation, vocabulary and length checks.
// Runs on the prepare queue. Knows no sockets.

import Engine

/// A completion request, ready to be submitted.
package struct CompletionPlan: Sendable {
  package let model: ServedModel
  package let request: CompletionRequest
  /// One per prompt and choice; the choices of one prompt lie together.
  package let sequences: [GenerationRequest]
  /// Per prompt: what `echo` repeats. Empty without it.
  package let echoes: [[UInt8]]
  package let promptTokenCount: Int

  package var choiceCount: Int { sequences.count }

  /// - Parameters:
  ///   - maxChoices: prompts times n.
  ///   - cacheSalt: of the client's API key.
  package init(
    _ request: CompletionRequest, model: ServedModel, maxChoices: Int, cacheSalt: UInt64
  ) throws(APIError) {
    if let name = request.model, !name.isEmpty, !name.utf8.elementsEqual(model.name.utf8) { throw .modelNotFound(name) }
    let (choiceCount, overflow) = request.prompt.count.multipliedReportingOverflow(by: request.choicesPerPrompt)
    guard !overflow, choiceCount <= maxChoices else {
      throw .invalid("n", "This server generates at most \(maxChoices) choices per request (prompts times `n`).")
    }
    let prompts = try Self.tokens(request, model)
    let stopTokens = try Self.stopTokens(request.sampling, model)
    var sequences: [GenerationRequest] = []
    for prompt in prompts {
      let maxTokens = try Self.maxTokens(request, promptCount: prompt.count, limit: model.maxContextTokens)
      for choice in 0..<request.choicesPerPrompt {
        sequences.append(
          GenerationRequest(
            promptTokens: prompt, maxNewTokens: maxTokens, sampling: request.sampling.parameters(choice: choice), stopTokens: stopTokens,
            minNewTokens: min(request.sampling.minTokens, maxTokens), logProbabilityCount: request.logProbabilities,
            priority: request.sampling.priority, cacheSalt: cacheSalt))
      }
    }
    self.model = model
    self.request = request
    self.sequences = sequences
    promptTokenCount = prompts.reduce(0) { $0 + $1.count }
    echoes = request.echo ? Self.echoes(request, prompts, model) : []
  }

  private static func tokens(_ request: CompletionRequest, _ model: ServedModel) throws(APIError) -> [[Int32]] {
    var prompts: [[Int32]] = []
    switch request.prompt {
    case .texts(let texts):
      for text in texts { prompts.append(model.promptTokens(text, addSpecialTokens: request.addSpecialTokens)) }
    case .tokens(let lists):
      for list in lists { prompts.append(try checked(list, "prompt", model)) }
    }
    guard !prompts.contains(where: \.isEmpty) else { throw .invalid("prompt", "`prompt` must hold at least one token.") }
    return prompts
  }

  private static func checked(_ ids: [Int], _ name: String, _ model: ServedModel) throws(APIError) -> [Int32] {
    var tokens: [Int32] = []
    tokens.reserveCapacity(ids.count)
    for id in ids {
      guard id >= 0, id < model.vocabularySize, let token = Int32(exactly: id) else {
        throw .invalid(name, "`\(name)` holds token id \(id); this model's ids go from 0 to \(model.vocabularySize - 1).")
      }
      tokens.append(token)
    }
    return tokens
  }

  private static func stopTokens(_ sampling: SamplingFields, _ model: ServedModel) throws(APIError) -> [Int32] {
    let own = try checked(sampling.stopTokens, "stop_token_ids", model)
    return sampling.ignoreEndOfSequence ? own : model.stopTokens + own
  }

  /// What was asked for, if it fits; the default is cut to what fits.
  private static func maxTokens(_ request: CompletionRequest, promptCount: Int, limit: Int) throws(APIError) -> Int {
    guard promptCount < limit else { throw .contextLengthExceeded(tokens: promptCount + 1, limit: limit) }
    let room = limit - promptCount
    guard let wanted = request.maxTokens else { return min(CompletionRequest.defaultMaxTokens, room) }
    guard wanted <= room else {
      let (sum, overflow) = promptCount.addingReportingOverflow(wanted)
      throw .contextLengthExceeded(tokens: overflow ? .max : sum, limit: limit, param: "max_tokens")
    }
    return wanted
  }

  private static func echoes(_ request: CompletionRequest, _ prompts: [[Int32]], _ model: ServedModel) -> [[UInt8]] {
    switch request.prompt {
    case .texts(let texts): texts.map { Array($0.utf8) }
    case .tokens: prompts.map { Array(model.tokenizer.decode($0, skipSpecial: request.sampling.skipSpecialTokens).utf8) }
    }
  }
}
