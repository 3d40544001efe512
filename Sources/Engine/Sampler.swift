// Chooses the next token from a row of logits. Knows vocabularies and random numbers, not text, sequences or batches.
// Order of the filters (sampled_row.c): temperature, then top-k, then top-p over what top-k left, then min-p relative to the most probable
// token (vLLM's order). Non-finite logits count as -inf; nothing in a row of logits can stop the process.

import CEngine

/// How a sequence samples. Values outside their meaning are read as "off" (validation with messages is the caller's task).
package struct SamplingParameters: Sendable, Equatable {
  /// 0 (or anything not above 0): greedy.
  package var temperature: Float
  /// Keep the k most probable tokens; 0 or less: all.
  package var topK: Int
  /// Keep the smallest most probable set with at least this mass; 1 or more: all.
  package var topP: Float
  /// Keep tokens with at least this share of the most probable token's probability; 0: all.
  package var minP: Float
  package var seed: UInt64?

  package init(temperature: Float = 1, topK: Int = 0, topP: Float = 1, minP: Float = 0, seed: UInt64? = nil) {
    self.temperature = temperature
    self.topK = topK
    self.topP = topP
    self.minP = minP
    self.seed = seed
  }

  package static let greedy = SamplingParameters(temperature: 0)

  package var isGreedy: Bool { !(temperature > 0) }
}

/// SplitMix64 (Steele, Lea, Flood 2014): one counter per sequence, so a sequence's numbers do not depend on its neighbours.
package struct SamplerGenerator: Sendable, RandomNumberGenerator {
  private var state: UInt64

  /// Without a seed the system's generator gives one. `stream` separates the n choices of one request.
  package init(seed: UInt64?, stream: UInt64 = 0) {
    var system = SystemRandomNumberGenerator()
    state = seed ?? system.next()
    guard stream != 0 else { return }
    state &+= stream &* 0xD1B5_4A32_D192_ED03
    state = next()
  }

  package mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// Uniform in [0, 1), 53 bits.
  package mutating func nextUniform() -> Double { Double(next() >> 11) * 0x1p-53 }
}

