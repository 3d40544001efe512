// RoPE and YaRN numbers of SPEC 2.3.

import ModelFile
import Testing

@testable import Engine

@Suite struct RotaryEmbeddingTests {
  static func shape(n: Int = 128, r: Int = 64, theta: Double = 10_000, yarn: YarnScaling? = nil) -> Hyperparameters {
    var shape = Hyperparameters()
    shape.nopeDim = n
    shape.ropeDim = r
    shape.ropeTheta = theta
    shape.yarn = yarn
    return shape
  }

  static func yarn(_ factor: Double, _ m: Double?, _ all: Double?, fast: Double = 32, slow: Double = 1, attention: Double? = nil)
    -> YarnScaling
  {
    YarnScaling(
      factor: factor, originalContext: 4096, betaFast: fast, betaSlow: slow, mscale: m, mscaleAllDim: all, attentionFactor: attention)
  }

  @Test(arguments: [
    (shape(), 0.07216878), (shape(yarn: yarn(40, 0.707, 0.707)), 0.11472139), (shape(yarn: yarn(40, 1, 1)), 0.13523378),
    (shape(theta: 50_000, yarn: yarn(32, 1, 1, fast: 1, slow: 1)), 0.13086080),
    (shape(theta: 50_000, yarn: yarn(64, 1, 1, fast: 1, slow: 1)), 0.14467963), (shape(n: 192), 0.0625),
    (shape(yarn: yarn(40, 1, nil)), 0.07216878),
  ])
  func softmaxScale(_ shape: Hyperparameters, _ expected: Double) {
    #expect(abs(Double(RotaryEmbedding(shape).softmaxScale) - expected) < 1e-7)
  }

  @Test func magnitude() {
    let equal = RotaryEmbedding(Self.shape(yarn: Self.yarn(40, 0.707, 0.707)))
    #expect(equal.magnitude == 1)
    let ratio = RotaryEmbedding(Self.shape(yarn: Self.yarn(40, 1, 0.5)))
    #expect(abs(ratio.magnitude - 1.368888 / 1.184444) < 1e-5)
    #expect(abs(RotaryEmbedding(Self.shape(yarn: Self.yarn(40, nil, nil))).magnitude - 1.368888) < 1e-5)
    #expect(RotaryEmbedding(Self.shape(yarn: Self.yarn(40, 1, 0.5, attention: 1.25))).magnitude == 1.25)
    #expect(RotaryEmbedding(Self.shape(yarn: Self.yarn(0.5, nil, nil))).magnitude == 1)
  }

  /// V2/V3: pairs up to 10 keep their frequency, from 23 on it is divided by 40. Kimi-K2: a step between 19 and 20.
  @Test func correctionRange() {
    for (shape, factor, low, high) in [
      (Self.shape(yarn: Self.yarn(40, 1, 1)), Float(40), 10, 23),
      (Self.shape(theta: 50_000, yarn: Self.yarn(32, 1, 1, fast: 1, slow: 1)), 32, 19, 20),
    ] {
      var plain = shape
      plain.yarn = nil
      let expected = RotaryEmbedding(plain).inverseFrequencies
      let scaled = RotaryEmbedding(shape).inverseFrequencies
      for j in expected.indices {
        if j <= low { #expect(scaled[j] == expected[j], "pair \(j)") }
        if j >= high { #expect(abs(scaled[j] * factor / expected[j] - 1) < 1e-6, "pair \(j)") }
        if j > low && j < high { #expect(scaled[j] < expected[j] && scaled[j] > expected[j] / factor, "pair \(j)") }
      }
    }
  }

  @Test func anglesAreFloat32Products() {
    let rotary = RotaryEmbedding(Self.shape(r: 4))
    #expect(rotary.inverseFrequencies == [1, 0.01])
    var cosine: [Float] = [0, 0]
    var sine: [Float] = [0, 0]
    rotary.fill(position: 3, cosine: &cosine, sine: &sine)
    #expect(abs(cosine[0] - -0.9899925) < 1e-6 && abs(sine[0] - 0.14112) < 1e-6)
    #expect(abs(cosine[1] - 0.99955) < 1e-6 && abs(sine[1] - 0.0299955) < 1e-6)
  }

  /// Numbers from a file may be anything positive; none may stop the process.
  @Test func hostileNumbersDoNotTrap() {
    for theta in [1.0000001, 1e300] {
      for factor in [1e-300, 1e5] {
        for beta in [1e-300, 1e300] {
          let shape = Self.shape(theta: theta, yarn: Self.yarn(factor, 999, -999, fast: beta, slow: 1 / beta))
          _ = RotaryEmbedding(shape)
        }
      }
    }
  }
}
