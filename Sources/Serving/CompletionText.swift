// Renders answers of POST /v1/completions: the whole JSON body, or the payload of one server-sent event. The frame is rendered once
// per request; a chunk is frame + escaped text + frame. Knows no engine and no sockets.

/// Token counts of a request.
package struct Usage: Sendable, Equatable {
  package var promptTokens = 0
  package var cachedPromptTokens = 0
  package var completionTokens = 0
}

/// One finished choice of an answer that is no stream.
package struct FinishedChoice: Sendable {
  package var text: [UInt8] = []
  package var logProbabilities: [LogProbabilityEntry] = []
  package var finish: FinishReason?
}

package struct CompletionText: Sendable {
  /// `{"id":...,"model":...,"choices":[`
  private let head: [UInt8]
  private let includesUsage: Bool
  private let wantsLogProbabilities: Bool

  package init(id: String, model: String, createdUnixSeconds: Int, includesUsage: Bool, wantsLogProbabilities: Bool) {
    var text = JSONText()
    text.raw("{\"id\":")
    text.string(id)
    text.raw(",\"object\":\"text_completion\",\"created\":")
    text.integer(createdUnixSeconds)
    text.raw(",\"model\":")
    text.string(model)
    text.raw(",\"system_fingerprint\":null,\"choices\":[")
    head = text.bytes
    self.includesUsage = includesUsage
    self.wantsLogProbabilities = wantsLogProbabilities
  }

  /// The payload of one event: what a token added to one choice.
  package func chunk(choice: Int, text delta: [UInt8], logProbabilities: [LogProbabilityEntry], finish: FinishReason?) -> [UInt8] {
    var text = JSONText(reserving: head.count + delta.count + 96)
    text.raw(head)
    append(choice, delta, logProbabilities, finish, to: &text)
    text.raw("]")
    // OpenAI: with include_usage every chunk has the member, null but in the last.
    if includesUsage { text.raw(",\"usage\":null") }
    text.raw("}")
    return text.bytes
  }

  /// The payload of the event before `[DONE]` if the client asked for usage.
  package func usageChunk(_ usage: Usage) -> [UInt8] {
    var text = JSONText()
    text.raw(head)
    text.raw("],\"usage\":")
    append(usage, to: &text)
    text.raw("}")
    return text.bytes
  }

  /// The whole answer.
  package func body(_ choices: [FinishedChoice], _ usage: Usage) -> [UInt8] {
    var text = JSONText(reserving: head.count + choices.reduce(256) { $0 + $1.text.count + 96 })
    text.raw(head)
    for (index, choice) in choices.enumerated() {
      if index > 0 { text.raw(",") }
      append(index, choice.text, choice.logProbabilities, choice.finish, to: &text)
    }
    text.raw("],\"usage\":")
    append(usage, to: &text)
    text.raw("}")
    return text.bytes
  }

  private func append(
    _ index: Int, _ delta: [UInt8], _ entries: [LogProbabilityEntry], _ finish: FinishReason?, to text: inout JSONText
  ) {
    text.raw("{\"index\":")
    text.integer(index)
    text.raw(",\"text\":")
    text.string(utf8: delta)
    text.raw(",\"logprobs\":")
    if wantsLogProbabilities { append(entries, to: &text) } else { text.raw("null") }
    text.raw(",\"finish_reason\":")
    text.optionalString(finish?.rawValue)
    text.raw("}")
  }

  /// OpenAI's legacy shape: four arrays of equal length.
  private func append(_ entries: [LogProbabilityEntry], to text: inout JSONText) {
    text.raw("{\"tokens\":[")
    list(entries, to: &text) { $1.string(utf8: $0.token) }
    text.raw("],\"token_logprobs\":[")
    list(entries, to: &text) { $1.number($0.logProbability) }
    text.raw("],\"top_logprobs\":[")
    list(entries, to: &text) { appendTop($0, to: &$1) }
    text.raw("],\"text_offset\":[")
    list(entries, to: &text) { $1.integer($0.textOffset) }
    text.raw("]}")
  }

  /// An object by token text. Two tokens may look alike (a special token and its text); the more probable one is kept, as a JSON object
  /// must not repeat a name.
  private func appendTop(_ entry: LogProbabilityEntry, to text: inout JSONText) {
    text.raw("{")
    for (index, candidate) in entry.top.enumerated() {
      guard !entry.top[..<index].contains(where: { $0.token == candidate.token }) else { continue }
      if index > 0 { text.raw(",") }
      text.string(utf8: candidate.token)
      text.raw(":")
      text.number(candidate.logProbability)
    }
    text.raw("}")
  }

  private func list(
    _ entries: [LogProbabilityEntry], to text: inout JSONText, _ body: (LogProbabilityEntry, inout JSONText) -> Void
  ) {
    for (index, entry) in entries.enumerated() {
      if index > 0 { text.raw(",") }
      body(entry, &text)
    }
  }

  private func append(_ usage: Usage, to text: inout JSONText) {
    text.raw("{\"prompt_tokens\":")
    text.integer(usage.promptTokens)
    text.raw(",\"completion_tokens\":")
    text.integer(usage.completionTokens)
    text.raw(",\"total_tokens\":")
    text.integer(usage.promptTokens + usage.completionTokens)
    text.raw(",\"prompt_tokens_details\":{\"cached_tokens\":")
    text.integer(usage.cachedPromptTokens)
    text.raw("}}")
  }
}
