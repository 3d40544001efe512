// `quire bench` from the command line to its JSON and its roofline table. Counts decide, never times.

import Testing

private struct Report: Decodable {
  struct Limits: Decodable {
    let bytesPerSecond: Double
    let int8PerSecond: Double
    let int16PerSecond: Double
    let bf16PerSecond: Double
  }
  struct Machine: Decodable {
    let threads: Int
    let limits: Limits
  }
  struct Stage: Decodable {
    let stage: String
    let secondsPerStep: Double
    let share: Double
    let bytesPerStep: Double
    let operationsPerStep: Double
  }
  struct Row: Decodable {
    let kind: String
    let promptTokens: Int
    let generatedTokens: Int
    let depth: Int
    let batch: Int
    let tokensPerSecond: Double
    let secondsPerStep: Double
    let stages: [Stage]
    let shareOfBound: Double
  }
  let machine: Machine
  let results: [Row]
}

@Suite("bench")
struct BenchTests {
  private let model = "\(Fixtures.tiny)/v2lite-bf16"

  @Test("every pair of depth and batch has its rows, with the work of each stage and the share of the bound")
  func rows() throws {
    let (code, output) = try runToEnd([
      "bench", "--model", model, "--threads", "1", "--prompt", "24", "--generate", "5", "--depth", "0,40", "--batch", "1,3",
      "--repeat", "2", "--json",
    ])
    #expect(code == 0, "\(output)")
    let report = try printedReport(Report.self, in: output)
    #expect(report.machine.threads == 1)
    let limits = report.machine.limits
    #expect(min(limits.bytesPerSecond, limits.int8PerSecond, limits.int16PerSecond, limits.bf16PerSecond) > 0)
    let cases = report.results.map { "\($0.kind) \($0.depth) \($0.batch) \($0.promptTokens) \($0.generatedTokens)" }
    #expect(
      cases == [0, 40].flatMap { depth in [1, 3].flatMap { ["prefill \(depth) \($0) 24 0", "decode \(depth) \($0) 24 5"] } })
    for row in report.results { try expect(row, limits) }
  }

  private func expect(_ row: Report.Row, _ limits: Report.Limits) throws {
    let vocabulary = 320.0
    let hidden = 64.0
    let head = try #require(row.stages.first { $0.stage == "head" })
    if row.kind == "decode" {
      // A token of every sequence in every step, and bfloat16 weights read once for all.
      #expect(head.operationsPerStep == 2 * vocabulary * hidden * Double(row.batch))
      #expect(head.bytesPerStep == vocabulary * hidden * 2)
    }
    let bytes = row.stages.reduce(0) { $0 + $1.bytesPerStep }
    let operations = row.stages.reduce(0) { $0 + $1.operationsPerStep }
    let bound = max(bytes / limits.bytesPerSecond, operations / limits.int8PerSecond)
    #expect(abs(row.shareOfBound * row.secondsPerStep / bound - 1) < 1e-6)
    #expect(row.shareOfBound > 0 && row.shareOfBound < 1, "\(row.kind): nothing is faster than the machine")
    #expect(row.stages.reduce(0) { $0 + $1.share } <= 1.000_001)
  }

  @Test("--stages prints the table of each row")
  func table() throws {
    let (code, output) = try runToEnd(
      ["bench", "--model", model, "--threads", "1", "--prompt", "8", "--generate", "2", "--repeat", "1", "--stages"])
    #expect(code == 0, "\(output)")
    for mention in ["limits measured: memory", "prefill prompt 8, depth 0, batch 1:", "decode prompt 8", "% of the bound", "accounted for"]
    {
      #expect(output.contains(mention), "\(mention) is not in \(output)")
    }
  }
}
