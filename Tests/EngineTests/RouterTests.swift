// The router (SPEC 2.5) against a plain Swift version of the same rules, and the grouping of pairs by expert.

import CEngine
import Testing

@testable import Engine

@Suite struct RouterTests {
  struct Case: Sendable {
    var experts: Int
    var chosen: Int
    var groups = 1
    var kept = 1
    var sigmoid = false
    var selection = QE_GREEDY
    var normalize = false
    var scale: Float = 1
  }

  static let cases = [
    Case(experts: 64, chosen: 6), Case(experts: 8, chosen: 3), Case(experts: 5, chosen: 5),
    Case(experts: 160, chosen: 6, groups: 8, kept: 3, selection: QE_GROUP_MAX, scale: 16),
    Case(experts: 16, chosen: 4, groups: 4, kept: 2, selection: QE_GROUP_MAX, normalize: true),
    Case(experts: 256, chosen: 8, groups: 8, kept: 4, sigmoid: true, selection: QE_GROUP_BIASED, normalize: true, scale: 2.5),
    Case(experts: 64, chosen: 6, sigmoid: true, selection: QE_GROUP_BIASED, normalize: true, scale: 2.446),
    Case(experts: 8, chosen: 2, groups: 8, kept: 2, sigmoid: true, selection: QE_GROUP_BIASED),
  ]

  /// Rows of (experts, weights).
  static func run(_ c: Case, logits: [Float], bias: [Float]?, threads: Int = 2) throws -> (slots: [Int32], weights: [Float]) {
    let pool = try WorkerPool(threads: threads, kernels: nil)
    let count = logits.count / c.experts
    var logits = logits
    var slots = [Int32](repeating: -1, count: count * c.chosen)
    var weights = [Float](repeating: .nan, count: count * c.chosen)
    logits.withUnsafeMutableBufferPointer { logits in
      slots.withUnsafeMutableBufferPointer { slots in
        weights.withUnsafeMutableBufferPointer { weights in
          (bias ?? []).withUnsafeBufferPointer { biasPointer in
            guard let l = logits.baseAddress, let s = slots.baseAddress, let w = weights.baseAddress else { return }
            var route = qe_route(
              count: count, experts: c.experts, chosen: c.chosen, groups: c.groups, groups_kept: c.kept, logits: l,
              bias: bias == nil ? nil : biasPointer.baseAddress, sigmoid: c.sigmoid, selection: c.selection, normalize: c.normalize,
              scale: c.scale, slots: s, weights: w)
            qe_run_route(pool.workers, &route)
          }
        }
      }
    }
    return (slots, weights)
  }

  static func naive(_ c: Case, logits: ArraySlice<Float>, bias: [Float]?) -> (slots: [Int], weights: [Float]) {
    let logits = logits.map(Double.init)
    var scores: [Double]
    if c.sigmoid {
      scores = logits.map { 1 / (1 + exponential(-$0)) }
    } else {
      let largest = logits.max() ?? 0
      let powers = logits.map { exponential($0 - largest) }
      scores = powers.map { $0 / powers.reduce(0, +) }
    }
    var choice = scores
    if let bias { for e in choice.indices { choice[e] += Double(bias[e]) } }
    if c.selection != QE_GREEDY && c.groups > 1 {
      let size = c.experts / c.groups
      let groupScores = (0..<c.groups).map { g in
        let sorted = choice[g * size..<(g + 1) * size].sorted(by: >)
        return c.selection == QE_GROUP_BIASED ? sorted.prefix(2).reduce(0, +) : sorted[0]
      }
      let kept = groupScores.indices.sorted { (-groupScores[$0], $0) < (-groupScores[$1], $1) }.prefix(c.kept)
      for e in choice.indices where !kept.contains(e / size) { choice[e] = -.infinity }
    }
    let slots = Array(choice.indices.sorted { (-choice[$0], $0) < (-choice[$1], $1) }.prefix(c.chosen))
    var weights = slots.map { scores[$0] }
    if c.normalize {
      let sum = weights.reduce(0, +) + 1e-20
      weights = weights.map { $0 / sum }
    }
    return (slots, weights.map { Float($0) * c.scale })
  }

