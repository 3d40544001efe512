// A sequence's logits are the same bits alone, beside strangers, in any cut of its prefill, over scattered blocks, after a cache hit and
// after a recompute: on every golden variant, in both modes.

import ModelFile
import Scheduler
import Testing

@testable import Engine

#if canImport(AllocationCounter)
  import AllocationCounter
#endif

@Suite struct InvarianceTests {
  /// Absorbed attention only, so that fast mode too must keep every bit.
  static func options(_ compute: ComputeMode, _ cache: CacheType, blockTokens: Int = 16) -> EngineOptions {
    EngineOptions(
      threads: 3, compute: compute, cacheType: cache, cacheTokens: 8192, blockTokens: blockTokens, maxBatchTokens: 512, maxSequences: 16,
      memoryReserveBytes: 0, expandedFromTokens: nil)
  }

  static let modes: [(ComputeMode, CacheType)] = [(.exact, .f32), (.fast, .int16), (.fast, .bf16), (.fast, .int8), (.fast, .int6)]

  @Test(arguments: TinyModels.directories + TinyModels.ggufSample)
  func chunksGiveTheSameBits(_ tiny: TinyModel) throws {
    let model = try ModelFile(path: tiny.path)
    for (compute, cache) in Self.modes {
      let driver = try Driver(model, Self.options(compute, cache))
      let prompt = tiny.prompts[tiny.longestPrompt]
      let whole = driver.run(prompt.ids, greedy: 4)
      for chunk in [1, 7, 64] {
        let cut = driver.run(prompt.ids, chunk: chunk, greedy: 4, firstBlock: 100)
        #expect(cut.all == whole.all, "\(tiny.name) \(compute) \(cache) chunk \(chunk)")
      }
    }
  }

  @Test(arguments: TinyModels.directories + TinyModels.ggufSample)
  func strangersChangeNothing(_ tiny: TinyModel) throws {
    let model = try ModelFile(path: tiny.path)
    for (compute, cache) in Self.modes {
      let driver = try Driver(model, Self.options(compute, cache))
      let ids = tiny.prompts[0].ids
      let alone = driver.run(ids, greedy: 6)
      let crowd = Self.runInCrowd(driver, ids, strangers: tiny.prompts.map(\.ids), greedy: 6)
      #expect(crowd == alone.all, "\(tiny.name) \(compute) \(cache)")
    }
  }

  /// The sequence and 8 strangers whose prefills and decodes run in the same steps, over interleaved blocks.
  static func runInCrowd(_ driver: Driver, _ ids: [Int32], strangers: [[Int32]], greedy count: Int) -> [[Float]] {
    var sequences = [HandDriven(tokens: ids, blocks: driver.blocks(forTokens: ids.count + count, first: 9, step: 10))]
    for index in 0..<8 {
      let other = strangers[index % strangers.count]
      sequences.append(HandDriven(tokens: other + other, blocks: driver.blocks(forTokens: 2 * other.count, first: index, step: 10)))
    }
    var all: [[Float]] = []
    var round = 0
    while all.count < count {
      var pieces: [(sequence: Int, count: Int)] = []
      for index in sequences.indices.reversed() {
        let left = sequences[index].tokens.count - sequences[index].computed
        let wanted = index == 0 ? [left, 5, 3][min(round, 2) == 0 && left > 8 ? 1 : 0] : (round * 7 + index * 5) % 31 + 1
        if min(wanted, left) > 0 { pieces.append((index, min(wanted, left))) }
      }
      let rows = driver.step(pieces, &sequences)
      for (row, piece) in zip(rows, pieces) where piece.sequence == 0 && sequences[0].computed == sequences[0].tokens.count {
        all.append(row)
        sequences[0].tokens.append(argmax(row))
      }
      round += 1
    }
    return all
  }

