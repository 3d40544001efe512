// The steps whose instructions are counted, on one thread with the AVX2 kernels: valgrind knows no AVX-512, and must not decide what runs.
// Does not count: callgrind does, from entry to exit of `quire_counted_forward`.

import Engine
import ModelFile
import Scheduler

/// One call of `Transformer.forward`, under the name that callgrind is told to watch.
@_silgen_name("quire_counted_forward") @inline(never)
func countedForward(_ step: CountedStep) { step.logits = step.transformer.forward(step.batch) }

final class CountedStep {
  fileprivate let transformer: Transformer
  fileprivate let batch: Batch
  fileprivate(set) var logits = UnsafeBufferPointer<Float>(start: nil, count: 0)  // [1, vocabularySize]

  /// `tokens` of one sequence from position `start` on, in blocks 0, 1, ...; the logits of the last one.
  init(_ transformer: Transformer, _ tokens: [Int32], from start: Int) {
    let blockTokens = transformer.plan.blockTokens
    let blocks = (start + tokens.count + blockTokens - 1) / blockTokens
    var batch = Batch()
    batch.tokens = tokens
    batch.blockTable = (0..<blocks).map(Int32.init)
    batch.entries = [
      Batch.Entry(
        sequence: SequenceID(rawValue: 1), startPosition: start, tokens: 0..<tokens.count, blockTable: 0..<blocks,
        logitsRows: tokens.count - 1..<tokens.count, isPrefill: start == 0)
    ]
    batch.logitsRowCount = 1
    self.transformer = transformer
    self.batch = batch
  }

  func runUncounted() { logits = transformer.forward(batch) }
}

enum CountedSteps {
  static let promptTokens = 128

  /// A prefill of 128 tokens, then one decode step behind it. The first step of a process is not counted: it binds symbols.
  static func run(modelAt path: String) throws {
    let model = try ModelFile(path: path)
    let options = EngineOptions(
      threads: 1, compute: .fast, cacheTokens: 2 * promptTokens, maxBatchTokens: promptTokens, maxSequences: 1, kernels: "avx2")
    let transformer = try Transformer(model: model, options: options)
    let tokens = (0...promptTokens).map { Int32(($0 * 7919 + $0 / 3) % transformer.hyperparameters.vocabularySize) }
    CountedStep(transformer, Array(tokens.prefix(1)), from: 0).runUncounted()
    let prefill = CountedStep(transformer, Array(tokens.prefix(promptTokens)), from: 0)
    countedForward(prefill)
    precondition(prefill.logits.allSatisfy(\.isFinite))
    let decode = CountedStep(transformer, [tokens[promptTokens]], from: promptTokens)
    countedForward(decode)
    precondition(decode.logits.allSatisfy(\.isFinite))
  }
}
