// Decoding of POST /v1/completions: what is good, and that everything bad is a 400 that names the parameter.

import FoundationEssentials
import Testing

@testable import Serving

@Suite("Completion request")
struct CompletionRequestTests {
  private func decode(_ text: String) throws(APIError) -> CompletionRequest { try CompletionRequest.decode(Array(text.utf8)) }

  @Test("defaults are OpenAI's")
  func defaults() throws {
    let request = try decode(#"{"prompt": "hi"}"#)
    #expect(request.prompt == .texts(["hi"]))
    #expect(request.model == nil && request.maxTokens == nil && request.choicesPerPrompt == 1 && request.logProbabilities == nil)
    #expect(!request.echo && !request.stream && !request.includeUsage && request.addSpecialTokens && !request.tokensAsIDs)
    let sampling = request.sampling
    #expect(sampling.temperature == 1 && sampling.topP == 1 && sampling.topK == 0 && sampling.minP == 0 && sampling.seed == nil)
    #expect(sampling.stops.isEmpty && sampling.stopTokens.isEmpty && !sampling.ignoreEndOfSequence && sampling.skipSpecialTokens)
  }

  @Test("every parameter arrives")
  func everything() throws {
    let request = try decode(
      #"""
      {"model": "m", "prompt": ["a", "b"], "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": -1,
       "stop": ["x", "é"], "n": 3, "best_of": 3, "stream": true, "stream_options": {"include_usage": true, "other": 1}, "logprobs": 5,
       "return_tokens_as_token_ids": true, "ignore_eos": true, "add_special_tokens": false, "stop_token_ids": [5, 6], "priority": -2,
       "min_tokens": 2, "user": "me", "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "suffix": "", "skip_special_tokens": false}
      """#)
    #expect(request.model == "m" && request.prompt == .texts(["a", "b"]) && request.maxTokens == 7)
    #expect(request.choicesPerPrompt == 3 && request.stream && request.includeUsage && request.logProbabilities == 5)
    #expect(request.tokensAsIDs && !request.addSpecialTokens)
    let sampling = request.sampling
    #expect(sampling.temperature == 0.5 && sampling.topP == 0.9 && sampling.topK == 40 && sampling.minP == 0.05)
    #expect(sampling.seed == .max && sampling.stops == [Array("x".utf8), Array("é".utf8)] && sampling.stopTokens == [5, 6])
    #expect(sampling.ignoreEndOfSequence && sampling.minTokens == 2 && sampling.priority == -2 && !sampling.skipSpecialTokens)
    #expect(sampling.parameters(choice: 2).seed == 1, "seeds wrap instead of trapping")
  }

  @Test("prompts in all four forms, and nulls count as absent")
  func prompts() throws {
    #expect(try decode(#"{"prompt": ""}"#).prompt == .texts([""]))
    #expect(try decode(#"{"prompt": ["", "x"]}"#).prompt == .texts(["", "x"]))
    #expect(try decode(#"{"prompt": [1, 2, 3]}"#).prompt == .tokens([[1, 2, 3]]))
    #expect(try decode(#"{"prompt": [1.0, 2e2]}"#).prompt == .tokens([[1, 200]]))
    #expect(try decode(#"{"prompt": [[1], [2, 3]]}"#).prompt == .tokens([[1], [2, 3]]))
    #expect(try decode(#"{"prompt": [-1]}"#).prompt == .tokens([[-1]]), "the vocabulary is checked with the model")
    let nulls = #"{"prompt": "x", "max_tokens": null, "stop": null, "logit_bias": null, "stream": null, "n": null, "unknown": {"a": [1]}}"#
    #expect(try decode(nulls).maxTokens == nil)
    #expect(try decode(#"{"prompt": "x", "stop": "end"}"#).sampling.stops == [Array("end".utf8)])
    #expect(try decode(#"{"prompt": "x", "top_k": -1}"#).sampling.topK == 0)
    #expect(try decode(#"{"prompt": "x", "seed": 18446744073709551615}"#).sampling.seed == .max)
  }

  @Test(
    "each bad value names its parameter",
    arguments: [
      ("prompt", "null"), ("prompt", "5"), ("prompt", "{}"), ("prompt", "[]"), ("prompt", "[[]]"), ("prompt", "[[1], []]"),
      ("prompt", "[1, \"a\"]"), ("prompt", "[\"a\", 1]"), ("prompt", "[[1], 2]"), ("prompt", "[1.5]"), ("prompt", "[1e30]"),
      ("prompt", "[true]"), ("prompt", "[null]"), ("prompt", "true"), ("prompt", "[[[1]]]"), ("prompt", "[99999999999999999999]"),
      ("prompt", "\"\\ud800\""), ("max_tokens", "0"), ("max_tokens", "-1"), ("max_tokens", "1.5"), ("max_tokens", "\"5\""),
      ("max_tokens", "99999999999999999999"), ("max_tokens", "1e400"), ("max_tokens", "true"), ("temperature", "-0.1"),
      ("temperature", "2.1"), ("temperature", "1e400"), ("temperature", "\"1\""), ("temperature", "NaN"), ("top_p", "0"), ("top_p", "1.1"),
      ("top_k", "-2"), ("top_k", "1.5"), ("min_p", "-1"), ("min_p", "2"), ("seed", "1.5"), ("seed", "\"a\""), ("seed", "1e30"),
      ("stop", "5"),
      ("stop", "[5]"), ("stop", "\"\""), ("stop", "[\"a\",\"\"]"), ("stop", "[\"a\",\"b\",\"c\",\"d\",\"e\"]"), ("n", "0"), ("n", "129"),
      ("n", "-1"), ("best_of", "2"), ("best_of", "x"), ("logprobs", "21"), ("logprobs", "-1"), ("logprobs", "true"), ("stream", "1"),
      ("stream", "\"true\""), ("stream_options", "{}"), ("echo", "\"x\""), ("suffix", "\"x\""), ("suffix", "1"), ("ignore_eos", "0"),
      ("presence_penalty", "0.5"), ("frequency_penalty", "-1"), ("presence_penalty", "\"0\""), ("logit_bias", "{\"5\": 1}"),
      ("logit_bias", "[]"), ("repetition_penalty", "1.1"), ("model", "5"), ("return_tokens_as_token_ids", "5"), ("add_special_tokens", "5"),
      ("stop_token_ids", "5"), ("stop_token_ids", "[\"a\"]"), ("min_tokens", "17"), ("min_tokens", "-1"), ("priority", "1e300"),
      ("use_beam_search", "true"),
    ])
  func badValues(name: String, value: String) {
    let body = name == "prompt" ? "{\"prompt\": \(value)}" : "{\"prompt\": \"p\", \"\(name)\": \(value)}"
    let error = #expect(throws: APIError.self) { try decode(body) }
    #expect(error?.status == 400 && error?.type == "invalid_request_error")
    // Text that is no JSON at all cannot name a parameter.
    #expect(error?.param == name || ["x", "NaN"].contains(value), "\(error?.message ?? "")")
    if error?.param == name { #expect(error?.message.contains("`\(name)`") == true) }
  }

  @Test("combinations that are refused")
  func combinations() {
    let bad = [
      (#"{"prompt": "x", "echo": true, "logprobs": 1}"#, "echo"),
      (#"{"prompt": "x", "stream": true, "stream_options": {"include_usage": 1}}"#, "include_usage"),
      (#"{"prompt": "x", "stream": true, "stream_options": 5}"#, "stream_options"),
      (#"{"prompt": "x", "max_tokens": 3, "min_tokens": 4}"#, "min_tokens"),
      (#"{}"#, "prompt"),
    ]
    for (body, name) in bad {
      let error = #expect(throws: APIError.self) { try decode(body) }
      #expect(error?.status == 400 && error?.param == name)
    }
  }

  @Test("bodies that are no JSON object")
  func notJSON() {
    let deep = String(repeating: "[", count: 100_000)
    for body in [
      "", " ", "[]", "5", "null", "\"x\"", "{", "{\"prompt\": \"x\"", "{'prompt': 'x'}", "prompt=x", "{\"prompt\": \(deep)",
      "{\"a\":\u{0}}",
    ] {
      let error = #expect(throws: APIError.self) { try decode(body) }
      #expect(error?.status == 400 && error?.message.isEmpty == false)
    }
    let error = #expect(throws: APIError.self) { try CompletionRequest.decode([0x7B, 0x22, 0xFF, 0xFE, 0x22, 0x3A, 0x31, 0x7D]) }
    #expect(error?.status == 400)
  }

  @Test("mutated requests never trap: they decode or give a 400")
  func mutations() throws {
    let seed = Array(
      #"{"model":"m","prompt":[[1,2],[3]],"max_tokens":7,"temperature":0.5,"seed":-1,"stop":["x","é"],"n":3,"stream":true,"stream_options":{"include_usage":true},"logit_bias":{"5":1}}"#
        .utf8)
    var random = SeededRandom(11)
    var good = 0
    var bad = 0
    for _ in 0..<4000 {
      var body = seed
      for _ in 0..<Int.random(in: 1...4, using: &random) {
        let place = Int.random(in: 0..<body.count, using: &random)
        switch Int.random(in: 0..<4, using: &random) {
        case 0: body[place] = UInt8.random(in: 0...255, using: &random)
        case 1: body.remove(at: place)
        case 2: body.insert(Array("[]{}\",:0-9e.".utf8).randomElement(using: &random) ?? 0, at: place)
        default: body.insert(contentsOf: body[place...].prefix(8), at: place)
        }
      }
      do throws(APIError) {
        _ = try CompletionRequest.decode(body)
        good += 1
      } catch {
        #expect(error.status == 400)
        bad += 1
      }
    }
    #expect(good > 0 && bad > 0)
  }
}
