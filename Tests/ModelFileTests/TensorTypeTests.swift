// Block sizes against the table of ggml (gguf-py constants.py, GGML_QUANT_SIZES), written out here by hand.

import Testing

@testable import ModelFile

@Suite struct TensorTypeTests {
  static let table: [(UInt32, String, Int, Int)] = [
    (0, "F32", 1, 4), (1, "F16", 1, 2), (2, "Q4_0", 32, 18), (3, "Q4_1", 32, 20), (6, "Q5_0", 32, 22), (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34), (10, "Q2_K", 256, 84), (11, "Q3_K", 256, 110), (12, "Q4_K", 256, 144), (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210), (20, "IQ4_NL", 32, 18), (23, "IQ4_XS", 256, 136), (30, "BF16", 1, 2),
  ]

  @Test func blocks() {
    for (id, name, elements, bytes) in Self.table {
      let type = TensorType(ggml: id)
      #expect(type?.name == name && type?.blockElements == elements && type?.blockBytes == bytes)
    }
    for id in UInt32(0)...200 where !Self.table.contains(where: { $0.0 == id }) { #expect(TensorType(ggml: id) == nil) }
    #expect(TensorType.allCases.count == Self.table.count + 1)
    #expect(TensorType(safeTensors: "F8_E4M3") == .f8_e4m3 && TensorType(safeTensors: "BF16") == .bf16)
    for dtype in ["I64", "F64", "F8_E5M2", "bf16", "", "Q4_0"] { #expect(TensorType(safeTensors: dtype) == nil) }
    #expect(TensorType.ggmlName(9) == "Q8_1" && TensorType.ggmlName(12345) == "ggml type 12345")
  }

  @Test func extents() {
    let good = TensorExtent(shape: [4, 3, 512], type: .q4_K)
    #expect(good?.rows == 12 && good?.columns == 512 && good?.byteCount == 12 * 2 * 144)
    let scalar = TensorExtent(shape: [], type: .f32)
    #expect(scalar?.rows == 1 && scalar?.columns == 1 && scalar?.byteCount == 4)
    for shape in [[0], [-1], [4, 0], [1 << 32, 1 << 32], [Int.max], [Int.max, 1], [1 << 62, 2]] {
      #expect(TensorExtent(shape: shape, type: .f32) == nil, "\(shape)")
    }
    #expect(TensorExtent(shape: [2, 255], type: .q4_K) == nil)
    #expect(TensorExtent(shape: [2, 48], type: .q8_0) == nil)
  }
}
