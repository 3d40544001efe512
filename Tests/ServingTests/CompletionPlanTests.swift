// What becomes of a request once the model is known: BOS, vocabulary, lengths, choices.

import Testing

@testable import Serving

@Suite("Completion plan")
struct CompletionPlanTests {
  private let model: ServedModel

  init() throws { model = try TinyModel.served() }

  private func plan(_ body: String, maxChoices: Int = 128) throws(APIError) -> CompletionPlan {
    try CompletionPlan(try CompletionRequest.decode(Array(body.utf8)), model: model, maxChoices: maxChoices, cacheSalt: 9)
  }

  @Test("text prompts get exactly one BOS, token prompts are left alone")
  func begin() throws {
    #expect(model.beginToken == 310 && model.stopTokens == [311])
    let plain = try plan(#"{"prompt": "hello"}"#).sequences[0].promptTokens
    #expect(plain.first == 310 && plain.count { $0 == 310 } == 1)
    #expect(try plan(#"{"prompt": "<｜begin▁of▁sentence｜>hello"}"#).sequences[0].promptTokens == plain)
    #expect(try plan(#"{"prompt": "hello", "add_special_tokens": false}"#).sequences[0].promptTokens == Array(plain.dropFirst()))
    #expect(try plan(#"{"prompt": [5, 6]}"#).sequences[0].promptTokens == [5, 6])
    #expect(try plan(#"{"prompt": ""}"#).sequences[0].promptTokens == [310])
    let error = #expect(throws: APIError.self) { try plan(#"{"prompt": "", "add_special_tokens": false}"#) }
    #expect(error?.param == "prompt")
  }

  @Test("choices: order, seeds, stop tokens, salt")
  func choices() throws {
    let made = try plan(#"{"prompt": [[5], [6, 7]], "n": 3, "seed": 100, "max_tokens": 4, "stop_token_ids": [8], "logprobs": 2}"#)
    #expect(made.sequences.map(\.promptTokens) == [[5], [5], [5], [6, 7], [6, 7], [6, 7]])
    #expect(made.sequences.map(\.sampling.seed) == [100, 101, 102, 100, 101, 102])
    #expect(
      made.sequences.allSatisfy { $0.stopTokens == [311, 8] && $0.cacheSalt == 9 && $0.maxNewTokens == 4 && $0.logProbabilityCount == 2 })
    #expect(made.promptTokenCount == 3)
    #expect(try plan(#"{"prompt": [5], "ignore_eos": true, "stop_token_ids": [8]}"#).sequences[0].stopTokens == [8])
    let error = #expect(throws: APIError.self) { try plan(#"{"prompt": [[5], [6]], "n": 3}"#, maxChoices: 5) }
    #expect(error?.param == "n")
  }

  @Test("lengths: the default is cut to what fits, a wish is not")
  func lengths() throws {
    let long = Array(repeating: "5", count: 1020).joined(separator: ",")
    #expect(try plan("{\"prompt\": [\(long)]}").sequences[0].maxNewTokens == 4)
    #expect(try plan("{\"prompt\": [\(long)], \"max_tokens\": 4}").sequences[0].maxNewTokens == 4)
    for body in [
      "{\"prompt\": [\(long)], \"max_tokens\": 5}", "{\"prompt\": [\(long),5,5,5,5]}", "{\"prompt\": [5], \"max_tokens\": 2147483647}",
    ] {
      let error = #expect(throws: APIError.self) { try plan(body) }
      #expect(error?.status == 400 && error?.code == "context_length_exceeded")
    }
  }

  @Test("what the vocabulary and the model's name refuse")
  func refusals() throws {
    for body in [#"{"prompt": [-1]}"#, #"{"prompt": [320]}"#, #"{"prompt": [5, 9223372036854775807]}"#, #"{"prompt": [[5], [320]]}"#] {
      let error = #expect(throws: APIError.self) { try plan(body) }
      #expect(error?.status == 400 && error?.param == "prompt")
    }
    let stop = #expect(throws: APIError.self) { try plan(#"{"prompt": [5], "stop_token_ids": [999]}"#) }
    #expect(stop?.param == "stop_token_ids")
    let unknown = #expect(throws: APIError.self) { try plan(#"{"prompt": [5], "model": "gpt"}"#) }
    #expect(unknown?.status == 404 && unknown?.code == "model_not_found")
    #expect(try plan(#"{"prompt": [319], "model": "tiny"}"#).choiceCount == 1)
  }

  @Test("echo repeats the prompt as text")
  func echo() throws {
    #expect(try plan(#"{"prompt": ["a", "é"], "echo": true}"#).echoes == [Array("a".utf8), Array("é".utf8)])
    let ids = model.tokenizer.encode("hello")
    #expect(try plan("{\"prompt\": \(ids), \"echo\": true}").echoes == [Array("hello".utf8)])
    #expect(try plan(#"{"prompt": "a"}"#).echoes.isEmpty)
  }
}
