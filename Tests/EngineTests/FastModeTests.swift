// What rounding activations costs in fast mode, per weight type: measured end to end against float32 on the same weights, and bounded.

import ModelFile
import Testing

@testable import Engine

@Suite struct FastModeTests {
  /// rms of the logits' error over their standard deviation, the mean over the prompts. Tiny random models amplify (SPEC 8): where a router
  /// has groups or sigmoid scores, a changed expert changes everything, so only v2lite files tell the arithmetic's own error.
  static func bound(_ name: String) -> Double { name.contains("v2lite") ? 0.2 : 0.8 }

  @Test(arguments: TinyModels.directories + TinyModels.ggufFiles)
  func errorPerType(_ tiny: TinyModel) throws {
    let model = try ModelFile(path: tiny.path)
    for kernels in TinyModels.kernelVariants.reversed() {
      var line = "fast \(tiny.name) \(kernels):"
      for cache in CacheType.allCases {
        let driver = try Driver(model, GoldenTests.options(.fast, cache, kernels: kernels))
        let prompts = tiny.prompts.filter { kernels != "scalar" || $0.ids.count < 64 }
        let results = prompts.map { driver.run($0.ids, greedy: 1).logits }
        let errors = zip(results, prompts).map { relativeRMS($0, $1.logits) }
        let differences = zip(results, prompts).map { largestDifference($0, $1.logits) }
        let mean = errors.reduce(0, +) / Double(max(errors.count, 1))
        line += " \(cache.rawValue) cache rms/std \(scientific(mean)), log-probabilities within \(scientific(differences.max() ?? 0));"
        #expect(mean < Self.bound(tiny.name), "\(tiny.name) \(kernels) \(cache)")
        if kernels == "scalar" { break }
      }
      print(line)
    }
  }
}