  @Test(arguments: cases.indices) func matchesPlainSwift(_ index: Int) throws {
    let c = Self.cases[index]
    var random = SamplerGenerator(seed: UInt64(index))
    let count = 300
    let logits = (0..<count * c.experts).map { _ in Float(random.nextUniform() * 8 - 4) }
    let bias = c.selection == QE_GROUP_BIASED ? (0..<c.experts).map { _ in Float(random.nextUniform() - 0.6) } : nil
    let result = try Self.run(c, logits: logits, bias: bias)
    for row in 0..<count {
      let expected = Self.naive(c, logits: logits[row * c.experts..<(row + 1) * c.experts], bias: bias)
      let range = row * c.chosen..<(row + 1) * c.chosen
      #expect(result.slots[range].map(Int.init) == expected.slots, "row \(row)")
      for (a, b) in zip(result.weights[range], expected.weights) { #expect(abs(a - b) <= 2e-6 * max(c.scale, 1), "row \(row)") }
    }
  }

  @Test func equalScoresTakeTheLowerIndex() throws {
    let c = Case(experts: 16, chosen: 4, groups: 4, kept: 2, sigmoid: true, selection: QE_GROUP_BIASED)
    let result = try Self.run(c, logits: [Float](repeating: 0.25, count: 16), bias: [Float](repeating: 0.5, count: 16))
    #expect(result.slots == [0, 1, 2, 3])
  }

  /// Weights of a broken file can make anything; the choice stays inside the experts and no expert comes twice.
  @Test func nonFiniteLogitsStayInside() throws {
    for bad in [Float.nan, .infinity, -.infinity] {
      for c in Self.cases {
        var logits = [Float](repeating: bad, count: 2 * c.experts)
        logits[c.experts + 1] = 1
        let bias = c.selection == QE_GROUP_BIASED ? [Float](repeating: bad, count: c.experts) : nil
        let result = try Self.run(c, logits: logits, bias: bias)
        for row in 0..<2 {
          let slots = result.slots[row * c.chosen..<(row + 1) * c.chosen]
          #expect(slots.allSatisfy { $0 >= 0 && $0 < c.experts } && Set(slots).count == c.chosen)
        }
      }
    }
  }

  @Test func pairsAreGroupedByExpert() {
    let (count, experts, chosen) = (50, 7, 3)
    var random = SamplerGenerator(seed: 9)
    var slots: [Int32] = []
    for _ in 0..<count { slots += (0..<Int32(experts)).shuffled(using: &random).prefix(chosen) }
    var first = [Int32](repeating: -1, count: experts + 1)
    var tokens = [Int32](repeating: -1, count: count * chosen)
    var places = [Int32](repeating: -1, count: count * chosen)
    var load = [UInt64](repeating: 1, count: experts)
    first.withUnsafeMutableBufferPointer { first in
      tokens.withUnsafeMutableBufferPointer { tokens in
        places.withUnsafeMutableBufferPointer { places in
          load.withUnsafeMutableBufferPointer { load in
            slots.withUnsafeBufferPointer { slots in
              guard let s = slots.baseAddress, let f = first.baseAddress, let t = tokens.baseAddress, let p = places.baseAddress,
                let l = load.baseAddress
              else { return }
              var job = qe_grouping(
                count: count, experts: experts, chosen: chosen, slots: s, first: f, pair_token: t, pair_of_slot: p, load: l)
              qe_group_by_expert(&job)
            }
          }
        }
      }
    }
    #expect(first[0] == 0 && first[experts] == Int32(count * chosen))
    #expect(places.sorted() == (0..<Int32(count * chosen)).map { $0 })
    for (slot, place) in places.enumerated() {
      #expect(tokens[Int(place)] == Int32(slot / chosen))
      #expect(place >= first[Int(slots[slot])] && place < first[Int(slots[slot]) + 1])
    }
    for e in 0..<experts {
      let range = tokens[Int(first[e])..<Int(first[e + 1])]
      #expect(Array(range) == range.sorted())
      #expect(load[e] == UInt64(range.count + 1))
    }
  }
}

/// e^x without importing a math library into a test of arithmetic: the series at x / 1024, squared ten times.
private func exponential(_ x: Double) -> Double {
  let y = x / 1024
  var term = 1.0
  var sum = 1.0
  for n in 1..<12 {
    term *= y / Double(n)
    sum += term
  }
  for _ in 0..<10 { sum *= sum }
  return sum
}
