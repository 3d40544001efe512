// Percentiles of measured values, as load tests quote them. Knows no units and no clocks.

/// Sorted once, asked often.
package struct Percentiles: Sendable {
  private let sorted: [Double]

  package init(_ values: [Double]) { sorted = values.sorted() }

  /// The value at rank `count * percent / 100`, counted from 0 and cut to the last: always one that was measured, never between two.
  /// nil without values. `percent` outside 0...100 is taken as the nearer end.
  package subscript(percent: Double) -> Double? {
    guard !sorted.isEmpty else { return nil }
    let rank = Double(sorted.count) * min(max(percent, 0), 100) / 100
    return sorted[min(sorted.count - 1, Int(rank))]
  }

  package var largest: Double? { sorted.last }
}
