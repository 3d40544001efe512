// What rounding the latent cache costs on real text: the default model on the parts of the novels that it never saw. With QUIRE_HELD_OUT
// (see HeldOutText) the numbers are those of README.md; without it a small committed part is read.

import ModelFile
import Testing

@testable import Engine

@Suite struct HeldOutTextTests {
  private struct Form {
    let compute: ComputeMode
    let expandedFromTokens: Int?
    var name: String { compute == .exact ? "exact" : expandedFromTokens == nil ? "fast, absorbed" : "fast, expanded" }
  }

  /// Perplexity, and how far log-probabilities are from those of exact mode with a float32 cache.
  @Test func lossPerCacheType() throws {
    let model = try ModelFile(path: HeldOutText.modelPath)
    let texts = try HeldOutText.texts(tokens: model.hyperparameters.maxContext - 1)
    var forms = [Form(compute: .exact, expandedFromTokens: nil), Form(compute: .fast, expandedFromTokens: nil)]
    if HeldOutText.isWhole { forms.append(Form(compute: .fast, expandedFromTokens: 256)) }
    var reference: TextScores?
    for form in forms {
      for cache in CacheType.allCases {
        let options = TextScores.options(form.compute, cache, expandedFromTokens: form.expandedFromTokens)
        let transformer = try Transformer(model: model, options: options)
        let scores = TextScores(texts, transformer, topOf: reference)
        let exact = reference ?? scores
        if reference == nil { reference = scores }
        let distances = Distances(scores.tokens, exact.tokens)
        print(
          "held-out text, \(form.name), \(cache.rawValue) cache: \(transformer.plan.cacheBytesPerToken) bytes per token, "
            + "\(scores.tokens.count) tokens, perplexity \(scores.perplexity), ratio \(scores.perplexity / exact.perplexity), "
            + "log-probabilities: \(distances); of the 20 most probable: \(Distances(scores.top, exact.top))")
        // The largest of the whole text: mean 1.3e-2, ratio within 3.2e-4.
        #expect(scores.tokens.count >= 3000 && distances.mean < 2.5e-2, "\(form.name) \(cache)")
        #expect(abs(scores.perplexity / exact.perplexity - 1) < 0.005, "\(form.name) \(cache)")
      }
    }
  }
}
