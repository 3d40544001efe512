// Norms, activations, rotations, reductions and conversions of every variant against double precision, for odd lengths.

import CKernels
import Glibc
import Testing

private let lengths = [0, 1, 2, 7, 15, 16, 17, 31, 33, 64, 100, 1023, 2048, 5000]

private func close(_ a: Float, _ b: Double, _ relative: Double) -> Bool { abs(Double(a) - b) <= relative * max(1, abs(b)) }

@Suite struct VectorTests {
  @Test func rmsNorm() {
    var random = Random(1)
    for variant in allVariants {
      for n in lengths {
        let (x, w) = (random.normals(n), random.normals(n))
        var y = [Float](repeating: 7, count: n + 1)
        variant.pointee.rms_norm(x, w, 1e-6, n, &y)
        let inverse = 1 / (x.reduce(0.0) { $0 + Double($1) * Double($1) } / Double(max(n, 1)) + 1e-6).squareRoot()
        for i in 0..<n { #expect(close(y[i], Double(x[i]) * Double(w[i]) * inverse, 2e-6)) }
        #expect(y[n] == 7, "\(variantName(variant)) wrote past \(n)")
        y = x
        variant.pointee.rms_norm(y, nil, 1e-6, n, &y)
        for i in 0..<n { #expect(close(y[i], Double(x[i]) * inverse, 2e-6)) }
      }
    }
  }

  @Test func softmaxSigmoidAndSilu() {
    var random = Random(2)
    for variant in allVariants {
      for n in lengths {
        let x = random.normals(n).map { $0 * 8 }
        let up = random.normals(n)
        var y = x + [7]
        variant.pointee.softmax(&y, n)
        let largest = Double(x.max() ?? 0)
        let total = x.reduce(0.0) { $0 + exp(Double($1) - largest) }
        for i in 0..<n { #expect(close(y[i], exp(Double(x[i]) - largest) / total, 1e-6)) }
        y = x + [7]
        variant.pointee.sigmoid(&y, n)
        for i in 0..<n { #expect(close(y[i], 1 / (1 + exp(-Double(x[i]))), 1e-6)) }
        var out = [Float](repeating: 7, count: n + 1)
        variant.pointee.silu_mul(x, up, n, &out)
        for i in 0..<n { #expect(close(out[i], Double(x[i]) / (1 + exp(-Double(x[i]))) * Double(up[i]), 2e-6)) }
        #expect(y[n] == 7 && out[n] == 7, "\(variantName(variant)) wrote past \(n)")
      }
    }
  }

  @Test func exponentialsAtTheEdges() {
    for variant in allVariants {
      var x: [Float] = [-.infinity, -200, -100, -87.5, 0, 88, 89, 1000, .infinity]
      variant.pointee.sigmoid(&x, x.count)
      #expect(x[0] == 0 && x[1] < 1e-37 && x[4] == 0.5 && x[6] == 1 && x[8] == 1, "\(variantName(variant)): \(x)")
      var y: [Float] = [0, -1000, -.infinity]
      variant.pointee.softmax(&y, 3)
      #expect(y == [1, 0, 0])
      var one: [Float] = [-3.5]
      variant.pointee.softmax(&one, 1)
      #expect(one == [1])
      var nan: [Float] = [.nan, 1, 2]
      variant.pointee.softmax(&nan, 3)
      #expect(nan[0].isNaN)
    }
  }

  @Test func ropeBothPairings() {
    var random = Random(5)
    for variant in allVariants {
      for (heads, width) in [(1, 2), (3, 64), (2, 16), (5, 6), (1, 34), (0, 8)] {
        let stride = width + 3
        let x = random.normals(max(heads * stride, 1))
        let angles = (0..<width / 2).map { _ in Double(random.unit()) * 6 }
        let (c, s) = (angles.map { Float(cos($0) * 1.1) }, angles.map { Float(sin($0) * 1.1) })
        for interleaved in [true, false] {
          var y = x
          if interleaved {
            variant.pointee.rope_interleaved(&y, stride, heads, width, c, s)
          } else {
            variant.pointee.rope_half_split(&y, stride, heads, width, c, s)
          }
          var expected = x.map(Double.init)
          for h in 0..<heads {
            for j in 0..<width / 2 {
              let (a, b) = interleaved ? (h * stride + 2 * j, h * stride + 2 * j + 1) : (h * stride + j, h * stride + j + width / 2)
              (expected[a], expected[b]) = (
                Double(x[a]) * Double(c[j]) - Double(x[b]) * Double(s[j]), Double(x[a]) * Double(s[j]) + Double(x[b]) * Double(c[j])
              )
            }
          }
          #expect(zip(y, expected).allSatisfy { close($0, $1, 1e-6) }, "\(variantName(variant)) \(heads)x\(width)")
        }
      }
    }
  }

  @Test func additions() {
    var random = Random(6)
    for variant in allVariants {
      for n in lengths {
        let (x, y) = (random.normals(n), random.normals(n) + [7])
        var a = y, b = y, c = y
        variant.pointee.add(&a, x, n)
        variant.pointee.axpy(&b, -0.37, x, n)
        variant.pointee.scale(&c, 3, n)
        for i in 0..<n { #expect(a[i] == y[i] + x[i] && close(b[i], Double(y[i]) - 0.37 * Double(x[i]), 1e-6) && c[i] == y[i] * 3) }
        #expect(a[n] == 7 && b[n] == 7 && c[n] == 7, "\(variantName(variant)) wrote past \(n)")
      }
    }
  }

  @Test func bfloat16Rounding() {
    var random = Random(7)
    var x = (0..<3000).map { _ in Float(bitPattern: UInt32(truncatingIfNeeded: random.bits())) }
    x += [0, -0.0, .infinity, -.infinity, .nan, 3.4e38, Float.leastNonzeroMagnitude, 1.0039062, 1.01171875, Float(bitPattern: 0x7F80_0001)]
    for variant in allVariants {
      for n in [x.count, 1, 15, 17] {
        var h = [UInt16](repeating: 7, count: x.count + 1)
        variant.pointee.f32_to_bf16(x, &h, n)
        #expect(h[n] == 7)
        var back = [Float](repeating: 7, count: x.count + 1)
        variant.pointee.bf16_to_f32(h, &back, n)
        for i in 0..<n {
          let u = x[i].bitPattern
          let expected = x[i].isNaN ? UInt16(u >> 16) | 0x40 : UInt16((u + 0x7FFF + ((u >> 16) & 1)) >> 16)
          if h[i] != expected || back[i].bitPattern != UInt32(expected) << 16 {
            Issue.record("\(variantName(variant)): \(x[i]) became \(h[i]), not \(expected)")
          }
        }
        #expect(back[n] == 7)
      }
    }
  }

  @Test func reductions() {
    var random = Random(8)
    for variant in allVariants {
      let k = variant.pointee
      #expect(k.max([], 0) == -.infinity && k.argmax([], 0) == -1 && k.logsumexp([], 0) == -.infinity)
      let special: [Float] = [.nan, -.infinity, 2, .nan, 2, 1]
      #expect(k.max(special, 6) == 2 && k.argmax(special, 6) == 2)
      #expect(k.argmax([.nan, .nan], 2) == -1 && k.argmax([.nan, -.infinity], 2) == 1)
      for n in lengths where n > 0 {
        let x = random.normals(n).map { $0 * 5 }
        let largest = x.max() ?? 0
        #expect(k.max(x, n) == largest && k.argmax(x, n) == x.firstIndex(of: largest))
        let exact = Double(largest) + log(x.reduce(0.0) { $0 + exp(Double($1) - Double(largest)) })
        #expect(abs(k.logsumexp(x, n) - exact) < 2e-6 * max(1, abs(exact)), "\(variantName(variant)) \(n)")
      }
    }
  }

  @Test func transpose() {
    var random = Random(9)
    for (rows, columns) in [(1, 1), (3, 50), (17, 16), (40, 33), (0, 5)] {
      let x = random.normals(max(rows * (columns + 2), 1))
      var y = [Float](repeating: 7, count: max(columns * (rows + 1), 1))
      qk_transpose_f32(x, rows, columns, columns + 2, &y, rows + 1)
      for i in 0..<rows { for j in 0..<columns { #expect(y[j * (rows + 1) + i] == x[i * (columns + 2) + j]) } }
    }
  }

  @Test func variantsByName() {
    #expect(qk_kernels_named("scalar") == qk_kernels_scalar())
    #expect(qk_kernels_named("avx2") == qk_kernels_avx2() && qk_kernels_named("avx512") == qk_kernels_avx512())
    for variant in allVariants where !isEmulated(variant) { #expect(qk_kernels_named(variantName(variant)) == variant) }
    for variant in allVariants.dropFirst() { #expect(qk_kernels_unchecked(variantName(variant)) == variant) }
    #expect(qk_kernels_unchecked("neon") == nil)
    #expect(qk_kernels_named("neon") == nil)
    #expect(!variantName(qk_kernels_best()).isEmpty)
  }
}
