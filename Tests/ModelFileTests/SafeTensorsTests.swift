// The safetensors container and FP8 block scales: ranges, types, duplicates, hostile headers.

import Testing

@testable import ModelFile

private func tensors(_ bytes: [UInt8]) throws -> [Tensor] {
  let folder = TemporaryFolder()
  let file = try MappedFile(path: try folder.write("x.safetensors", bytes))
  return try SafeTensors.tensors(in: file)
}

private func tensors(header: String, dataBytes: Int) throws -> [Tensor] {
  var bytes: [UInt8] = []
  bytes.append(integer: UInt64(header.utf8.count))
  return try tensors(bytes + Array(header.utf8) + Array(repeating: 7, count: dataBytes))
}

@Suite struct SafeTensorsTests {
  @Test func types() throws {
    let header = """
      {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"x": "y"},
       "b": {"shape": [5], "data_offsets": [24, 34], "dtype": "BF16", "later": [1]}, "c": {"dtype": "F16", "shape": [], "data_offsets": [40, 42]},
       "d": {"dtype": "F8_E4M3", "shape": [1, 1, 3], "data_offsets": [34, 37]}}     \u{20}
      """
    let all = try tensors(header: header, dataBytes: 42)
    #expect(all.map(\.name) == ["a", "b", "c", "d"])
    #expect(all.map(\.type) == [.f32, .bf16, .f16, .f8_e4m3])
    #expect(all.map(\.rows) == [2, 1, 1, 1] && all.map(\.columns) == [3, 5, 1, 3])
    #expect(all.map(\.bytes.count) == [24, 10, 2, 3] && all.map { $0.fileOffset - 8 - header.utf8.count } == [0, 24, 40, 34])
    #expect(try tensors(header: "{}", dataBytes: 0).isEmpty)
  }

  /// (entry of tensor "t", text of the error) in a file with 16 bytes of data.
  static let refused: [(String, String)] = [
    (#"{"dtype": "I64", "shape": [2], "data_offsets": [0, 16]}"#, "tensor t (described at byte 13) has type I64"),
    (#"{"dtype": "F32", "shape": [4], "data_offsets": [0, 17]}"#, "truncated"),
    (#"{"dtype": "F32", "shape": [4], "data_offsets": [4, 20]}"#, "truncated"),
    (#"{"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}"#, "do not span"),
    (#"{"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}"#, "data_offsets"),
    (#"{"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}"#, "not possible"),
    (#"{"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}"#, "dimension"),
    (#"{"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 16]}"#, "not possible"),
    (#"{"dtype": "F32", "shape": [9223372036854775807], "data_offsets": [0, 16]}"#, "not possible"),
    (#"{"dtype": "F32", "shape": [9223372036854775808], "data_offsets": [0, 16]}"#, "dimension"),
    (#"{"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}"#, "dimension"),
    (#"{"dtype": "F32", "shape": [4], "data_offsets": [0, 9223372036854775807]}"#, "truncated"),
    (#"{"dtype": "F32", "shape": [4], "data_offsets": [0]}"#, "two data_offsets"),
    (#"{"dtype": "F32", "shape": [4], "data_offsets": [0, 16, 16]}"#, "more than 2"),
    (#"{"dtype": "F32", "shape": [1,1,1,1,1,1,1,1,4], "data_offsets": [0, 16]}"#, "more than 8"),
    (#"{"dtype": "F32", "shape": [4]}"#, "data_offsets"), (#"{"shape": [4], "data_offsets": [0, 16]}"#, "dtype"), (#"[]"#, "object"),
    (#"{"dtype": "F32", "dtype": "F32", "shape": [4], "data_offsets": [0, 16]}"#, "duplicate"), (#"{"dtype": 1}"#, "string"),
    (#"{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "u": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}"#, "overlaps"),
    (
      #"{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "t": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}"#,
      "duplicate key \"t\""
    ),
  ]

  @Test(arguments: refused)
  func refuses(_ entry: String, _ text: String) {
    let error = #expect(throws: ModelFileError.self) { try tensors(header: "{\"t\": \(entry)}", dataBytes: 16) }
    #expect(error?.description.contains(text) == true, "\(error?.description ?? "")")
  }

  @Test func headerLength() {
    for length in [UInt64.max, 1 << 63, 1 << 40, 100_000_001, 25] {
      var bytes: [UInt8] = []
      bytes.append(integer: length)
      let error = #expect(throws: ModelFileError.self) { try tensors(bytes + Array(repeating: 0x20, count: 24)) }
      #expect(error?.description.contains("at byte 0: the header length") == true)
    }
    #expect(throws: ModelFileError.self) { try tensors([1, 2, 3]) }
    #expect(throws: ModelFileError.self) { try tensors(header: "[]", dataBytes: 0) }
    #expect(throws: ModelFileError.self) { try tensors(header: "", dataBytes: 0) }
  }

  // MARK: FP8

  /// The small model with q_b_proj of layer 0 as F8 and a scale of the given shape and type.
  private func fp8(scaleShape: [Int]?, scaleType: TensorType = .f32, scale: [UInt8]? = nil) throws -> ModelFile {
    var all = SmallModel.huggingFaceTensors
    let name = "model.layers.0.self_attn.q_b_proj.weight"
    guard let position = all.firstIndex(where: { $0.name == name }) else { throw ModelFileError.missingKey(path: "", key: name) }
    all[position].type = .f8_e4m3
    if let scaleShape { all.append(TestTensor(name: name + "_scale_inv", shape: scaleShape, type: scaleType, data: scale)) }
    return try openHuggingFace(tensors: all)
  }

  @Test func scales() throws {
    let float: [UInt8] = [0, 0, 0x20, 0x40]  // 2.5
    #expect(try fp8(scaleShape: [1, 1], scale: float).layer(0).queryB?.scales == [2.5])
    #expect(try fp8(scaleShape: [1, 1], scaleType: .bf16, scale: [0x20, 0x40]).layer(0).queryB?.scales == [2.5])
    #expect(try fp8(scaleShape: [1, 1], scale: float).warnings == [])
    #expect(failure { try fp8(scaleShape: nil) }?.description.contains("q_b_proj.weight_scale_inv [1, 1] is missing") == true)
    for shape in [[2, 1], [1], [1, 1, 1]] {
      #expect(failure { try fp8(scaleShape: shape) }.map { if case .wrongShape = $0 { true } else { false } } == true)
    }
    #expect(failure { try fp8(scaleShape: [1, 1], scaleType: .f16) }?.description.contains("F16") == true)
    #expect(failure { try fp8(scaleShape: [1, 1], scale: [0, 0, 0xC0, 0x7F]) }?.description.contains("not finite") == true)
  }

  /// Edge blocks: 300 x 129 has 3 x 2 scales.
  @Test func partialBlocks() throws {
    let scale = TestTensor(name: "w_scale_inv", shape: [3, 2])
    let writer = SafeTensorsWriter(tensors: [TestTensor(name: "w", shape: [300, 129], type: .f8_e4m3), scale])
    let folder = TemporaryFolder()
    let file = try MappedFile(path: try folder.write("x", writer.bytes()))
    let all = try BlockScales.attach(to: try SafeTensors.tensors(in: file))
    #expect(all[0].scales?.count == 6 && all[1].scales == nil)
  }

  /// A norm cannot be quantised.
  @Test func vectorsArePlain() throws {
    var all = SmallModel.huggingFaceTensors
    all[1].type = .f8_e4m3
    #expect(failure { try openHuggingFace(tensors: all) }?.description.contains("model.norm.weight") == true)
  }
}
