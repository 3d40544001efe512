// A file of a real model's shape (shared/bench/make_gguf.py), named by QUIRE_LARGE_MODEL: fast stays near exact where widths are real, and
// where the time goes is printed. Skipped without the variable; nothing here is decided by a clock.

import Glibc
import ModelFile
import Testing

@testable import Engine

@Suite struct LargeModelTests {
  static let path = getenv("QUIRE_LARGE_MODEL").map { String(cString: $0) }

  @Test(.enabled(if: path != nil)) func fastStaysNearExact() throws {
    let model = try ModelFile(path: Self.path ?? "")
    var options = EngineOptions(threads: 2, cacheTokens: 4096, maxBatchTokens: 512, maxSequences: 8, memoryReserveBytes: 0)
    let plan = try MemoryPlan.make(model: model, options: options)
    print(plan.lines.joined(separator: "\n"))
    let ids = (0..<600).map { Int32(($0 * 7919 + $0 / 3) % model.hyperparameters.vocabularySize) }
    let fast = try Driver(model, options)
    options.compute = .exact
    options.cacheType = .f32
    let exact = try Driver(model, options).run(Array(ids.prefix(300)), greedy: 4)
    for count in [40, 300] {
      let prompt = Array(ids.prefix(count))
      let reference = count == 300 ? exact.logits : try Driver(model, options).run(prompt, greedy: 1).logits
      let error = relativeRMS(fast.run(prompt, greedy: 1).logits, reference)
      print("fast against exact after \(count) tokens: rms/std \(scientific(error))")
      #expect(error < 0.3)
    }
    Self.report(fast, ids)
    options.compute = .fast
    options.cacheType = .int16
    options.expandedFromTokens = nil
    print("absorbed form only:")
    Self.report(try Driver(model, options), ids)
  }

  private static func report(_ driver: Driver, _ ids: [Int32]) {
    for (label, tokens, steps) in [("prefill 512", 512, 1), ("decode at 512", 1, 16)] {
      let before = driver.transformer.stageTotals
      var sequences = [
        HandDriven(tokens: ids + ids, computed: tokens == 1 ? 512 : 0, blocks: driver.blocks(forTokens: 1200, first: 0, step: 1))
      ]
      for _ in 0..<steps { _ = driver.step([(0, tokens)], &sequences) }
      let after = driver.transformer.stageTotals
      let parts = Stage.allCases.map { stage in
        let nanoseconds = (after[stage.rawValue] - before[stage.rawValue]).nanoseconds
        return "\(stage) \((Double(nanoseconds) / 1e4 / Double(steps)).rounded() / 100)"
      }
      print("\(label), ms per step: \(parts.joined(separator: ", "))")
    }
  }
}
