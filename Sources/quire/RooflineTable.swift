// The roofline of `quire bench`: how near a step comes to what the machine's memory and arithmetic could do, as a whole and stage by stage.
// Knows what the stages read and compute, not how.

import Engine

extension BenchResult {
  /// With the share of the bound: the time in which the machine could at best have read the step's weights and cache rows, or made its
  /// operations at the int8 rate, whichever is longer, over the time that the step took.
  func against(_ limits: MachineLimits) -> BenchResult {
    let bytes = stages.reduce(0) { $0 + $1.bytesPerStep }
    let operations = stages.reduce(0) { $0 + $1.operationsPerStep }
    let bound = max(bytes / max(limits.bytesPerSecond, 1), operations / max(limits.int8PerSecond, 1))
    var result = self
    result.shareOfBound = secondsPerStep > 0 ? bound / secondsPerStep : nil
    return result
  }
}

/// Per stage: time, share of the step, and how near memory and arithmetic are to what the machine can do (int8 rate; int16 for attention).
struct RooflineTable {
  let limits: MachineLimits

  func print(_ results: [BenchResult]) {
    Terminal.print(
      "\nlimits measured: memory \(rounded(limits.bytesPerSecond / 1e9)) GB/s, int8 \(rounded(limits.int8PerSecond / 1e9)) GOP/s, "
        + "int16 \(rounded(limits.int16PerSecond / 1e9)) GOP/s, bf16 \(rounded(limits.bf16PerSecond / 1e9)) GFLOP/s")
    results.forEach(print)
  }

  private func print(_ result: BenchResult) {
    Terminal.print(
      "\n\(result.kind) prompt \(result.promptTokens), depth \(result.depth), batch \(result.batch): "
        + "\(rounded(result.secondsPerStep * 1e3)) ms per step, \(percent(result.shareOfBound ?? 0)) of the bound")
    Terminal.print("  stage                       ms    share     GB/s   memory   GOP/s     rate")
    for stage in result.stages where stage.secondsPerStep > 0 { print(stage) }
    Terminal.print(
      "  " + left("accounted for", 22) + " " + right("", 8) + " " + right(percent(result.stages.reduce(0) { $0 + $1.share }), 8))
  }

  private func print(_ stage: BenchStage) {
    let bandwidth = stage.bytesPerStep / stage.secondsPerStep
    let rate = stage.operationsPerStep / stage.secondsPerStep
    let peak = stage.stage == Stage.attention.name ? limits.int16PerSecond : limits.int8PerSecond
    let columns = [
      left(stage.stage, 22), right("\(rounded(stage.secondsPerStep * 1e3))", 8), right(percent(stage.share), 8),
      right(stage.bytesPerStep > 0 ? "\(rounded(bandwidth / 1e9))" : "", 8),
      right(stage.bytesPerStep > 0 ? percent(bandwidth / max(limits.bytesPerSecond, 1)) : "", 8),
      right(stage.operationsPerStep > 0 ? "\(rounded(rate / 1e9))" : "", 7),
      right(stage.operationsPerStep > 0 ? percent(rate / max(peak, 1)) : "", 8),
    ]
    Terminal.print("  " + columns.joined(separator: " "))
  }

  private func percent(_ share: Double) -> String { "\(Int((share * 100).rounded())) %" }
}
