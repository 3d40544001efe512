// What fast mode costs on real text, per weight type: perplexity of the default model in fast and in exact mode. Always for the committed
// file; for every other weight type with files that QUIRE_AUSTEN_TYPES names (a folder of *.gguf, made of the committed one by
// `llama-quantize --allow-requantize`).

import FoundationEssentials
import Glibc
import ModelFile
import Testing

@testable import Engine

@Suite(.serialized) struct FastPerplexityTests {
  static let files: [String] = {
    guard let directory = getenv("QUIRE_AUSTEN_TYPES").map({ String(cString: $0) }) else { return [HeldOutText.modelPath] }
    let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
    return [HeldOutText.modelPath] + names.filter { $0.hasSuffix(".gguf") }.sorted().map { directory + "/" + $0 }
  }()

  /// Within 0.5 % for every type, in both forms of attention, with the cache that is the default.
  @Test(arguments: files) func fastKeepsPerplexity(_ path: String) throws {
    let model = try ModelFile(path: path)
    let types = Set(model.tensors.map(\.type)).subtracting([.f32]).map(\.name).sorted().joined(separator: " ")
    try Self.compare(model, "\(path.split(separator: "/").last ?? "") (\(types))") { _, _ in }
  }

  /// bf16 weights, the model as it is. Log-probabilities jump where rounding changes which experts are chosen: by 0.4 at most in the text's
  /// tokens, 1.3 in one of the 20 most probable. So the bound of 5e-2 is one for 99 of 100 (measured: 1.4e-2 and 1.7e-2).
  @Test func bfloat16Weights() throws {
    let widened = try WidenedModel(expertsPerToken: 2)
    try Self.compare(try ModelFile(path: widened.path), "bf16") { tokens, top in
      #expect(tokens.percentile99 < 5e-2 && top.percentile99 < 5e-2)
    }
  }

  /// The same weights with all eight experts taken, so that nothing can be chosen differently: what is left is arithmetic, and the bound
  /// of 5e-2 holds everywhere (measured on the whole text: 2.2e-2, and 4.1e-2 in the 20 most probable).
  @Test func bfloat16WeightsWithoutChoice() throws {
    let widened = try WidenedModel(expertsPerToken: 8)
    try Self.compare(try ModelFile(path: widened.path), "bf16, all experts") { tokens, top in
      #expect(tokens.largest < 5e-2 && top.largest < 5e-2)
    }
  }

  /// Fast against exact mode; `check` gets how far the log-probabilities of the text's tokens are off, and of the 20 most probable ones.
  private static func compare(_ model: ModelFile, _ name: String, check: (Distances, Distances) -> Void) throws {
    let texts = try HeldOutText.texts(tokens: model.hyperparameters.maxContext - 1)
    let exact = TextScores(texts, try Transformer(model: model, options: TextScores.options(.exact, .f32)))
    let defaults = EngineOptions(threads: 1)
    for expandedFromTokens in [nil, defaults.expandedFromTokens] {
      let options = TextScores.options(.fast, defaults.cacheType, expandedFromTokens: expandedFromTokens)
      let fast = TextScores(texts, try Transformer(model: model, options: options), topOf: exact)
      let ratio = fast.perplexity / exact.perplexity
      let (tokens, top) = (Distances(fast.tokens, exact.tokens), Distances(fast.top, exact.top))
      print(
        "fast against exact, \(name), \(expandedFromTokens == nil ? "absorbed" : "expanded"): \(fast.tokens.count) tokens, perplexity "
          + "\(exact.perplexity) exact, \(fast.perplexity) fast, ratio \(ratio), log-probabilities: \(tokens); "
          + "of the 20 most probable: \(top)")
      #expect(fast.tokens.count >= 3000 && abs(ratio - 1) < 0.005, "\(name)")
      check(tokens, top)
    }
  }
}
