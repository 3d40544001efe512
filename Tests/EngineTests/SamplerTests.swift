// The sampler: distributions within chi-square bounds for fixed seeds, filters against a sorted reference, hostile logits, determinism.

import CEngine
import Glibc
import ModelFile
import Testing

@testable import Engine

@Suite struct SamplerTests {
  /// Probabilities after temperature, top-k, top-p, min-p, by sorting everything.
  static func reference(_ logits: [Float], _ p: SamplingParameters, masked: Set<Int32> = []) -> [Double] {
    var order = logits.indices.filter { logits[$0].isFinite && !masked.contains(Int32($0)) }
    order.sort { (-logits[$0], $0) < (-logits[$1], $1) }
    if p.topK > 0 { order = Array(order.prefix(p.topK)) }
    let best = Double(logits[order[0]])
    var weights = order.map { exp((Double(logits[$0]) - best) / Double(p.temperature)) }
    if p.topP < 1 {
      let total = weights.reduce(0, +)
      var running = 0.0
      var keep = 0
      while keep < weights.count && (keep == 0 || running < Double(p.topP) * total) {
        running += weights[keep]
        keep += 1
      }
      order = Array(order.prefix(keep))
      weights = Array(weights.prefix(keep))
    }
    if p.minP > 0 {
      let keep = weights.prefix { $0 >= Double(p.minP) }.count
      order = Array(order.prefix(keep))
      weights = Array(weights.prefix(keep))
    }
    let total = weights.reduce(0, +)
    var result = [Double](repeating: 0, count: logits.count)
    for (index, weight) in zip(order, weights) { result[index] = weight / total }
    return result
  }

  static func draw(_ logits: [Float], _ p: SamplingParameters, count: Int, masked: [Int32] = [], seed: UInt64 = 1) -> [Int32] {
    var sampler = Sampler(vocabularySize: logits.count, maskedTokens: masked)
    var generator = SamplerGenerator(seed: seed)
    return logits.withUnsafeBufferPointer { row in
      (0..<count).map { _ in sampler.sample(logits: row, parameters: p, generator: &generator) }
    }
  }

  static func randomLogits(_ count: Int, seed: UInt64, spread: Double = 6) -> [Float] {
    var random = SamplerGenerator(seed: seed)
    return (0..<count).map { _ in Float(random.nextUniform() * spread) }
  }

  static let settings: [SamplingParameters] = [
    SamplingParameters(), SamplingParameters(temperature: 0.5), SamplingParameters(temperature: 3),
    SamplingParameters(topK: 7), SamplingParameters(topP: 0.6), SamplingParameters(minP: 0.1),
    SamplingParameters(temperature: 0.7, topK: 20, topP: 0.8, minP: 0.02), SamplingParameters(temperature: 2, topK: 1000, topP: 0.95),
    SamplingParameters(topP: 0), SamplingParameters(topK: 1), SamplingParameters(minP: 1),
  ]

