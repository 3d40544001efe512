// Rotary positions with YaRN (SPEC 2.3): frequencies, the magnitude on cos/sin, the factor on the softmax scale.
// Angles are float32 products as in transformers. Knows nothing of heads or caches.

import Glibc
import ModelFile

package struct RotaryEmbedding: Sendable {
  package let inverseFrequencies: [Float]  // [ropeDim / 2]
  /// Multiplies cosines and sines; 1 for every release.
  package let magnitude: Float
  /// (n + r)^(-1/2) times YaRN's mscale squared.
  package let softmaxScale: Float
  package let interleaved: Bool

  package init(_ model: Hyperparameters) {
    let width = model.ropeDim
    var frequencies: [Float] = (0..<width / 2).map { 1 / powf(Float(model.ropeTheta), Float(2 * $0) / Float(width)) }
    var magnitude = 1.0
    var scale = 1 / Double(model.nopeDim + model.ropeDim).squareRoot()
    if let yarn = model.yarn {
      let ramp = Self.ramp(yarn, width: width, theta: model.ropeTheta)
      for j in frequencies.indices {
        frequencies[j] = frequencies[j] / Float(yarn.factor) * ramp[j] + frequencies[j] * (1 - ramp[j])
      }
      magnitude = Self.magnitude(yarn)
      if let all = yarn.mscaleAllDim, all != 0 {
        let m = Self.mscale(factor: yarn.factor, all)
        scale *= m * m
      }
    }
    inverseFrequencies = frequencies
    self.magnitude = Float(magnitude)
    softmaxScale = Float(scale)
    interleaved = model.ropeInterleaved
  }

  /// Cosines and sines of one position, [ropeDim / 2] each.
  package func fill(position: Int, cosine: UnsafeMutablePointer<Float>, sine: UnsafeMutablePointer<Float>) {
    for j in inverseFrequencies.indices {
      let angle = Float(position) * inverseFrequencies[j]
      cosine[j] = cosf(angle) * magnitude
      sine[j] = sinf(angle) * magnitude
    }
  }

  /// 1 without scaling, else 0.1 m ln(factor) + 1.
  package static func mscale(factor: Double, _ m: Double) -> Double { factor <= 1 ? 1 : 0.1 * m * log(factor) + 1 }

  private static func magnitude(_ yarn: YarnScaling) -> Double {
    if let given = yarn.attentionFactor { return given }
    if let m = yarn.mscale, let all = yarn.mscaleAllDim, m != 0, all != 0 {
      return mscale(factor: yarn.factor, m) / mscale(factor: yarn.factor, all)
    }
    return mscale(factor: yarn.factor, 1)
  }

  /// 0: frequency kept; 1: divided by the factor.
  private static func ramp(_ yarn: YarnScaling, width: Int, theta: Double) -> [Float] {
    func correction(_ rotations: Double) -> Double {
      Double(width) * log(Double(yarn.originalContext) / (rotations * 2 * .pi)) / (2 * log(theta))
    }
    let low = max(correction(yarn.betaFast).rounded(.down), 0)
    let high = min(correction(yarn.betaSlow).rounded(.up), Double(width - 1))
    let span = Float(max(high - low, 0.001))  // equal ends: a step (Kimi-K2)
    return (0..<width / 2).map { min(max((Float($0) - Float(low)) / span, 0), 1) }
  }
}
