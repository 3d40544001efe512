// What a client gets over HTTP against the goldens of `transformers` (must-hold 2): log-probabilities and greedy tokens.

import FoundationEssentials
import Glibc
import Testing

struct GoldenPrompt: Decodable {
  let ids: [Int]
  let logits_last: [Float]
  let greedy_32: [Int]
  /// Smallest lead of a greedy token over the next; below a thousandth two correct float32 engines may part.
  let min_greedy_margin: Double

  /// Log-softmax over all logits, in double.
  var logProbabilities: [Double] {
    let top = Double(logits_last.max() ?? 0)
    let total = logits_last.reduce(0.0) { $0 + exp(Double($1) - top) }
    return logits_last.map { Double($0) - top - log(total) }
  }
}

struct GoldenFile: Decodable { let prompts: [GoldenPrompt] }
struct QuantisedGoldens: Decodable { let files: [String: GoldenFile] }

struct GoldenCase: CustomTestStringConvertible, Sendable {
  let model: String
  let golden: String
  let file: String?
  var testDescription: String { model.split(separator: "/").suffix(2).joined(separator: "/") }

  func prompts() throws -> [GoldenPrompt] {
    let data = try Fixtures.bytes(golden)
    guard let file else { return try JSONDecoder().decode(GoldenFile.self, from: data).prompts }
    return try JSONDecoder().decode(QuantisedGoldens.self, from: data).files[file]?.prompts ?? []
  }

  /// The committed fixtures; and the reference checkpoints, where a workplace has them beside the repository.
  static var all: [GoldenCase] {
    Fixtures.checkpoints.flatMap { checkpoints(in: Fixtures.tiny, [$0]) } + quantised(in: Fixtures.tiny)
  }
  static var reference: [GoldenCase] { checkpoints(in: Fixtures.reference, Fixtures.checkpoints) + quantised(in: Fixtures.reference) }

  private static func checkpoints(in root: String, _ names: [String]) -> [GoldenCase] {
    names.map { GoldenCase(model: "\(root)/\($0)", golden: "\(root)/\($0)/golden.json", file: nil) }.filter { isReadable($0.golden) }
  }

  private static func quantised(in root: String) -> [GoldenCase] {
    let golden = "\(root)/gguf/golden-gguf.json"
    guard let data = try? Fixtures.bytes(golden), let names = try? JSONDecoder().decode(QuantisedGoldens.self, from: data).files.keys
    else { return [] }
    return names.sorted().map { GoldenCase(model: "\(root)/gguf/\($0)", golden: golden, file: $0) }.filter { isReadable($0.model) }
  }

  private static func isReadable(_ path: String) -> Bool { access(path, R_OK) == 0 }
}

@Suite("Goldens over HTTP")
struct GoldenTests {
  @Test("exact mode equals transformers", arguments: GoldenCase.all + GoldenCase.reference)
  func exact(_ golden: GoldenCase) throws {
    for error in try worstErrors(golden, cacheType: "f32", greedy: true) { #expect(error <= 2e-3) }
  }

  /// Rounding the cache rows to bf16 alone moves these random models by up to 0.35 in the reference implementation too (a changed
  /// expert moves v3 by more), so the median prompt is bounded, not the worst one. See README, "What is not as asked".
  @Test("a bf16 cache stays close", arguments: GoldenCase.all)
  func bfloat16Cache(_ golden: GoldenCase) throws {
    let errors = try worstErrors(golden, cacheType: "bf16", greedy: false).sorted()
    #expect(errors[errors.count / 2] <= 0.3, "\(errors)")
  }

  /// Per prompt, the largest difference of the top 20 log-probabilities after the prompt.
  private func worstErrors(_ golden: GoldenCase, cacheType: String, greedy: Bool) throws -> [Double] {
    let server = try ServerProcess.serve([
      "--model", golden.model, "--compute", "exact", "--cache-type", cacheType, "--cache-tokens", "4096",
    ])
    defer { server.kill() }
    let prompts = try golden.prompts()
    try #require(!prompts.isEmpty)
    return try prompts.map { prompt in
      let body = """
        {"prompt": \(prompt.ids), "max_tokens": 32, "temperature": 0, "logprobs": 20, "ignore_eos": true,
         "return_tokens_as_token_ids": true}
        """
      let answer = try Client(port: server.port).post("/v1/completions", body)
      try #require(answer.status == 200, "\(answer.text)")
      let completion = try answer.json(Completion.self)
      let expected = prompt.logProbabilities
      let first = try #require(completion.choices[0].logprobs?.top_logprobs?[0])
      #expect(first.count >= 20)
      var worst = 0.0
      for (token, value) in first {
        let id = try #require(Int(token.split(separator: ":").last ?? ""))
        worst = max(worst, abs(value - expected[id]))
      }
      if greedy && prompt.min_greedy_margin > 1e-3 { #expect(completion.tokenIDs() == prompt.greedy_32) }
      #expect(completion.usage?.prompt_tokens == prompt.ids.count)
      #expect(completion.usage?.completion_tokens == 32)
      return worst
    }
  }
}