  /// Chi-square over the cells with at least 8 expected draws (the rest pooled): below mean + 6 standard deviations.
  @Test(arguments: settings.indices) func distribution(_ index: Int) {
    let p = Self.settings[index]
    for (seed, masked) in [(UInt64(1), [Int32]()), (2, [3, 17, 18, 90])] {
      let logits = Self.randomLogits(120, seed: seed)
      let expected = Self.reference(logits, p, masked: Set(masked))
      let draws = 20_000
      var counts = [Int](repeating: 0, count: logits.count)
      for token in Self.draw(logits, p, count: draws, masked: masked, seed: seed) { counts[Int(token)] += 1 }
      var statistic = 0.0
      var cells = 0
      var pooled = (expected: 0.0, seen: 0)
      for (probability, seen) in zip(expected, counts) {
        if probability == 0 { #expect(seen == 0) }
        let mean = probability * Double(draws)
        if mean >= 8 {
          statistic += (Double(seen) - mean) * (Double(seen) - mean) / mean
          cells += 1
        } else {
          pooled.expected += mean
          pooled.seen += seen
        }
      }
      if pooled.expected > 1 { statistic += pow(Double(pooled.seen) - pooled.expected, 2) / pooled.expected }
      let freedom = Double(max(cells, 1))
      #expect(statistic < freedom + 6 * (2 * freedom).squareRoot() + 10, "\(p): \(statistic) for \(cells) cells")
    }
  }

  /// The kept set of every filter on vocabularies with ties, constants and one peak, against the sorted reference.
  @Test func filtersKeepTheRightTokens() {
    var random = SamplerGenerator(seed: 5)
    for round in 0..<60 {
      let size = [3, 40, 700, 3000][round % 4]
      var logits = Self.randomLogits(size, seed: UInt64(round))
      if round % 3 == 1 { logits = logits.map { ($0 * 2).rounded() } }
      if round % 7 == 2 { logits = logits.map { _ in 1 } }
      if round % 5 == 3 { logits[size / 2] = 40 }
      let p = SamplingParameters(
        temperature: Float(0.3 + random.nextUniform() * 2), topK: round % 2 == 0 ? Int(random.next() % UInt64(size + 2)) : 0,
        topP: round % 3 == 0 ? 1 : Float(random.nextUniform()), minP: round % 4 == 0 ? Float(random.nextUniform() / 4) : 0)
      let expected = Self.reference(logits, p)
      let kept = Set(expected.indices.filter { expected[$0] > 0 })
      let drawn = Set(Self.draw(logits, p, count: 400, seed: UInt64(round)).map(Int.init))
      // On the very edge of the nucleus float rounding may differ by one token of equal rank.
      #expect(drawn.subtracting(kept).count <= (p.topP < 1 ? 1 : 0), "\(p) size \(size)")
      if kept.count <= 3 { #expect(kept.subtracting(drawn).count <= 1, "\(p) size \(size)") }
    }
  }

  @Test func selectionsMatchSorting() {
    for round in 0..<80 {
      let size = [1, 5, 60, 2500][round % 4]
      var values = Self.randomLogits(size, seed: UInt64(round))
      if round % 3 == 0 { values = values.map { ($0 * 3).rounded() } }
      if round % 10 == 9 { values = values.map { _ in 2 } }
      let sorted = values.indices.sorted { (-values[$0], $0) < (-values[$1], $1) }
      var candidates = [qe_candidate](repeating: qe_candidate(), count: max(size, 1024))
      for k in [1, 2, 7, size / 2, size] where k > 0 {
        let found = qe_select_top(values, Int32(size), Int32(k), &candidates)
        #expect(Set(candidates.prefix(Int(found)).map { Int($0.id) }) == Set(sorted.prefix(k)), "top \(k) of \(size)")
        let few = min(k, 20)
        let best = qe_top_sorted(values, Int32(size), Int32(few), &candidates)
        #expect(candidates.prefix(Int(best)).map { Int($0.id) } == Array(sorted.prefix(few)))
      }
      let total = values.reduce(0.0) { $0 + Double($1) }
      for share in [0, 0.1, 0.5, 0.999] {
        for (index, value) in values.enumerated() { candidates[index] = qe_candidate(key: value, id: Int32(index)) }
        let kept = Int(qe_select_mass(&candidates, Int32(size), share * total))
        #expect(Set(candidates.prefix(kept).map { Int($0.id) }) == Set(sorted.prefix(kept)), "mass \(share) of \(size)")
        let mass = sorted.prefix(kept).reduce(0.0) { $0 + Double(values[$1]) }
        let before = sorted.prefix(kept - 1).reduce(0.0) { $0 + Double(values[$1]) }
        #expect(mass >= share * total - 1e-6 && (kept == 1 || before < share * total + 1e-6))
      }
    }
  }

  @Test func greedyTakesTheLowestOfEqualLogits() {
    #expect(Self.draw([1, 5, 5, 2], .greedy, count: 1) == [1])
    #expect(Self.draw([1, 5, 5, 2], .greedy, count: 1, masked: [1]) == [2])
    #expect(Self.draw([1, 5, 5, 2], SamplingParameters(temperature: -1), count: 1) == [1])
    #expect(Self.draw([1, 5, 5, 2], SamplingParameters(temperature: .nan), count: 1) == [1])
    #expect(Self.draw(Self.randomLogits(1003, seed: 3) + [100], .greedy, count: 1) == [1003])
  }

  @Test func nonFiniteLogitsNeverWinAndNeverTrap() {
    let bad: [Float] = [.nan, .infinity, -.infinity, 1, -.nan, 0.5]
    for p in Self.settings + [.greedy, SamplingParameters(temperature: .leastNonzeroMagnitude), SamplingParameters(temperature: .infinity)]
    {
      #expect(Set(Self.draw(bad, p, count: 50)).isSubset(of: [3, 5]), "\(p)")
      #expect(Self.draw([.nan, .nan], p, count: 1) == [0])
      #expect(Self.draw([.nan, .nan, .nan], p, count: 1, masked: [0, 1]) == [2])
      #expect(Self.draw([1, 2], p, count: 1, masked: [0, 1]) == [0])
      #expect(Self.draw([.greatestFiniteMagnitude, -.greatestFiniteMagnitude], p, count: 1) == [0])
    }
    let odd = [
      SamplingParameters(topK: .max), SamplingParameters(topK: .min), SamplingParameters(topP: .nan), SamplingParameters(topP: -3),
      SamplingParameters(minP: .nan), SamplingParameters(minP: 9), SamplingParameters(topP: .infinity),
    ]
    for p in odd { #expect(Self.draw([1, 2, 3], p, count: 20).allSatisfy { (0..<3).contains($0) }) }
  }

  @Test func seedsDecideAndStreamsDiffer() {
    let logits = Self.randomLogits(500, seed: 8)
    let p = SamplingParameters(temperature: 1.2, topP: 0.9)
    #expect(Self.draw(logits, p, count: 100, seed: 4) == Self.draw(logits, p, count: 100, seed: 4))
    #expect(Self.draw(logits, p, count: 100, seed: 4) != Self.draw(logits, p, count: 100, seed: 5))
    var first = SamplerGenerator(seed: 1, stream: 0)
    var second = SamplerGenerator(seed: 1, stream: 1)
    #expect(first.next() != second.next())
    var unseeded = SamplerGenerator(seed: nil)
    var other = SamplerGenerator(seed: nil)
    #expect(unseeded.next() != other.next())
    // One number per draw, whatever the filters: the position in the stream is the number of tokens.
    var sampler = Sampler(vocabularySize: 500)
    for p in Self.settings {
      var generator = SamplerGenerator(seed: 3)
      var plain = SamplerGenerator(seed: 3)
      _ = logits.withUnsafeBufferPointer { sampler.sample(logits: $0, parameters: p, generator: &generator) }
      _ = plain.next()
      #expect(generator.next() == plain.next())
    }
  }

  @Test func uniformsAreUniform() {
    var generator = SamplerGenerator(seed: 77)
    var cells = [Int](repeating: 0, count: 100)
    for _ in 0..<100_000 { cells[Int(generator.nextUniform() * 100)] += 1 }
    let statistic = cells.reduce(0.0) { $0 + pow(Double($1) - 1000, 2) / 1000 }
    #expect(statistic < 99 + 6 * (2 * 99.0).squareRoot())
  }

  /// A large flat vocabulary is the worst case of the nucleus; it must not be quadratic (this would take minutes).
  @Test func largeVocabularies() {
    let flat = [Float](repeating: 0.5, count: 150_000)
    let tokens = Self.draw(flat, SamplingParameters(topP: 0.5), count: 20)
    #expect(tokens.allSatisfy { $0 < 75_001 })
    #expect(Self.draw(flat, SamplingParameters(topK: 140_000, topP: 0.9), count: 5).allSatisfy { $0 < 140_000 })
    let rising = (0..<150_000).map { Float($0) * 1e-5 }
    #expect(Self.draw(rising, SamplingParameters(topK: 50), count: 20).allSatisfy { $0 >= 149_950 })
    #expect(Self.draw(Array(rising.reversed()), SamplingParameters(topK: 50, topP: 0.9), count: 20).allSatisfy { $0 < 50 })
  }

  /// Of a row whose token is `chosen`, whatever the sampler would choose.
  private func ofRow(_ logits: [Float], chosen: Int32, topCount: Int32) -> TokenLogProbabilities {
    logits.withUnsafeBufferPointer { values in
      var row = qe_sampled_row()
      row.logits = values.baseAddress
      row.count = Int32(values.count)
      row.top_wanted = topCount
      let scratch = UnsafeMutableRawPointer.allocate(byteCount: qe_sample_scratch_bytes(values.count), alignment: 16)
      defer { scratch.deallocate() }
      qe_sample_row(&row, scratch)
      row.token = chosen
      return TokenLogProbabilities(row)
    }
  }

  /// Rows together on the workers of a pool give what each gives alone.
  @Test func rowsTogether() throws {
    guard let tiny = TinyModels.directories.first else { return }
    let model = try ModelFile(path: tiny.path)
    let options = EngineOptions(threads: 3, cacheTokens: 64, maxBatchTokens: 8, maxSequences: 4)
    let size = model.hyperparameters.vocabularySize
    let transformer = try Transformer(model: model, options: options)
    var together = Sampler(vocabularySize: size, maskedTokens: [5, 0, 1], earlyMaskedTokens: [2, 3], transformer: transformer)
    let rows = (0..<200).map { Self.randomLogits(size, seed: UInt64($0)) }
    var generators = rows.indices.map { SamplerGenerator(seed: UInt64($0)) }
    let buffers = rows.map { row in
      let buffer = UnsafeMutableBufferPointer<Float>.allocate(capacity: size)
      _ = buffer.initialize(from: row)
      return buffer
    }
    defer { for buffer in buffers { buffer.deallocate() } }
    for _ in 0..<3 {
      var alone = generators
      together.begin()
      for index in rows.indices {
        together.add(
          logits: UnsafeBufferPointer(buffers[index]), parameters: Self.settings[index % Self.settings.count],
          generator: &generators[index], isEarly: index % 3 == 0, topCount: index % 4 == 0 ? index % 21 : nil)
      }
      together.run()
      for index in rows.indices {
        let masked: [Int32] = index % 3 == 0 ? [0, 1, 2, 3, 5] : [0, 1, 5]
        var single = Sampler(vocabularySize: size, maskedTokens: masked)
        let token = single.sample(
          logits: UnsafeBufferPointer(buffers[index]), parameters: Self.settings[index % Self.settings.count], generator: &alone[index])
        #expect(together.token(index) == token && !masked.contains(token))
        #expect((together.logProbabilities(index)?.top.count ?? -1) == (index % 4 == 0 ? index % 21 : -1))
      }
    }
  }

  @Test func logProbabilities() {
    let logits: [Float] = [1, 3, .nan, 3, -2, .infinity, 0.5]
    let result = ofRow(logits, chosen: 4, topCount: 20)
    let sum = log([1, 3, 3, -2, 0.5].reduce(0.0) { $0 + exp($1) })
    #expect(result.top.map(\.token) == [1, 3, 0, 6, 4])
    for entry in result.top { #expect(abs(Double(entry.logProbability) - (Double(logits[Int(entry.token)]) - sum)) < 1e-5) }
    #expect(abs(Double(result.chosen) - (-2 - sum)) < 1e-5)
    let few = ofRow(logits, chosen: 2, topCount: 2)
    #expect(few.top.map(\.token) == [1, 3] && few.chosen == TokenLogProbabilities.floor)
    let none = ofRow(logits, chosen: 99, topCount: -1)
    #expect(none.top.isEmpty && none.chosen == TokenLogProbabilities.floor)
    let nothing = ofRow([.nan, .nan], chosen: 0, topCount: 5)
    #expect(nothing.top.isEmpty && nothing.chosen == TokenLogProbabilities.floor)
    let large = Self.randomLogits(100_000, seed: 6, spread: 20)
    let full = ofRow(large, chosen: 77, topCount: 20)
    let best = large.indices.sorted { (-large[$0], $0) < (-large[$1], $1) }.prefix(20).map(Int32.init)
    let total = log(large.reduce(0.0) { $0 + exp(Double($1)) })
    #expect(full.top.map(\.token) == Array(best))
    #expect(abs(Double(full.chosen) - (Double(large[77]) - total)) < 1e-5)
  }
}
