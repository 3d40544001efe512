// The GGUF container: every metadata type, both versions, alignment, and hostile counts, lengths and offsets.

import Testing

@testable import ModelFile

private func shard(_ bytes: [UInt8]) throws -> GGUFShard {
  let folder = TemporaryFolder()
  return try GGUFShard(path: try folder.write("x.gguf", bytes))
}

private func description(_ bytes: [UInt8]) -> String {
  do {
    _ = try shard(bytes)
    return "no error"
  } catch {
    return "\(error)"
  }
}

@Suite struct GGUFTests {
  @Test(arguments: [UInt32(2), 3])
  func everyMetadataType(version: UInt32) throws {
    var writer = GGUFWriter()
    writer.version = version
    writer.metadata = [
      ("u8", .u8(200)), ("i8", .i8(-100)), ("u16", .u16(60000)), ("i16", .i16(-30000)), ("u32", .u32(4_000_000_000)),
      ("i32", .i32(-2_000_000_000)),
      ("f32", .f32(0.1)), ("bool", .bool(true)), ("string", .string("中é")), ("u64", .u64(1 << 62)), ("huge", .u64(.max)),
      ("i64", .i64(.min)),
      ("f64", .f64(0.1)), ("strings", .array(elementType: 8, [.string("a"), .string(""), .string("bc")])),
      ("bools", .array(elementType: 7, [.bool(true), .bool(false)])), ("floats", .array(elementType: 6, [.f32(1), .f32(2)])),
      ("nested", .array(elementType: 9, [.array(elementType: 0, [.u8(1)]), .array(elementType: 8, [.string("x")])])),
      ("empty", .array(elementType: 4, [])),
    ]
    let file = try shard(writer.bytes() + [0])
    let metadata = file.metadata
    #expect(file.version == Int(version) && metadata.keys == writer.metadata.map(\.key))
    for (key, value) in [
      ("u8", 200), ("i8", -100), ("u16", 60000), ("i16", -30000), ("u32", 4_000_000_000), ("i32", -2_000_000_000), ("u64", 1 << 62),
      ("i64", Int.min),
    ] { #expect(try metadata.integer(key) == value) }
    #expect(try metadata.double("f32") == Double(Float(0.1)) && metadata.double("f64") == 0.1 && metadata.double("u8") == 200)
    #expect(try metadata.bool("bool") == true)
    #expect(try metadata.string("string") == "中é")
    #expect(try metadata.stringArray("strings", limit: 3) == [[97], [], [98, 99]])
    #expect(try metadata.integerArray("bools", limit: 2) == [1, 0])
    #expect(try metadata.integerArray("empty", limit: 0) == [])
    #expect(metadata.text("nested") == "[2 × array]" && metadata.text("huge") == "18446744073709551615" && metadata.text("f32") == "0.1")
    #expect(metadata.text("absent") == "")
    #expect(throws: ModelFileError.self) { try metadata.integer("huge") }
    #expect(throws: ModelFileError.self) { try metadata.integer("string") }
    #expect(throws: ModelFileError.self) { try metadata.bool("u8") }
    #expect(throws: ModelFileError.self) { try metadata.double("string") }
    #expect(throws: ModelFileError.self) { try metadata.string("u8") }
    #expect(throws: ModelFileError.self) { try metadata.stringArray("strings", limit: 2) }
    #expect(throws: ModelFileError.self) { try metadata.stringArray("bools", limit: 2) }
    #expect(throws: ModelFileError.self) { try metadata.integerArray("floats", limit: 2) }
    #expect(throws: ModelFileError.self) { try metadata.integerArray("nested", limit: 2) }
    #expect(try metadata.integers("u8", count: 3) == [200, 200, 200])
    #expect(throws: ModelFileError.self) { try metadata.integers("bools", count: 3) }
  }

  @Test func headerIsChecked() {
    let good = SmallModel.gguf().bytes()
    #expect(description(good) == "no error")
    for (version, text) in [
      (UInt32(1), "GGUF version = 1 is not supported"), (4, "GGUF version = 4"), (UInt32(3).byteSwapped, "big endian"), (0, "version = 0"),
    ] {
      var writer = SmallModel.gguf()
      writer.version = version
      #expect(description(writer.bytes()).contains(text))
    }
    #expect(description(Array("GGML".utf8) + good.dropFirst(4)).contains("at byte 0: not a GGUF file"))
    for (offset, what) in [(8, "tensor count"), (16, "metadata count")] {
      for count in [UInt64.max, 1 << 60, 1 << 63, 1 << 20] {
        var bytes = good
        for byte in 0..<8 { bytes[offset + byte] = UInt8(truncatingIfNeeded: count >> (8 * UInt64(byte))) }
        #expect(description(bytes).contains("at byte \(offset): the \(what)"))
      }
    }
  }

  /// Counts and lengths far beyond the file must be refused before anything is allocated for them.
  @Test func hostileLengths() {
    func file(_ value: [UInt8]) -> [UInt8] {
      var bytes = Array("GGUF".utf8)
      bytes.append(integer: UInt32(3))
      bytes.append(integer: UInt64(0))
      bytes.append(integer: UInt64(1))
      bytes.append(ggufString: "key")
      return bytes + value + Array(repeating: 0, count: 64)
    }
    for length in [UInt64.max, 1 << 63, 1 << 60, 1 << 31, 65] {
      var string: [UInt8] = []
      string.append(integer: UInt32(8))
      string.append(integer: length)
      #expect(description(file(string)).contains("at byte 39"), "\(description(file(string)))")
      for elementType in UInt32(0)...12 {
        var array: [UInt8] = []
        array.append(integer: UInt32(9))
        array.append(integer: elementType)
        array.append(integer: length)
        #expect(description(file(array)).contains("at byte 43: an array's count"))
      }
    }
    var unknown: [UInt8] = []
    unknown.append(integer: UInt32(13))
    #expect(description(file(unknown)).contains("at byte 35: key key has unknown value type 13"))
    var key = Array("GGUF".utf8)
    key.append(integer: UInt32(3))
    for value in [UInt64(0), 1, 1 << 40] { key.append(integer: value) }
    #expect(description(key + Array(repeating: 0, count: 64)).contains("at byte 24"))
  }

  @Test func nestingIsLimited() throws {
    func nested(_ depth: Int) -> TestValue { depth == 1 ? .array(elementType: 0, [.u8(7)]) : .array(elementType: 9, [nested(depth - 1)]) }
    var writer = GGUFWriter()
    writer.metadata = [("deep", nested(GGUFMetadata.arrayDepthLimit))]
    #expect(description(writer.bytes()) == "no error")
    writer.metadata = [("deep", nested(GGUFMetadata.arrayDepthLimit + 1))]
    #expect(description(writer.bytes()).contains("nested deeper"))
    writer.metadata = [("deep", nested(2000))]
    #expect(description(writer.bytes()).contains("nested deeper"))
  }

  @Test func duplicateKeysAndTensors() {
    var writer = SmallModel.gguf()
    writer.metadata.append(("general.name", .u8(1)))
    #expect(description(writer.bytes()).contains("duplicate key general.name"))
    writer = SmallModel.gguf()
    writer.tensors.append(writer.tensors[4])
    let error = failure { try openGGUF(writer) }
    #expect(error?.description.contains("duplicate tensor name \(writer.tensors[4].name)") == true)
  }

  @Test(arguments: [1, 8, 64, 4096])
  func alignment(_ alignment: Int) throws {
    var writer = SmallModel.gguf()
    writer.alignment = alignment
    writer.set("general.alignment", .u32(UInt32(alignment)))
    let file = try shard(writer.bytes())
    for (tensor, written) in zip(file.tensors, writer.tensors) {
      #expect(tensor.fileOffset % alignment == 0 && tensor.bytes.elementsEqual(written.bytes))
    }
  }

  @Test func badAlignment() {
    for value: TestValue in [.u32(0), .u32(3), .u32(1 << 21), .i32(-32), .u64(1 << 62), .string("32"), .u64(.max)] {
      var writer = SmallModel.gguf()
      writer.set("general.alignment", value)
      #expect(description(writer.bytes()).contains("general.alignment"))
    }
  }

  @Test func tensorInfosAreChecked() {
    let name = SmallModel.gguf().tensors[3].name
    for offset in [UInt64.max, 1 << 63, UInt64(Int.max) - 31, 1 << 40, 33, 1] {
      var writer = SmallModel.gguf()
      writer.offsets[name] = offset
      #expect(description(writer.bytes()).contains("tensor \(name)"))
    }
    var writer = SmallModel.gguf()
    writer.offsets[writer.tensors[4].name] = 0
    #expect(description(writer.bytes()).contains("overlaps"))
    for (id, text) in [
      (UInt32(16), "IQ2_XXS"), (9, "Q8_1"), (4, "Q4_2 (removed)"), (100, "ggml type 100"), (.max, "ggml type 4294967295"), (26, "I32"),
    ] {
      writer = SmallModel.gguf()
      writer.typeIDs[name] = id
      #expect(
        description(writer.bytes()).contains("tensor \(name)")
          && description(writer.bytes()).contains("has type \(text), which is not supported"))
    }
    for shape in [[0], [1 << 62, 4], [1 << 33, 1 << 33], [Int.max], [1, 1, 1, 1, 1], []] {
      writer = SmallModel.gguf()
      writer.tensors[3] = TestTensor(name: name, shape: shape, data: [])
      #expect(description(writer.bytes()).contains("tensor \(name)"), "\(shape)")
    }
    writer = SmallModel.gguf()
    writer.typeIDs[name] = TensorType.q4_K.rawValue  // rows of 8 are no whole block
    #expect(description(writer.bytes()).contains("not possible for Q4_K"))
  }

  @Test func everyTensorTypeHasItsSize() throws {
    for type in TensorType.allCases where type != .f8_e4m3 {
      var writer = GGUFWriter()
      writer.tensors = [TestTensor(name: "a", shape: [3, 512], type: type), TestTensor(name: "b", shape: [2, 1, 256], type: type)]
      let file = try shard(writer.bytes())
      for (tensor, written) in zip(file.tensors, writer.tensors) {
        #expect(tensor.type == type && tensor.bytes.elementsEqual(written.bytes) && tensor.rows * tensor.columns == tensor.elementCount)
      }
      #expect(description(writer.bytes().dropLast()).contains("truncated"))
    }
  }
}
