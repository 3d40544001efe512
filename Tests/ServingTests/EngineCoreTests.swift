// The engine's step over a forward pass that can be foretold: stop tokens, lengths, minimum lengths, sharing, refusals. No model.

import Engine
import Scheduler
import Testing

@testable import Serving

@Suite("Engine core")
struct EngineCoreTests {
  private static let vocabularySize = 16

  /// A "model" that always wants the token after the one it saw (modulo the vocabulary).
  private final class Successor {
    var logits = [Float](repeating: 0, count: 64 * vocabularySize)
    var failure: EngineError?
    var computedTokens = 0

    func forward(_ batch: borrowing Batch) throws(EngineError) -> UnsafeBufferPointer<Float> {
      if let failure { throw failure }
      computedTokens += batch.tokens.count
      var row = 0
      for entry in batch.entries {
        for wanted in entry.logitsRows {
          let token = Int(batch.tokens[entry.tokens.lowerBound + wanted])
          for id in 0..<vocabularySize { logits[row * vocabularySize + id] = id == (token + 1) % vocabularySize ? 5 : 0 }
          row += 1
        }
      }
      return logits.withUnsafeBufferPointer { UnsafeBufferPointer(rebasing: $0[..<(row * vocabularySize)]) }
    }
  }

  private func make(_ model: Successor, blocks: Int = 64, maxWaiting: Int = 64, stopTokens: [Int32] = []) -> EngineCore {
    EngineCore(
      configuration: SchedulerConfiguration(
        blockTokens: 4, blockCount: blocks, maxBatchTokens: 32, maxSequences: 8, maxWaiting: maxWaiting, maxContextTokens: 200,
        maxPrefillChunkTokens: 8),
      vocabularySize: Self.vocabularySize, modelStopTokens: stopTokens
    ) { batch throws(EngineError) in try model.forward(batch) }
  }

  /// Runs until nothing is left; the tokens and the end of each sequence.
  private func run(_ core: EngineCore) throws -> [SequenceID: (tokens: [Int32], finish: FinishReason?)] {
    var results: [SequenceID: (tokens: [Int32], finish: FinishReason?)] = [:]
    while core.hasWork {
      #expect(try core.step())
      #expect(core.invariantViolations().isEmpty)
      for event in core.events {
        results[event.sequence, default: ([], nil)].tokens.append(event.token)
        #expect(results[event.sequence]?.tokens.count == event.generatedCount && results[event.sequence]?.finish == nil)
        results[event.sequence]?.finish = event.finish
      }
    }
    return results
  }

  @Test("length, stop token, ignored stop token, minimum length")
  func ends() throws {
    let core = make(Successor(), stopTokens: [7])
    let plain = try core.add(GenerationRequest(promptTokens: [1, 2, 3], maxNewTokens: 2))
    let stopped = try core.add(GenerationRequest(promptTokens: [5], maxNewTokens: 50, stopTokens: [9]))
    let longer = try core.add(GenerationRequest(promptTokens: [5], maxNewTokens: 50, stopTokens: [6, 9], minNewTokens: 3))
    let results = try run(core)
    #expect(results[plain]?.tokens == [4, 5] && results[plain]?.finish == .length)
    #expect(results[stopped]?.tokens == [6, 7, 8, 9] && results[stopped]?.finish == .stop)
    // 6 does not end it before 3 tokens, and the model's own stop token 7 is not even sampled: some other token is.
    let early = try #require(results[longer]?.tokens)
    #expect(early.count > 3 && early[0] == 6 && early[1] != 7 && [6, 9].contains(early.last))
    #expect(core.statistics.blocksInUse == 0)
  }

  @Test("choices share the prompt's computation; usage says how much came from the cache")
  func sharing() throws {
    let model = Successor()
    let core = make(model)
    let request = GenerationRequest(promptTokens: (0..<20).map { $0 % 16 }, maxNewTokens: 2)
    let first = try core.add(request)
    _ = try core.add(request, follows: first)
    var cached: [SequenceID: Int] = [:]
    while core.hasWork {
      try core.step()
      for event in core.events { cached[event.sequence] = event.cachedPromptTokens }
    }
    #expect(cached[first] == 0 && cached.values.max() == 16, "the follower took four full blocks")
    #expect(model.computedTokens < 30)
  }

  @Test("cancel, finish and refusals leave nothing behind")
  func leaving() throws {
    let core = make(Successor(), blocks: 4, maxWaiting: 2)
    #expect(throws: SchedulerError.emptyPrompt) { try core.add(GenerationRequest(promptTokens: [], maxNewTokens: 1)) }
    #expect(throws: SchedulerError.self) { try core.add(GenerationRequest(promptTokens: [1], maxNewTokens: 100)) }
    let first = try core.add(GenerationRequest(promptTokens: [1], maxNewTokens: 10))
    let second = try core.add(GenerationRequest(promptTokens: [1], maxNewTokens: 10))
    #expect(throws: SchedulerError.queueFull(limit: 2)) { try core.add(GenerationRequest(promptTokens: [1], maxNewTokens: 10)) }
    try core.step()
    #expect(core.cancel(first) && !core.cancel(first))
    try core.step()
    #expect(core.finish(second) && !core.finish(second))
    #expect(!core.hasWork && core.statistics.blocksInUse == 0 && core.invariantViolations().isEmpty)
    #expect(try !core.step() && core.events.isEmpty)
  }

  @Test("a failing forward pass is reported, and the sequences can be given up")
  func failure() throws {
    let model = Successor()
    let core = make(model)
    let id = try core.add(GenerationRequest(promptTokens: [1], maxNewTokens: 10))
    model.failure = .badBatch(reason: "test")
    #expect(throws: EngineError.self) { try core.step() }
    core.cancel(id)
    model.failure = nil
    let next = try core.add(GenerationRequest(promptTokens: [1], maxNewTokens: 1))
    #expect(try run(core)[next]?.tokens == [2])
  }

  @Test("seeds decide: equal seeds give equal tokens, whatever the neighbours")
  func seeds() throws {
    func tokens(neighbours: Int) throws -> [Int32] {
      let core = make(Successor())
      let sampling = SamplingParameters(temperature: 2, seed: 42)
      for n in 0..<neighbours {
        _ = try core.add(GenerationRequest(promptTokens: [Int32(n)], maxNewTokens: 9, sampling: SamplingParameters(temperature: 2)))
      }
      let id = try core.add(GenerationRequest(promptTokens: [3, 4], maxNewTokens: 12, sampling: sampling))
      return try run(core)[id]?.tokens ?? []
    }
    let alone = try tokens(neighbours: 0)
    #expect(alone.count == 12)
    #expect(try tokens(neighbours: 5) == alone)
  }
}
