// What the engine counts while it runs: tokens per expert. Running totals; reading resets nothing.

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
