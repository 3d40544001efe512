// Weight formats: dequantisation against gguf-py bit for bit (Tests/Fixtures/kernels), packing and its inverse, views.

import CKernels
import Glibc
import Testing

private struct Golden {
  var type: qk_type
  var bytes: [UInt8]
  var values: [Float]
}

/// blocks.bin of Tests/Fixtures/kernels/make_blocks.py.
private func readGoldens() throws -> [Golden] {
  let path = #filePath.split(separator: "/").dropLast(2).joined(separator: "/")
  let file = try #require(fopen("/\(path)/Fixtures/kernels/blocks.bin", "rb"))
  defer { fclose(file) }
  var goldens: [Golden] = []
  var header: [UInt32] = [0, 0, 0]
  while fread(&header, 4, 3, file) == 3 {
    var bytes = [UInt8](repeating: 0, count: Int(header[2]))
    var values = [Float](repeating: 0, count: Int(header[1]))
    try #require(fread(&bytes, 1, bytes.count, file) == bytes.count && fread(&values, 4, values.count, file) == values.count)
    goldens.append(Golden(type: qk_type(rawValue: header[0]), bytes: bytes, values: values))
  }
  return goldens
}

@Suite struct FormatTests {
  @Test func dequantisationEqualsGGUFPython() throws {
    let goldens = try readGoldens()
    #expect(Set(goldens.map { $0.type.rawValue }) == Set(allTypes.map { $0.rawValue }))
    for variant in allVariants {
      for golden in goldens {
        // One byte off any alignment, as a mapped file may be.
        let memory = Memory(golden.bytes.count + 1)
        golden.bytes.withUnsafeBytes { bytes in
          if let from = bytes.baseAddress { (memory.base + 1).copyMemory(from: from, byteCount: bytes.count) }
        }
        var matrix = qk_file_matrix(golden.type, memory.base + 1, 1, golden.values.count, nil)
        var out = [Float](repeating: 7, count: golden.values.count)
        variant.pointee.dequantize_rows(&matrix, 0, 1, &out, out.count)
        // == and not the bits: the sign of zero is free where a minimum is subtracted.
        let wrong = zip(out, golden.values).filter { $0 != $1 && !($0.isNaN && $1.isNaN) }
        #expect(wrong.isEmpty, "\(variantName(variant)) type \(golden.type.rawValue): \(wrong.prefix(3)) of \(wrong.count)")
      }
    }
  }

  @Test func notANumberInFloat8() {
    var codes: [UInt8] = [0x7F, 0xFF, 0x38] + [UInt8](repeating: 0x7F, count: 20)
    for variant in allVariants {
      var matrix = qk_file_matrix(QK_F8_E4M3, &codes, 1, codes.count, nil)
      var out = [Float](repeating: 7, count: codes.count)
      variant.pointee.dequantize_rows(&matrix, 0, 1, &out, out.count)
      #expect(out[0].isNaN && out[1].isNaN && out[2] == 1 && out[5].isNaN && out[22].isNaN)
    }
  }

  @Test func packingKeepsEveryByte() {
    var random = Random(11)
    for type in allTypes {
      for (rows, blocks) in [(1, 1), (16, 3), (17, 2), (37, 5)] {
        let columns = blocks * max(qk_block_elements(type), 7)
        let rowBytes = qk_row_bytes(type, columns)
        let file = Memory(rows * rowBytes)
        for i in 0..<rows * rowBytes { file.base.storeBytes(of: UInt8(truncatingIfNeeded: random.bits()), toByteOffset: i, as: UInt8.self) }
        let matrix = qk_file_matrix(type, file.base, rows, columns, nil)
        let packedBytes = qk_packed_bytes(type, rows, columns)
        #expect(packedBytes % 64 == 0 && packedBytes >= rows * rowBytes)
        let memory = Memory(packedBytes)
        let groups = qk_group_count(rows)
        qk_pack(matrix, memory.base, 0, groups / 2)
        qk_pack(matrix, memory.base, groups / 2, groups)
        let packed = qk_packed_matrix(matrix, memory.base)
        let back = Memory(16 * rowBytes)
        for group in 0..<groups {
          qk_unpack_group(packed, group, back.base)
          let live = min(16, rows - group * 16)
          #expect(memcmp(back.base, file.base + group * 16 * rowBytes, live * rowBytes) == 0, "type \(type.rawValue) \(rows)x\(columns)")
        }
      }
    }
  }

  @Test func sizesAndUnknownTypes() {
    #expect(qk_type_known(QK_Q4_K) && !qk_type_known(qk_type(rawValue: 9)))
    #expect(qk_block_elements(qk_type(rawValue: 4711)) == 0 && qk_block_bytes(qk_type(rawValue: 4711)) == 0)
    #expect(qk_row_bytes(QK_Q6_K, 512) == 420 && qk_row_bytes(QK_BF16, 3) == 6)
    #expect(qk_packed_bytes(QK_Q8_0, 0, 64) == 0)
    #expect(qk_activation_for(QK_Q2_K) == QK_ACT_Q8 && qk_activation_for(QK_F8_E4M3) == QK_ACT_BF16)
  }

  @Test func rowViewsFollowTheScaleGrid() {
    // 300 x 130 in 128 x 128 blocks: a 3 x 2 grid.
    var codes = [UInt8](repeating: 0x38, count: 300 * 130)  // 1.0
    var scales: [Float] = [1, 2, 3, 4, 5, 6]
    let whole = qk_file_matrix(QK_F8_E4M3, &codes, 300, 130, &scales)
    var part = qk_rows(whole, 120, 300)
    var out = [Float](repeating: 0, count: 180 * 130)
    for variant in allVariants {
      variant.pointee.dequantize_rows(&part, 0, 180, &out, 130)
      #expect(
        out[0] == 1 && out[128] == 2 && out[8 * 130] == 3 && out[8 * 130 + 129] == 4 && out[136 * 130] == 5 && out[179 * 130 + 128] == 6)
    }
  }
}
