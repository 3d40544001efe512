// The JSON of whole answers, as a client's decoder sees it.

import FoundationEssentials
import Testing

@testable import Serving

/// The answer of POST /v1/completions, decoded strictly enough to notice a missing member.
struct DecodedCompletion: Decodable {
  struct Choice: Decodable {
    let index: Int
    let text: String
    let finish_reason: String?
    let logprobs: LogProbabilities?
  }
  struct LogProbabilities: Decodable, Equatable {
    let tokens: [String]
    let token_logprobs: [Double]
    let top_logprobs: [[String: Double]]
    let text_offset: [Int]
  }
  struct Usage: Decodable, Equatable {
    struct Details: Decodable, Equatable { let cached_tokens: Int }
    let prompt_tokens: Int
    let completion_tokens: Int
    let total_tokens: Int
    let prompt_tokens_details: Details
  }
  let id: String
  let object: String
  let created: Int
  let model: String
  let choices: [Choice]
  let usage: Usage?
}

@Suite("Completion text")
struct CompletionTextTests {
  private func decode(_ bytes: [UInt8]) throws -> DecodedCompletion { try JSONDecoder().decode(DecodedCompletion.self, from: Data(bytes)) }

  @Test("a whole answer")
  func body() throws {
    let entry = LogProbabilityEntry(
      token: Array("a\"".utf8), logProbability: -0.25,
      top: [(Array("a\"".utf8), -0.25), (Array("é".utf8), -9999), (Array("a\"".utf8), -3)],
      textOffset: 4)
    let answer = CompletionText(id: "cmpl-1", model: "m", createdUnixSeconds: 77, includesUsage: false, wantsLogProbabilities: true)
    let choices = [
      FinishedChoice(text: Array("one\n".utf8), logProbabilities: [entry], finish: .length), FinishedChoice(finish: .stop),
    ]
    let bytes = answer.body(choices, Usage(promptTokens: 5, cachedPromptTokens: 3, completionTokens: 2))
    let decoded = try decode(bytes)
    #expect(decoded.id == "cmpl-1" && decoded.object == "text_completion" && decoded.created == 77 && decoded.model == "m")
    #expect(decoded.choices.map(\.text) == ["one\n", ""] && decoded.choices.map(\.index) == [0, 1])
    #expect(decoded.choices.map(\.finish_reason) == ["length", "stop"])
    let logProbabilities = try #require(decoded.choices[0].logprobs)
    #expect(logProbabilities.tokens == ["a\""] && logProbabilities.token_logprobs == [-0.25] && logProbabilities.text_offset == [4])
    #expect(logProbabilities.top_logprobs == [["a\"": -0.25, "é": -9999]], "a name must not repeat; the more probable one stays")
    #expect(decoded.choices[1].logprobs?.tokens.isEmpty == true)
    let usage = try #require(decoded.usage)
    #expect(usage.prompt_tokens == 5 && usage.completion_tokens == 2 && usage.total_tokens == 7)
    #expect(usage.prompt_tokens_details.cached_tokens == 3)
  }

  @Test("chunks, with and without usage")
  func chunks() throws {
    let plain = CompletionText(id: "i", model: "m", createdUnixSeconds: 1, includesUsage: false, wantsLogProbabilities: false)
    let bytes = plain.chunk(choice: 1, text: [], logProbabilities: [], finish: nil)
    #expect(!String(decoding: bytes, as: UTF8.self).contains("usage"))
    #expect(String(decoding: bytes, as: UTF8.self).contains("\"logprobs\":null,\"finish_reason\":null"))
    #expect(try decode(bytes).choices.first?.finish_reason == nil)
    let counting = CompletionText(id: "i", model: "m", createdUnixSeconds: 1, includesUsage: true, wantsLogProbabilities: false)
    let chunk = counting.chunk(choice: 0, text: [], logProbabilities: [], finish: .stop)
    #expect(String(decoding: chunk, as: UTF8.self).hasSuffix(",\"usage\":null}"))
    let last = try decode(counting.usageChunk(Usage(promptTokens: 1, completionTokens: 2)))
    #expect(last.choices.isEmpty && last.usage?.total_tokens == 3)
  }
}