/// The tokens of a step's rows, all rows at once on the engine's workers. Confined to the engine thread; its buffers are reused by every
/// step.
package struct Sampler: ~Copyable {
  package let vocabularySize: Int
  private let mask: TokenMask
  private let earlyMask: TokenMask
  private var rows: [qe_sampled_row] = []
  private let workers: qe_workers
  private let transformer: Transformer?  // owns the workers
  private let ownPool: WorkerPool?  // where there is no transformer

  /// - Parameters:
  ///   - maskedTokens: never sampled (ids the tokenizer lacks); ids outside the vocabulary are ignored.
  ///   - earlyMaskedTokens: not sampled in early rows either (a model's stop tokens).
  ///   - transformer: whose workers do the work between its batches; nil: the calling thread alone.
  package init(
    vocabularySize: Int, maskedTokens: [Int32] = [], earlyMaskedTokens: [Int32] = [], transformer: Transformer? = nil
  ) {
    let size = min(max(vocabularySize, 1), Int(Int32.max) / 4)
    self.vocabularySize = size
    mask = TokenMask(maskedTokens, vocabularySize: size)
    earlyMask = TokenMask(maskedTokens + earlyMaskedTokens, vocabularySize: size)
    self.transformer = transformer
    if let transformer {
      ownPool = nil
      workers = transformer.workers
    } else {
      let pool = Self.poolOfCaller(vocabularySize: size)
      workers = pool.workers
      ownPool = consume pool
    }
  }

  private static func poolOfCaller(vocabularySize: Int) -> WorkerPool {
    do throws(EngineError) {
      let pool = try WorkerPool(threads: 1, kernels: nil)
      try pool.reserveScratch(bytes: qe_sample_scratch_bytes(vocabularySize))
      return pool
    } catch {
      preconditionFailure("a sampler of \(vocabularySize) tokens: \(error)")
    }
  }

  deinit {
    mask.ids.deallocate()
    earlyMask.ids.deallocate()
  }

  /// Forgets the rows of the last step.
  package mutating func begin() { rows.removeAll(keepingCapacity: true) }

  /// Adds the next row. `logits` [vocabularySize], valid until `run` returns. One number is drawn from `generator` unless greedy.
  /// - Parameters:
  ///   - isEarly: before the sequence's least length.
  ///   - topCount: log-probabilities of the chosen token and of so many of the most probable, clamped to 0...20; nil: none.
  package mutating func add(
    logits: UnsafeBufferPointer<Float>, parameters: SamplingParameters, generator: inout SamplerGenerator, isEarly: Bool = false,
    topCount: Int? = nil
  ) {
    let mask = isEarly ? earlyMask : mask
    var row = qe_sampled_row()
    row.logits = logits.baseAddress
    row.count = Int32(min(logits.count, vocabularySize))
    row.masked = UnsafePointer(mask.ids.baseAddress)
    row.masked_count = Int32(mask.ids.count)
    row.fallback = mask.fallback
    row.temperature = parameters.isGreedy ? 0 : min(parameters.temperature, 1e6)  // infinity would make NaN of -inf
    row.top_k = Int32(clamping: max(parameters.topK, 0))
    row.top_p = parameters.topP < 1 ? Double(max(parameters.topP, 0)) : 1  // NaN reads as off
    row.min_p = parameters.minP > 0 ? min(parameters.minP, 1) : 0
    row.uniform = parameters.isGreedy ? 0 : generator.nextUniform()
    row.top_wanted = topCount.map { Int32(min(max($0, 0), TokenLogProbabilities.maximumTopCount)) } ?? -1
    row.token = row.fallback
    rows.append(row)
  }

  /// Adds a greedy row.
  package mutating func add(logits: UnsafeBufferPointer<Float>) {
    var unused = SamplerGenerator(seed: 0)
    add(logits: logits, parameters: .greedy, generator: &unused)
  }

  /// Samples all rows that were added.
  package mutating func run() {
    rows.withUnsafeMutableBufferPointer { rows in
      guard let first = rows.baseAddress else { return }
      var job = qe_sampling(rows: first, count: rows.count)
      qe_run_sampling(workers, &job)
    }
  }

  /// The next token of a row, in the order they were added. If no logit is usable: the lowest usable id.
  package func token(_ row: Int) -> Int32 { rows[row].token }

  /// nil if they were not asked for.
  package func logProbabilities(_ row: Int) -> TokenLogProbabilities? {
    rows[row].top_wanted < 0 ? nil : TokenLogProbabilities(rows[row])
  }

  /// One row alone.
  package mutating func sample(
    logits: UnsafeBufferPointer<Float>, parameters: SamplingParameters, generator: inout SamplerGenerator
  ) -> Int32 {
    begin()
    add(logits: logits, parameters: parameters, generator: &generator)
    run()
    return token(0)
  }
}

/// Ids that are not sampled.
private struct TokenMask {
  let ids: UnsafeMutableBufferPointer<Int32>  // rising, owned by whoever has the mask
  let fallback: Int32  // the lowest that is not among them

  init(_ tokens: [Int32], vocabularySize: Int) {
    let sorted = Set(tokens).filter { $0 >= 0 && Int($0) < vocabularySize }.sorted()
    ids = .allocate(capacity: sorted.count)
    _ = ids.initialize(from: sorted)
    let first = zip(sorted, Int32(0)...).first { $0 != $1 }?.1 ?? Int32(sorted.count)
    fallback = Int(first) < vocabularySize ? first : 0
  }
}

/// Log-softmax over ALL raw logits (no mask, temperature 1); equal values: the lower id first. Never below -9999 (vLLM's stand-in for -inf).
package struct TokenLogProbabilities: Sendable {
  package struct Entry: Sendable, Equatable {
    package let token: Int32
    package let logProbability: Float
  }

  package let chosen: Float
  package let top: [Entry]

  package static let maximumTopCount = Int(QE_TOP_MAX)
  package static let floor: Float = -9999

  package init(chosen: Float, top: [Entry]) {
    self.chosen = chosen
    self.top = top
  }
}

extension TokenLogProbabilities {
  /// Of a row that was sampled with log-probabilities.
  init(_ row: qe_sampled_row) {
    func logProbability(_ logit: Float) -> Float {
      guard logit.isFinite, row.normaliser.isFinite else { return Self.floor }
      return max(Float(Double(logit) - row.normaliser), Self.floor)
    }
    chosen = row.token >= 0 && row.token < row.count ? logProbability(row.logits[Int(row.token)]) : Self.floor
    top = withUnsafeBytes(of: row.top) { best in
      best.bindMemory(to: qe_candidate.self).prefix(Int(row.top_count)).map {
        Entry(token: $0.id, logProbability: logProbability($0.key))
      }
    }
  }
}