  @Test(arguments: TinyModels.directories)
  func sharedPrefixAndRecomputeChangeNothing(_ tiny: TinyModel) throws {
    let model = try ModelFile(path: tiny.path)
    let driver = try Driver(model, Self.options(.fast, .int16))
    let ids = tiny.prompts[tiny.longestPrompt].ids
    let first = driver.run(ids, greedy: 5, firstBlock: 0)
    // Another sequence finds the first blocks of the first one in the prefix cache.
    let hit = ids.count / 16 * 16 - 16
    let own = driver.blocks(forTokens: ids.count + 5, first: 300, step: 1)
    var sequences = [HandDriven(tokens: ids, computed: hit, blocks: Array((0..<Int32(hit / 16))) + own)]
    var rows = driver.step([(0, ids.count - hit)], &sequences)
    #expect(rows[0] == first.all[0], "\(tiny.name) cache hit")
    // Preempted after two tokens: recomputed with prompt and answer as one prefill, elsewhere.
    let tokens = ids + first.tokens.prefix(2)
    sequences = [HandDriven(tokens: Array(tokens), blocks: driver.blocks(forTokens: tokens.count, first: 400, step: 2))]
    rows = driver.step([(0, tokens.count)], &sequences)
    #expect(rows[0] == first.all[2], "\(tiny.name) recompute")
  }

  @Test(arguments: TinyModels.directories)
  func threadsAndWantedRowsChangeNothing(_ tiny: TinyModel) throws {
    let model = try ModelFile(path: tiny.path)
    var options = Self.options(.fast, .int16)
    let ids = tiny.prompts[0].ids
    var results: [[[Float]]] = []
    for threads in [1, 2, 5] {
      options.threads = threads
      results.append(try Driver(model, options).run(ids, greedy: 3).all)
    }
    #expect(results[0] == results[1] && results[1] == results[2], "\(tiny.name)")

    // The logits of every position at once are those of a prefill that ends there.
    let driver = try Driver(model, options)
    let count = min(ids.count, options.maxLogitsRows)
    var batch = Batch()
    batch.tokens = Array(ids.prefix(count))
    batch.blockTable = driver.blocks(forTokens: count, first: 50, step: 3)
    batch.entries = [
      Batch.Entry(
        sequence: SequenceID(rawValue: 0), startPosition: 0, tokens: 0..<count, blockTable: 0..<batch.blockTable.count,
        logitsRows: 0..<count, isPrefill: true)
    ]
    batch.logitsRowCount = count
    let every = Array(driver.transformer.forward(batch))
    let vocabulary = driver.transformer.hyperparameters.vocabularySize
    for position in [0, count / 2, count - 1] {
      let single = driver.run(Array(ids.prefix(position + 1)), greedy: 1).logits
      #expect(Array(every[position * vocabulary..<(position + 1) * vocabulary]) == single, "\(tiny.name) position \(position)")
    }
  }

  /// Long contexts are cut for the workers; the cut must not show. Also every page size.
  @Test func longContextsSplitWithoutATrace() throws {
    guard let tiny = TinyModels.directories.first else { return TinyModels.noteIfMissing() }
    let model = try ModelFile(path: tiny.path)
    let ids = (0..<2300).map { Int32(($0 * 37 + $0 / 5) % model.hyperparameters.vocabularySize) }
    for (compute, cache) in Self.modes {
      var options = Self.options(compute, cache)
      options.threads = 1
      let serial = try Driver(model, options).run(ids, greedy: 3)
      options.threads = 4
      #expect(try Driver(model, options).run(ids, greedy: 3).all == serial.all, "\(compute) \(cache) 4 threads")
      options.blockTokens = 7
      #expect(try Driver(model, options).run(ids, chunk: 301, greedy: 3).all == serial.all, "\(compute) \(cache) blocks of 7")
    }
  }

