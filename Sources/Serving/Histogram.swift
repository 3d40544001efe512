// A Prometheus histogram: counts by upper bound, a sum. Knows no names and no labels.

package struct Histogram: Sendable {
  /// Ascending upper bounds, without +Inf.
  package let bounds: [Double]
  /// By bound, not cumulated; the last one is for everything above all bounds.
  private(set) var counts: [UInt64]
  private(set) var sum = 0.0

  package init(bounds: [Double]) {
    self.bounds = bounds
    counts = [UInt64](repeating: 0, count: bounds.count + 1)
  }

  package mutating func observe(_ value: Double) {
    guard value.isFinite else { return }
    var index = 0
    while index < bounds.count, value > bounds[index] { index += 1 }
    counts[index] += 1
    sum += value
  }

  var total: UInt64 { counts.reduce(0, +) }

  // vLLM's bounds (vllm/v1/metrics/loggers.py), so that its dashboards compare like with like.

  static let timeToFirstToken = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
  ]
  static let perToken = [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80]
  static let requestLatency = [
    0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
  ]
  static let iterationTokens: [Double] = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
  static let choices: [Double] = [1, 2, 5, 10, 20]

  /// 1, 2, 5, 10, 20, 50 ... up to `limit`.
  static func oneTwoFive(upTo limit: Int) -> [Double] {
    var bounds: [Double] = []
    var decade = 1.0
    while true {
      for digit in [1.0, 2, 5] {
        guard digit * decade <= Double(max(limit, 1)) else { return bounds }
        bounds.append(digit * decade)
      }
      decade *= 10
    }
  }
}
