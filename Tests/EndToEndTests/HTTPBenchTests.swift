// `quire bench --http` from the command line to its JSON: a server of its own, a server elsewhere, and refusals.
// Counts decide, never times.

import FoundationEssentials
import Testing

private struct Report: Decodable {
  struct Machine: Decodable {
    let cpu: String
    let threads: Int?
    let kernels: String?
  }
  struct Model: Decodable {
    let name: String
    let compute: String?
    let cacheType: String?
    let url: String?
  }
  struct Latency: Decodable {
    let p50: Double?
    let p90: Double?
    let p99: Double?
    let max: Double?
    var isOrdered: Bool { if let p50, let p90, let p99, let max { 0 <= p50 && p50 <= p90 && p90 <= p99 && p99 <= max } else { false } }
  }
  struct Row: Decodable {
    let concurrency: Int
    let promptTokens: Int
    let generatedTokens: Int
    let requests: Int
    let failures: Int
    let firstError: String?
    let totalOutputTokens: Int
    let totalPromptTokens: Int
    let totalCachedPromptTokens: Int
    let outputTokensPerSecond: Double
    let promptTokensPerSecond: Double
    let timeToFirstTokenMilliseconds: Latency
    let gapMilliseconds: Latency
    let endToEndMilliseconds: Latency
  }
  let machine: Machine
  let model: Model
  let http: [Row]
}

@Suite("bench --http")
struct HTTPBenchTests {
  private let model = "\(Fixtures.tiny)/v2lite-bf16"

  private func expectCounts(_ row: Report.Row, concurrency: Int, requests: Int, prompt: Int, generate: Int) {
    #expect(row.concurrency == concurrency && row.requests == requests && row.promptTokens == prompt && row.generatedTokens == generate)
    #expect(row.failures == 0, "\(row.firstError ?? "")")
    #expect(row.totalOutputTokens == requests * generate && row.totalPromptTokens == requests * prompt)
    #expect(row.totalCachedPromptTokens == 0, "random prompts share nothing")
    #expect(row.outputTokensPerSecond > 0 && row.promptTokensPerSecond > 0)
    #expect(row.timeToFirstTokenMilliseconds.isOrdered && row.gapMilliseconds.isOrdered && row.endToEndMilliseconds.isOrdered)
  }

  @Test("a server of its own, 1 and 2 clients")
  func ownServer() throws {
    let (code, output) = try runToEnd([
      "bench", "--http", "--model", model, "--threads", "1", "--concurrency", "1,2", "--requests", "5", "--prompt", "40", "--generate",
      "12",
      "--json",
    ])
    try #require(code == 0, "\(output)")
    let report = try printedReport(Report.self, in: output)
    #expect(report.machine.threads == 1 && report.machine.kernels != nil && !report.machine.cpu.isEmpty)
    #expect(report.model.compute == "fast" && report.model.url == nil)
    try #require(report.http.count == 2)
    expectCounts(report.http[0], concurrency: 1, requests: 5, prompt: 40, generate: 12)
    expectCounts(report.http[1], concurrency: 2, requests: 5, prompt: 40, generate: 12)
  }

  @Test("a server elsewhere counts the same; its refusals are failures and exit code 1")
  func otherServer() throws {
    let server = try ServerProcess.serve(["--model", model, "--cache-tokens", "1024"])
    defer { server.kill() }
    let url = "http://127.0.0.1:\(server.port)"
    let before = try Metrics(server)["vllm:generation_tokens_total"]
    let (code, output) = try runToEnd([
      "bench", "--http", "--url", url, "--concurrency", "2", "--requests", "4", "--prompt", "20", "--generate", "8", "--json",
    ])
    try #require(code == 0, "\(output)")
    let report = try printedReport(Report.self, in: output)
    #expect(report.model.url == url && report.machine.threads == nil)
    try #require(report.http.count == 1)
    expectCounts(report.http[0], concurrency: 2, requests: 4, prompt: 20, generate: 8)
    // The probe that finds the model's ids generates two more, the warming-up request another two.
    #expect(try Metrics(server)["vllm:generation_tokens_total"] - before == 36)

    let tooLong = try runToEnd([
      "bench", "--http", "--url", url, "--concurrency", "2", "--requests", "3", "--prompt", "2000", "--generate", "8", "--json",
    ])
    #expect(tooLong.code == 1)
    let row = try #require(try printedReport(Report.self, in: tooLong.output).http.first)
    #expect(row.failures == 3 && row.totalOutputTokens == 0 && row.timeToFirstTokenMilliseconds.p50 == nil)
    #expect(row.firstError?.contains("context") == true)
  }

  @Test(
    "what does not go together",
    arguments: [
      (["--url", "http://127.0.0.1:1"], "--url needs --http"),
      (["--concurrency", "2"], "--concurrency needs --http"),
      (["--requests", "2"], "--requests needs --http"),
      (["--http", "--concurrency", "0"], "--concurrency 0"),
      (["--http", "--concurrency", "100000"], "--concurrency 100000"),
      (["--http", "--requests", "3", "--concurrency", "4"], "--requests 3"),
      (["--http", "--requests", "1,2"], "--requests"),
      (["--http", "--prompt", "0"], "--prompt 0"),
      (["--http", "--depth", "512"], "--depth"),
      (["--http", "--stages"], "--stages"),
      (["--http", "--url", "http://127.0.0.1:1", "--threads", "1"], "--threads does not go with --url"),
      (["--http", "--url", "https://127.0.0.1:1"], "https"),
      (["--http", "--url", "http://127.0.0.1:1"], "cannot connect"),
      (["--http", "--model", "/nowhere.gguf"], "/nowhere.gguf"),
    ])
  func refusals(arguments: [String], mention: String) throws {
    let (code, output) = try runToEnd(["bench"] + arguments)
    #expect(code == 2, "\(output)")
    let lines = output.split(separator: "\n").filter { $0.hasPrefix("quire: error:") }
    #expect(lines.count == 1 && lines.joined().contains(mention), "\(output)")
  }

  @Test("a context too small for the load is refused before anything is sent")
  func contextTooSmall() throws {
    let (code, output) = try runToEnd(["bench", "--http", "--model", model, "--cache-tokens", "64", "--prompt", "60", "--generate", "10"])
    #expect(code == 2 && output.contains("exceed the context"), "\(output)")
  }
}
