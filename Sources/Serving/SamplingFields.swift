// The sampling parameters that completions and chat share: names, ranges and defaults as OpenAI and vLLM document them.
// Knows no prompts and no answers.

import Engine

/// How one request wants its tokens chosen and when to stop.
package struct SamplingFields: Sendable, Equatable {
  package static let maxStopStrings = 4
  package static let maxStopStringBytes = 1024
  package static let maxStopTokens = 128

  package var temperature: Double = 1
  package var topP: Double = 1
  package var topK = 0
  package var minP: Double = 0
  package var seed: UInt64?
  package var stops: [[UInt8]] = []
  package var stopTokens: [Int] = []
  package var ignoreEndOfSequence = false
  package var minTokens = 0
  package var skipSpecialTokens = true
  package var priority = 0

  init() {}

  init(_ fields: RequestFields) throws(APIError) {
    temperature = try fields.number("temperature", 0...2) ?? 1
    topP = try fields.number("top_p", 0...1) ?? 1
    guard topP > 0 else { throw .invalid("top_p", "`top_p` must be above 0 and at most 1.") }
    topK = max(try fields.integer("top_k", -1...Int(Int32.max)) ?? 0, 0)
    minP = try fields.number("min_p", 0...1) ?? 0
    seed = try fields.bits("seed")
    ignoreEndOfSequence = try fields.boolean("ignore_eos") ?? false
    minTokens = try fields.integer("min_tokens", 0...Int(Int32.max)) ?? 0
    skipSpecialTokens = try fields.boolean("skip_special_tokens") ?? true
    priority = try fields.integer("priority", Int(Int32.min)...Int(Int32.max)) ?? 0
    stops = try Self.stopStrings(fields)
    stopTokens = try fields.value("stop_token_ids", [Int].self, expected: "an array of token ids") ?? []
    guard stopTokens.count <= Self.maxStopTokens else {
      throw .invalid("stop_token_ids", "`stop_token_ids` may hold at most \(Self.maxStopTokens) ids.")
    }
    try fields.neutralNumber("presence_penalty", neutral: 0)
    try fields.neutralNumber("frequency_penalty", neutral: 0)
    try fields.neutralNumber("repetition_penalty", neutral: 1)
    guard try fields.isEmptyObject("logit_bias") else { throw .unsupported("logit_bias") }
    if try fields.boolean("use_beam_search") ?? false { throw .unsupported("use_beam_search") }
  }

  private static func stopStrings(_ fields: RequestFields) throws(APIError) -> [[UInt8]] {
    guard fields.contains("stop") else { return [] }
    let found: [String]? = fields.first(
      "stop",
      of: [
        { container, key in (try? container.decode(String.self, forKey: key)).map { [$0] } },
        { container, key in try? container.decode([String].self, forKey: key) },
      ])
    guard let found else { throw .invalid("stop", "`stop` must be a string or an array of up to \(maxStopStrings) strings.") }
    guard found.count <= maxStopStrings else { throw .invalid("stop", "`stop` may hold at most \(maxStopStrings) strings.") }
    let stops = found.map { Array($0.utf8) }
    guard stops.allSatisfy({ !$0.isEmpty }) else { throw .invalid("stop", "`stop` must not hold an empty string.") }
    guard stops.allSatisfy({ $0.count <= maxStopStringBytes }) else {
      throw .invalid("stop", "a `stop` string may have at most \(maxStopStringBytes) bytes.")
    }
    return stops
  }

  /// For the engine. Choice `index` of a request gets its own seed, so that choices differ and each can be asked for again.
  package func parameters(choice index: Int) -> SamplingParameters {
    SamplingParameters(
      temperature: Float(temperature), topK: topK, topP: Float(topP), minP: Float(minP),
      seed: seed.map { $0 &+ UInt64(truncatingIfNeeded: index) })
  }
}
