// What the engine counts while it runs: tokens per expert, nanoseconds per phase. Running totals; reading resets nothing.

import Glibc

/// Tokens that each expert of each mixture layer has served.
package struct ExpertLoadCounters: Sendable {
  /// One row per mixture layer, in layer order.
  package let layers: [[UInt64]]

  /// Largest over mean load of a layer (1 = even), the worst layer; nil before the first token.
  package var worstImbalance: Double? {
    layers.compactMap { row -> Double? in
      let total = row.reduce(0, &+)
      guard total > 0, let largest = row.max() else { return nil }
      return Double(largest) * Double(row.count) / Double(total)
    }.max()
  }
}

/// Where the time of all steps went.
package struct PhaseNanoseconds: Sendable, Equatable {
  package var attention: UInt64 = 0
  package var experts: UInt64 = 0
  package var dense: UInt64 = 0
  package var head: UInt64 = 0
  /// Embedding, norms and residual sums.
  package var other: UInt64 = 0

  package var total: UInt64 { attention &+ experts &+ dense &+ head &+ other }
}

/// Monotonic time between marks.
struct PhaseClock {
  private var last: UInt64

  init() { last = Self.now() }

  mutating func mark(_ total: inout UInt64) {
    let now = Self.now()
    total &+= now &- last
    last = now
  }

  private static func now() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(bitPattern: Int64(time.tv_sec)) &* 1_000_000_000 &+ UInt64(bitPattern: Int64(time.tv_nsec))
  }
}
