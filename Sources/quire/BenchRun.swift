// Measures one figure of `quire bench` by driving the engine's step as the server does. Knows no output format.

import Engine
import Serving

/// One row. Tokens per second over all sequences; `spread` is (largest - smallest) / median of the runs.
struct BenchResult: Encodable {
  let kind: String
  let promptTokens: Int
  let generatedTokens: Int
  let depth: Int
  let batch: Int
  let tokensPerSecond: Double
  let spread: Double
  let secondsPerStep: Double
  /// Where the median run's time went; `share` is of the whole time, scheduler and sampler included.
  let stages: [BenchStage]
  /// 0...1; only where the machine's limits were measured.
  var shareOfBound: Double?
}

/// One stage of all steps of a run, per step.
struct BenchStage: Encodable {
  let stage: String
  let secondsPerStep: Double
  let share: Double
  let bytesPerStep: Double
  let operationsPerStep: Double
}

final class BenchRun {
  private let core: EngineCore
  private let transformer: Transformer
  private let vocabularySize: Int
  private var random = SystemRandomNumberGenerator()

  init(_ loaded: LoadedModel) {
    core = loaded.makeCore()
    if let warning = core.adoptThread?() { noteWarning(warning) }
    transformer = loaded.transformer
    vocabularySize = loaded.served.vocabularySize
  }

  /// The prefill figure (unless prompt is 0) and the decode figure (unless generate is 0).
  func measure(depth: Int, batch: Int, prompt: Int, generate: Int, repetitions: Int) throws -> [BenchResult] {
    // The same depth tokens every time: after the warm-up they come from the prefix cache, as a conversation's would.
    let prefixes = (0..<batch).map { _ in tokens(depth) }
    // Once without counting: page faults of the first touch belong to no figure.
    _ = try run(prefixes.map { $0 + tokens(max(prompt, 1)) }, maxNewTokens: min(generate, 4) + 1)
    var prefill: [Timed] = []
    var decode: [Timed] = []
    for _ in 0..<repetitions {
      let prompts = prefixes.map { $0 + tokens(prompt) }
      if prompt > 0 { prefill.append(try run(prompts, maxNewTokens: 1).untilFirst) }
      if generate > 0 {
        let whole = prompts.map { $0.isEmpty ? tokens(1) : $0 }
        decode.append(try run(whole, maxNewTokens: generate + 1).afterFirst)
      }
    }
    var results: [BenchResult] = []
    if prompt > 0 {
      results.append(result("prefill", prefill, tokens: batch * prompt, prompt: prompt, generate: 0, depth: depth, batch: batch))
    }
    if generate > 0 {
      results.append(result("decode", decode, tokens: batch * generate, prompt: prompt, generate: generate, depth: depth, batch: batch))
    }
    return results
  }

  private struct Timed {
    var seconds = 0.0
    var steps = 0
    var planNanoseconds: UInt64 = 0
    var sampleNanoseconds: UInt64 = 0
    var stages: [StageTotals] = []

    mutating func add(_ report: StepReport) {
      steps += 1
      planNanoseconds += report.planNanoseconds + report.commitNanoseconds
      sampleNanoseconds += report.sampleNanoseconds
    }
  }

  /// Runs the prompts together; time until every sequence has its first token, and from then until all have all of theirs.
  /// Tokens that early sequences decode while late ones still prefill count in neither figure's favour.
  private func run(_ prompts: [[Int32]], maxNewTokens: Int) throws -> (untilFirst: Timed, afterFirst: Timed) {
    let start = Clock.nanoseconds()
    for prompt in prompts { _ = try core.add(GenerationRequest(promptTokens: prompt, maxNewTokens: maxNewTokens)) }
    var first = Timed()
    var second = Timed()
    var waiting = prompts.count
    var firstAt = start
    var lateTokens = 0
    let before = transformer.stageTotals
    var between = before
    while core.hasWork {
      try core.step()
      if waiting > 0 {
        first.add(core.lastStep)
        lateTokens += core.events.count { $0.generatedCount > 1 }
        waiting -= core.events.count { $0.generatedCount == 1 }
        if waiting == 0 {
          firstAt = Clock.nanoseconds()
          between = transformer.stageTotals
        }
      } else {
        second.add(core.lastStep)
      }
      core.clearEvents()
    }
    first.seconds = Clock.seconds(from: start, to: firstAt)
    second.seconds = Clock.seconds(from: firstAt, to: Clock.nanoseconds())
    first.stages = zip(between, before).map { $0 - $1 }
    second.stages = zip(transformer.stageTotals, between).map { $0 - $1 }
    // Those tokens are missing from the second part: its time is scaled up to what all of them would have taken.
    let all = prompts.count * (maxNewTokens - 1)
    if lateTokens > 0, all > lateTokens { second.seconds *= Double(all) / Double(all - lateTokens) }
    return (first, second)
  }

  private func tokens(_ count: Int) -> [Int32] {
    (0..<count).map { _ in Int32.random(in: 0..<Int32(clamping: vocabularySize), using: &random) }
  }

  private func result(
    _ kind: String, _ runs: [Timed], tokens: Int, prompt: Int, generate: Int, depth: Int, batch: Int
  ) -> BenchResult {
    let sorted = runs.sorted { $0.seconds < $1.seconds }
    let median = sorted[sorted.count / 2]
    let seconds = max(median.seconds, 1e-9)
    return BenchResult(
      kind: kind, promptTokens: prompt, generatedTokens: generate, depth: depth, batch: batch, tokensPerSecond: Double(tokens) / seconds,
      spread: ((sorted.last?.seconds ?? 0) - (sorted.first?.seconds ?? 0)) / seconds,
      secondsPerStep: median.steps > 0 ? seconds / Double(median.steps) : 0, stages: stages(median))
  }

  private func stages(_ run: Timed) -> [BenchStage] {
    let steps = Double(max(run.steps, 1))
    func stage(_ name: String, _ totals: StageTotals) -> BenchStage {
      let seconds = Double(totals.nanoseconds) / 1e9
      return BenchStage(
        stage: name, secondsPerStep: seconds / steps, share: seconds / max(run.seconds, 1e-9), bytesPerStep: Double(totals.bytes) / steps,
        operationsPerStep: Double(totals.operations) / steps)
    }
    return Stage.allCases.map { stage($0.name, run.stages[$0.rawValue]) } + [
      stage("sampling", StageTotals(nanoseconds: run.sampleNanoseconds)), stage("scheduler", StageTotals(nanoseconds: run.planNanoseconds)),
    ]
  }
}
