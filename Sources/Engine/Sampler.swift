// Chooses the next token from a row of logits. Knows vocabularies and random numbers, not text, sequences or batches.
// Order of the filters: temperature, then top-k, then top-p over what top-k left, then min-p relative to the most probable token
// (vLLM's order). Non-finite logits count as -inf; nothing in a row of logits can stop the process.

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

/// Confined to the engine thread; its buffers are reused by every call.
package struct Sampler: ~Copyable {
  package let vocabularySize: Int
  private let masked: [Int32]
  private let clean: UnsafeMutableBufferPointer<Float>  // [vocabularySize] finite logits or -inf
  private let weights: UnsafeMutableBufferPointer<Float>  // [vocabularySize]
  private let candidates: UnsafeMutableBufferPointer<qe_candidate>  // [vocabularySize]
  private let fallback: Int32

  /// `maskedTokens` are never sampled (ids the tokenizer lacks); ids outside the vocabulary are ignored.
  package init(vocabularySize: Int, maskedTokens: [Int32] = []) {
    let size = min(max(vocabularySize, 1), Int(Int32.max) / 4)
    self.vocabularySize = size
    masked = Set(maskedTokens).filter { $0 >= 0 && Int($0) < size }.sorted()
    clean = .allocate(capacity: size)
    clean.initialize(repeating: 0)
    weights = .allocate(capacity: size)
    weights.initialize(repeating: 0)
    candidates = .allocate(capacity: size)
    candidates.initialize(repeating: qe_candidate(key: 0, id: 0))
    var first: Int32 = 0
    for id in masked {
      guard id == first else { break }
      first += 1
    }
    fallback = Int(first) < size ? first : 0
  }

  deinit {
    clean.deallocate()
    weights.deallocate()
    candidates.deallocate()
  }

  /// The next token. `logits` [vocabularySize]. One number is drawn from `generator` unless greedy. If no logit is usable: the lowest usable id.
  package mutating func sample(
    logits: UnsafeBufferPointer<Float>, parameters: SamplingParameters, generator: inout SamplerGenerator
  ) -> Int32 {
    let count = Int32(min(logits.count, vocabularySize))
    guard count > 0, let source = logits.baseAddress, let clean = clean.baseAddress else { return fallback }
    if parameters.isGreedy && masked.isEmpty {
      let best = qe_argmax_finite(source, count)
      return best < 0 ? fallback : best
    }
    masked.withUnsafeBufferPointer {
      qe_sanitize_logits(source, count, $0.baseAddress, Int32($0.count), clean)
    }
    let best = qe_argmax_finite(clean, count)
    guard best >= 0 else { return fallback }
    if parameters.isGreedy { return best }
    let uniform = generator.nextUniform()
    let token = draw(count: count, maximum: clean[Int(best)], parameters: parameters, uniform: uniform)
    return token < 0 ? best : token
  }

  private func draw(count: Int32, maximum: Float, parameters: SamplingParameters, uniform: Double) -> Int32 {
    guard let clean = clean.baseAddress, let weights = weights.baseAddress, let candidates = candidates.baseAddress else { return -1 }
    let temperature = min(parameters.temperature, 1e6)  // infinity would make NaN of -inf
    let topP = parameters.topP < 1 ? Double(max(parameters.topP, 0)) : 1  // NaN reads as off
    let minP = parameters.minP > 0 ? min(parameters.minP, 1) : 0
    var kept: Int32
    var total: Double
    if parameters.topK > 0 && parameters.topK < Int(count) {
      kept = qe_select_top(clean, count, Int32(parameters.topK), candidates)
      total = qe_candidate_weights(candidates, kept, maximum, temperature)
    } else {
      total = qe_softmax_weights(clean, count, maximum, temperature, weights)
      if topP >= 1 && minP == 0 { return qe_draw_weight(weights, count, total, uniform) }
      // Tokens below this floor weigh less than (1 - topP) in sum, so the nucleus lies above it; min-p's floor is relative to the best weight, 1.
      let floor = topP < 1 ? Float((1 - topP) * total / Double(count)) : minP
      kept = qe_collect_at_least(weights, count, floor, candidates)
    }
    if topP < 1 { kept = qe_select_mass(candidates, kept, topP * total) }
    if minP > 0 { kept = qe_keep_at_least(candidates, kept, minP) }
    return qe_draw_candidate(candidates, kept, uniform)
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

  package static let maximumTopCount = 20
  package static let floor: Float = -9999

  /// `topCount` is clamped to 0...20; a `chosen` outside the row gets the floor.
  package static func logProbabilities(logits: UnsafeBufferPointer<Float>, chosen: Int32, topCount: Int) -> TokenLogProbabilities {
    let count = Int32(min(logits.count, Int(Int32.max) / 4))
    guard count > 0, let source = logits.baseAddress else { return TokenLogProbabilities(chosen: floor, top: []) }
    let normaliser = qe_log_sum_exp(source, count)
    func logProbability(_ logit: Float) -> Float {
      guard logit.isFinite, normaliser.isFinite else { return floor }
      return max(Float(Double(logit) - normaliser), floor)
    }
    let wanted = min(max(topCount, 0), maximumTopCount)
    let top = withUnsafeTemporaryAllocation(of: qe_candidate.self, capacity: maximumTopCount) { best in
      let found = qe_top_sorted(source, count, Int32(wanted), best.baseAddress)
      return best.prefix(Int(found)).map { Entry(token: $0.id, logProbability: logProbability($0.key)) }
    }
    let chosenLogit = chosen >= 0 && chosen < count ? logits[Int(chosen)] : -.infinity
    return TokenLogProbabilities(chosen: logProbability(chosenLogit), top: top)
  }
}
