// Writers of GGUF and safetensors bytes for tests, able to write wrong files on purpose, and temporary folders.
// They share no code with the readers.

import FoundationEssentials

@testable import ModelFile

/// A folder that is deleted when the object goes away.
final class TemporaryFolder {
  let path: String

  init() {
    path = FileManager.default.temporaryDirectory.appending(path: "quire-modelfile-\(UUID().uuidString)").path(percentEncoded: false)
    try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  @discardableResult
  func write(_ name: String, _ bytes: [UInt8]) throws -> String {
    let file = path + "/" + name
    try Data(bytes).write(to: URL(filePath: file))
    return file
  }

  @discardableResult
  func write(_ name: String, _ text: String) throws -> String { try write(name, Array(text.utf8)) }
}

/// A tensor to be written: shape slowest first, data of the right size unless given.
struct TestTensor {
  var name: String
  var shape: [Int]
  var type = TensorType.f32
  var data: [UInt8]?

  var byteCount: Int { shape.reduce(1, *) / type.blockElements * type.blockBytes }
  var bytes: [UInt8] { data ?? (0..<byteCount).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ name.utf8.count) & 0x3F } }
}

extension [UInt8] {
  mutating func append<T: FixedWidthInteger>(integer value: T) {
    for shift in stride(from: 0, to: T.bitWidth, by: 8) { append(UInt8(truncatingIfNeeded: value >> T(shift))) }
  }

  mutating func append(ggufString text: String) {
    append(integer: UInt64(text.utf8.count))
    append(contentsOf: text.utf8)
  }
}

/// One metadata value of GGUF, of exactly the stated type.
indirect enum TestValue {
  case u8(UInt8), i8(Int8), u16(UInt16), i16(Int16), u32(UInt32), i32(Int32), f32(Float), bool(Bool), string(String)
  case u64(UInt64), i64(Int64), f64(Double)
  case array(elementType: UInt32, [TestValue])

  var typeID: UInt32 {
    switch self {
    case .u8: 0
    case .i8: 1
    case .u16: 2
    case .i16: 3
    case .u32: 4
    case .i32: 5
    case .f32: 6
    case .bool: 7
    case .string: 8
    case .array: 9
    case .u64: 10
    case .i64: 11
    case .f64: 12
    }
  }

  func append(to bytes: inout [UInt8]) {
    switch self {
    case .u8(let value): bytes.append(integer: value)
    case .i8(let value): bytes.append(integer: value)
    case .u16(let value): bytes.append(integer: value)
    case .i16(let value): bytes.append(integer: value)
    case .u32(let value): bytes.append(integer: value)
    case .i32(let value): bytes.append(integer: value)
    case .f32(let value): bytes.append(integer: value.bitPattern)
    case .bool(let value): bytes.append(value ? 1 : 0)
    case .string(let value): bytes.append(ggufString: value)
    case .u64(let value): bytes.append(integer: value)
    case .i64(let value): bytes.append(integer: value)
    case .f64(let value): bytes.append(integer: value.bitPattern)
    case .array(let elementType, let values):
      bytes.append(integer: elementType)
      bytes.append(integer: UInt64(values.count))
      for value in values { value.append(to: &bytes) }
    }
  }
}

struct GGUFWriter {
  var version: UInt32 = 3
  var alignment = 32
  var metadata: [(key: String, value: TestValue)] = []
  var tensors: [TestTensor] = []
  var offsets: [String: UInt64] = [:]  // overrides
  var typeIDs: [String: UInt32] = [:]  // overrides

  mutating func set(_ key: String, _ value: TestValue?) {
    let position = metadata.firstIndex { $0.key == key }
    switch (position, value) {
    case (let position?, let value?): metadata[position].value = value
    case (let position?, nil): metadata.remove(at: position)
    case (nil, let value?): metadata.append((key, value))
    case (nil, nil): break
    }
  }

  /// The header, up to the end of the tensor infos.
  func header() -> [UInt8] {
    var bytes = Array("GGUF".utf8)
    bytes.append(integer: version)
    bytes.append(integer: UInt64(tensors.count))
    bytes.append(integer: UInt64(metadata.count))
    for (key, value) in metadata {
      bytes.append(ggufString: key)
      bytes.append(integer: value.typeID)
      value.append(to: &bytes)
    }
    var offset = 0
    for tensor in tensors {
      bytes.append(ggufString: tensor.name)
      bytes.append(integer: UInt32(tensor.shape.count))
      for dimension in tensor.shape.reversed() { bytes.append(integer: UInt64(dimension)) }
      bytes.append(integer: typeIDs[tensor.name] ?? tensor.type.rawValue)
      bytes.append(integer: offsets[tensor.name] ?? UInt64(offset))
      offset = aligned(offset + tensor.bytes.count)
    }
    return bytes
  }

  func bytes() -> [UInt8] {
    var bytes = header()
    for tensor in tensors {
      bytes += Array(repeating: 0, count: aligned(bytes.count) - bytes.count)
      bytes += tensor.bytes
    }
    return bytes
  }

  private func aligned(_ offset: Int) -> Int { (offset + alignment - 1) / alignment * alignment }
}

struct SafeTensorsWriter {
  var tensors: [TestTensor] = []
  var header: String?  // override

  static func dtype(_ type: TensorType) -> String { type.name }

  func headerText() -> String {
    var offset = 0
    let entries = tensors.map { tensor in
      let begin = offset
      offset += tensor.bytes.count
      let shape = tensor.shape.map(String.init).joined(separator: ",")
      return "\"\(tensor.name)\":{\"dtype\":\"\(Self.dtype(tensor.type))\",\"shape\":[\(shape)],\"data_offsets\":[\(begin),\(offset)]}"
    }
    return "{\"__metadata__\":{\"format\":\"pt\"}" + entries.map { "," + $0 }.joined() + "}"
  }

  func bytes() -> [UInt8] {
    let text = header ?? headerText()
    var bytes: [UInt8] = []
    bytes.append(integer: UInt64(text.utf8.count))
    bytes += Array(text.utf8)
    for tensor in tensors { bytes += tensor.bytes }
    return bytes
  }
}

/// A seeded generator (SplitMix64), so that a failing fuzz case can be repeated.
struct SeededGenerator: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}
