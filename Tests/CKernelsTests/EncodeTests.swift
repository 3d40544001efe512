// Floats to Q8_0 rows: halves exact to the last bit, rounding of each element, numbers that are none.

import CKernels
import Testing

@Suite struct EncodeTests {
  private func encoded(_ x: [Float]) -> [UInt8] {
    var out = [UInt8](repeating: 0xA5, count: qk_row_bytes(QK_Q8_0, x.count))
    qk_encode_q8_0(x, x.count, &out)
    return out
  }

  private func decoded(_ bytes: [UInt8]) -> [Float] {
    var bytes = bytes
    let columns = bytes.count / qk_block_bytes(QK_Q8_0) * 32
    var values = [Float](repeating: 7, count: columns)
    var matrix = qk_file_matrix(QK_Q8_0, &bytes, 1, columns, nil)
    qk_kernels_scalar().pointee.dequantize_rows(&matrix, 0, 1, &values, columns)
    return values
  }

  /// The scale of a block whose largest magnitude is `largest`.
  private func scale(_ largest: Float) -> UInt16 {
    var x = [Float](repeating: 0, count: 32)
    x[5] = -largest
    let bytes = encoded(x)
    return UInt16(bytes[0]) | UInt16(bytes[1]) << 8
  }

  /// 127 times a half is exact in float32, and so is its 127th part.
  @Test func scalesAreRoundedToHalves() {
    var wrong: [UInt16] = []
    for bits in UInt16(0)..<0x7C00 {
      let half = Float(Float16(bitPattern: bits))
      let next = bits == 0x7BFF ? 65536 : Float(Float16(bitPattern: bits + 1))
      let middle = (half + next) / 2
      let even = bits % 2 == 0 ? bits : bits + 1
      let rounded = [scale(127 * half), scale(127 * middle), scale(127 * middle.nextDown.nextDown), scale(127 * middle.nextUp.nextUp)]
      if rounded != [bits, even, bits, bits + 1] { wrong.append(bits) }
    }
    #expect(wrong.isEmpty, "\(wrong.count): \(wrong.prefix(5))")
  }

  @Test func elementsAreRoundedToTheNearest() {
    var random = Random(31)
    for magnitude: Float in [1, 3e-5, 4000] {
      let x = random.normals(1024).map { $0 * magnitude }
      let back = decoded(encoded(x))
      for block in 0..<32 {
        let range = block * 32..<block * 32 + 32
        let largest = x[range].map(abs).max() ?? 0
        let unit = Float(Float16(largest / 127))
        for i in range { #expect(abs(back[i] - x[i]) <= max(unit / 2, largest - 127 * unit) * 1.0001, "\(magnitude) \(i)") }
      }
    }
    #expect(decoded(encoded([Float](repeating: 0, count: 64))) == [Float](repeating: 0, count: 64))
    let least = [Float](repeating: 1e-9, count: 32)  // less than any half: 0, and no division by it
    #expect(decoded(encoded(least)) == [Float](repeating: 0, count: 32))
  }

  @Test func blocksWithoutNumbers() {
    var random = Random(32)
    for strange: Float in [.nan, .infinity, -.infinity, 3e38] {
      var x = random.normals(96)
      x[40] = strange
      let back = decoded(encoded(x))
      #expect(back[32..<64].allSatisfy { $0.isNaN }, "\(strange)")
      #expect(back[..<32].allSatisfy { $0.isFinite } && back[64...].allSatisfy { $0.isFinite })
    }
  }
}
