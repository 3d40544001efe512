// The default model with its weights in bf16 and, if wished, another number of experts per token, as a GGUF file of its own until the
// value goes. Knows nothing of what the file is for.

import CKernels
import FoundationEssentials
import ModelFile
import Testing

@testable import Engine

struct WidenedModel: ~Copyable {
  let path = FileManager.default.temporaryDirectory.appending(path: "quire-widened-\(UUID().uuidString).gguf").path(percentEncoded: false)

  private static let alignment = 32

  init(expertsPerToken: Int) throws {
    let model = try ModelFile(path: HeldOutText.modelPath)
    var file = try Self.metadata(of: model, expertsPerToken: expertsPerToken)
    let data = model.tensors.map(Self.bytes)
    var offset = 0
    for (tensor, bytes) in zip(model.tensors, data) {
      file += Self.text(tensor.name) + Self.little(UInt32(tensor.shape.count))
      for dimension in tensor.shape.reversed() { file += Self.little(UInt64(dimension)) }
      file += Self.little((tensor.type == .f32 ? TensorType.f32 : .bf16).rawValue) + Self.little(UInt64(offset))
      offset += bytes.count + Self.padding(after: bytes.count)
    }
    file += [UInt8](repeating: 0, count: Self.padding(after: file.count))
    for bytes in data { file += bytes + [UInt8](repeating: 0, count: Self.padding(after: bytes.count)) }
    try Data(file).write(to: URL(filePath: path))
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  /// The file up to its first tensor's name, with the number of experts per token replaced.
  private static func metadata(of model: ModelFile, expertsPerToken: Int) throws -> [UInt8] {
    let first = try #require(model.tensors.first)
    let whole = try Data(contentsOf: URL(filePath: HeldOutText.modelPath))
    var bytes = [UInt8](whole.prefix(first.fileOffset))
    let end = try #require(bytes.firstRange(of: text(first.name) + little(UInt32(first.shape.count)))).lowerBound
    let uint32: UInt32 = 4
    let value = try #require(bytes.firstRange(of: text("deepseek2.expert_used_count") + little(uint32))).upperBound
    bytes.replaceSubrange(value..<value + 4, with: little(UInt32(expertsPerToken)))
    return Array(bytes.prefix(end))
  }

  private static func bytes(of tensor: Tensor) -> [UInt8] {
    guard tensor.type != .f32 else { return Array(tensor.bytes) }
    let kernels = qk_kernels_best().pointee
    var matrix = fileMatrix(tensor, scales: nil)
    let values = [Float](unsafeUninitializedCapacity: tensor.elementCount) { buffer, count in
      if let base = buffer.baseAddress { kernels.dequantize_rows(&matrix, 0, tensor.rows, base, tensor.columns) }
      count = tensor.elementCount
    }
    let rounded = [UInt16](unsafeUninitializedCapacity: values.count) { buffer, count in
      if let base = buffer.baseAddress { kernels.f32_to_bf16(values, base, values.count) }
      count = values.count
    }
    return rounded.withUnsafeBytes { Array($0) }
  }

  private static func padding(after count: Int) -> Int { (alignment - count % alignment) % alignment }

  private static func text(_ text: String) -> [UInt8] { little(UInt64(text.utf8.count)) + Array(text.utf8) }

  private static func little(_ value: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: value.littleEndian) { Array($0) } }
}