  /// Expanded and absorbed form are the same algebra: in float32 they agree to rounding, whatever the pieces.
  @Test(arguments: TinyModels.directories + TinyModels.ggufSample)
  func expandedFormAgrees(_ tiny: TinyModel) throws {
    let model = try ModelFile(path: tiny.path)
    var options = Self.options(.exact, .f32)
    let prompt = tiny.prompts[tiny.longestPrompt]
    options.expandedFromTokens = 16
    options.expandsInExactMode = true
    let driver = try Driver(model, options)
    let whole = largestDifference(driver.run(prompt.ids, greedy: 1).logits, prompt.logits)
    // 60 at a time; the rest of fewer than 16 tokens is absorbed.
    let pieces = largestDifference(driver.run(prompt.ids, chunk: 60, greedy: 1, firstBlock: 200).logits, prompt.logits)
    print("\(tiny.name) expanded form: log-probabilities within \(scientific(whole)), in pieces \(scientific(pieces))")
    #expect(whole < 2e-3 && pieces < 2e-3, "\(tiny.name)")
  }

  /// Long prefills in expanded form cross several ranges of keys; beside a decode in absorbed form each is what it is alone.
  @Test func expandedBesideAbsorbed() throws {
    guard let tiny = TinyModels.directories.first else { return TinyModels.noteIfMissing() }
    let model = try ModelFile(path: tiny.path)
    var options = Self.options(.exact, .f32)
    let ids = (0..<700).map { Int32(($0 * 31 + $0 / 7) % model.hyperparameters.vocabularySize) }
    let absorbed = try Driver(model, options).run(ids, greedy: 1).logits
    options.expandedFromTokens = 100
    options.expandsInExactMode = true
    let driver = try Driver(model, options)
    let alone = driver.run(ids, chunk: 350, greedy: 1).logits
    #expect(largestDifference(alone, absorbed) < 2e-3)
    var sequences = [
      HandDriven(tokens: ids, blocks: driver.blocks(forTokens: 700, first: 100, step: 1)),
      HandDriven(tokens: Array(ids.prefix(40)), blocks: driver.blocks(forTokens: 40, first: 200, step: 1)),
      HandDriven(tokens: ids, blocks: driver.blocks(forTokens: 700, first: 300, step: 1)),
    ]
    let short = driver.run(Array(ids.prefix(40)), greedy: 1, firstBlock: 60).logits
    _ = driver.step([(0, 350), (1, 39), (2, 100)], &sequences)
    let rows = driver.step([(2, 101), (1, 1), (0, 350)], &sequences)
    #expect(rows[2] == alone && rows[1] == short)
  }
  #if canImport(AllocationCounter)
    /// After the first steps a decode allocates nothing on the engine's thread.
    @Test func decodeAllocatesNothing() throws {
      guard allocation_counter_works(), let tiny = TinyModels.directories.first else { return }
      let model = try ModelFile(path: tiny.path)
      for (compute, cache) in Self.modes {
        let driver = try Driver(model, Self.options(compute, cache))
        var sampler = Sampler(vocabularySize: driver.transformer.hyperparameters.vocabularySize, maskedTokens: [3, 5])
        var generator = SamplerGenerator(seed: 1)
        let parameters = SamplingParameters(temperature: 0.8, topK: 40, topP: 0.9, minP: 0.01)
        var batch = Batch()
        batch.tokens = [1, 2, 3]
        batch.blockTable = [0, 1, 2]
        for index in 0..<3 {
          batch.entries.append(
            Batch.Entry(
              sequence: SequenceID(rawValue: UInt64(index)), startPosition: 5, tokens: index..<index + 1, blockTable: index..<index + 1,
              logitsRows: 0..<1, isPrefill: false))
        }
        batch.logitsRowCount = 3
        var counts: [Int64] = []
        for _ in 0..<6 {
          let before = allocation_count()
          let logits = driver.transformer.forward(batch)
          let row = UnsafeBufferPointer(rebasing: logits[0..<sampler.vocabularySize])
          _ = sampler.sample(logits: row, parameters: parameters, generator: &generator)
          counts.append(allocation_count() - before)
        }
        #expect(counts.suffix(3).allSatisfy { $0 == 0 }, "\(compute) \(cache): \(counts)")
      }
    }
  #endif
}
