// The same prompt gives the same greedy tokens whatever happens around it (must-hold 4): neighbours, chunk sizes, cache hits,
// preemption. Over HTTP, on every golden variant, with the goldens' own continuation as the expectation in exact mode.

import FoundationEssentials
import Testing

@Suite("One prompt, many circumstances")
struct ContinuityTests {
  /// - Parameter prompts: one prompt or several, as JSON.
  private func complete(_ server: ServerProcess, _ prompts: String, tokens: Int = 32) throws -> Completion {
    let body = """
      {"prompt": \(prompts), "max_tokens": \(tokens), "temperature": 0, "logprobs": 0, "ignore_eos": true, "return_tokens_as_token_ids": true}
      """
    let answer = try Client(port: server.port).post("/v1/completions", body)
    try #require(answer.status == 200, "\(answer.text)")
    return try answer.json(Completion.self)
  }

  private func greedy(_ server: ServerProcess, _ ids: [Int]) throws -> (tokens: [Int], cached: Int) {
    let completion = try complete(server, "\(ids)")
    return (completion.tokenIDs(), completion.usage?.prompt_tokens_details?.cached_tokens ?? 0)
  }

  @Test("prefill in chunks of 1, 7 and 64 tokens, then from the cache", arguments: GoldenCase.all, [1, 7, 64])
  func chunks(_ golden: GoldenCase, chunkTokens: Int) throws {
    let server = try ServerProcess.serve([
      "--model", golden.model, "--compute", "exact", "--cache-type", "f32", "--cache-tokens", "2048", "--block-tokens", "16",
      "--max-batch-tokens", "\(chunkTokens)",
    ])
    defer { server.kill() }
    for prompt in try golden.prompts() {
      #expect(try greedy(server, prompt.ids).tokens == prompt.greedy_32)
      let again = try greedy(server, prompt.ids)
      #expect(again.tokens == prompt.greedy_32, "after a cache hit of \(again.cached) tokens")
      if prompt.ids.count > 16 { #expect(again.cached >= 16 && again.cached % 16 == 0 && again.cached < prompt.ids.count) }
    }
  }

  @Test("in a batch of strangers, and after preemptions", arguments: GoldenCase.all, ["2048", "352"])
  func strangers(_ golden: GoldenCase, cacheTokens: String) throws {
    let server = try ServerProcess.serve([
      "--model", golden.model, "--compute", "exact", "--cache-type", "f32", "--cache-tokens", cacheTokens, "--block-tokens", "16",
      "--max-batch-tokens", "96",
    ])
    defer { server.kill() }
    let strangers = (0..<8).map { n in (0..<20 + 9 * n).map { ($0 * 31 + n * 17) % 250 } }
    for prompt in try golden.prompts() {
      // One request, so that all are in the scheduler before its next step however slow this client is.
      let all: [[Int]] = strangers[..<4] + [prompt.ids] + strangers[4...] + [prompt.ids]
      let completion = try complete(server, "\(all)", tokens: 40)
      try #require(completion.choices.map(\.index) == Array(all.indices))
      for choice in all.indices { #expect(completion.tokenIDs(choice).count == 40) }
      for choice in [4, 9] { #expect(Array(completion.tokenIDs(choice).prefix(32)) == prompt.greedy_32) }
    }
    let metrics = try Metrics(server)
    if cacheTokens == "352" { #expect(metrics["vllm:num_preemptions_total"] > 0, "the pool was not tight enough to test anything") }
    #expect(metrics["vllm:num_requests_running"] == 0)
  }
}

/// The numbers of `/metrics`, labels summed.
struct Metrics {
  private var values: [String: Double] = [:]
  let text: String

  init(_ server: ServerProcess) throws {
    text = try Client(port: server.port).get("/metrics").text
    for line in text.split(separator: "\n") where !line.hasPrefix("#") {
      let fields = line.split(separator: " ")
      guard fields.count >= 2, let value = Double(fields[fields.count - 1]) else { continue }
      let name = fields[0].prefix { $0 != "{" }
      values[String(name), default: 0] += value
    }
  }

  subscript(_ name: String) -> Double { values[name] ?? 0 }
}
