// One GGUF file, versions 2 and 3, little endian (SPEC 3.4; format: ggml/docs/gguf.md): header, metadata, tensor infos.
// Knows neither split files nor what the tensors are for.

struct GGUFShard {
  static let tensorCountLimit = 1 << 20
  static let tensorNameBytesLimit = 1 << 10
  static let alignmentLimit = 1 << 20
  static let dimensionLimit = 4

  let file: MappedFile
  let version: Int
  let metadata: GGUFMetadata
  let tensors: [Tensor]

  init(path: String) throws(ModelFileError) {
    file = try MappedFile(path: path)
    var reader = ByteReader(file)
    version = try GGUFShard.version(&reader)
    let tensorCount = try reader.count("the tensor count", limit: min(GGUFShard.tensorCountLimit, reader.remaining / 32))
    let keyCount = try reader.count("the metadata count", limit: min(GGUFShard.keyCountLimit, reader.remaining / 13))
    metadata = try GGUFMetadata(file, count: keyCount, reader: &reader)
    var infos: [TensorInfo] = []
    for _ in 0..<tensorCount { infos.append(try TensorInfo(&reader)) }
    tensors = try GGUFShard.views(infos, file: file, alignment: try GGUFShard.alignment(metadata), infoEnd: reader.offset)
  }

  private static let keyCountLimit = GGUFMetadata.keyCountLimit

  private static func version(_ reader: inout ByteReader) throws(ModelFileError) -> Int {
    guard try reader.take(4, "the magic").elementsEqual("GGUF".utf8) else {
      throw .malformed(path: reader.path, byteOffset: 0, reason: "not a GGUF file (it does not start with \"GGUF\")")
    }
    let version = try reader.integer(UInt32.self, "the version")
    guard version == 2 || version == 3 else {
      let bigEndian = version.byteSwapped <= 3
      throw .unsupported(path: reader.path, key: "GGUF version", value: bigEndian ? "\(version.byteSwapped), big endian" : "\(version)")
    }
    return Int(version)
  }

  private static func alignment(_ metadata: GGUFMetadata) throws(ModelFileError) -> Int {
    let key = "general.alignment"
    let alignment = try metadata.integer(key) ?? 32
    guard alignment > 0, alignment <= alignmentLimit, alignment & (alignment - 1) == 0 else {
      throw .badValue(path: metadata.file.path, key: key, reason: "is \(alignment), must be a power of two up to \(alignmentLimit)")
    }
    return alignment
  }

  private struct TensorInfo {
    let byteOffset: Int
    let name: String
    let shape: [Int]  // slowest first
    let type: TensorType
    let dataOffset: UInt64

    init(_ reader: inout ByteReader) throws(ModelFileError) {
      byteOffset = reader.offset
      name = String(decoding: try reader.string("a tensor name", limit: GGUFShard.tensorNameBytesLimit), as: UTF8.self)
      let dimensionCount = try reader.integer(UInt32.self, "the dimension count of \(name)")
      guard dimensionCount >= 1, dimensionCount <= GGUFShard.dimensionLimit else {
        throw .malformed(path: reader.path, byteOffset: reader.offset - 4, reason: "tensor \(name) has \(dimensionCount) dimensions")
      }
      var fastestFirst: [Int] = []
      for _ in 0..<dimensionCount { fastestFirst.append(try reader.count("a dimension of \(name)", limit: Int.max)) }
      shape = fastestFirst.reversed()
      let typeID = try reader.integer(UInt32.self, "the type of \(name)")
      guard let type = TensorType(ggml: typeID) else {
        throw .unsupportedTensorType(path: reader.path, tensor: name, type: TensorType.ggmlName(typeID), byteOffset: byteOffset)
      }
      self.type = type
      dataOffset = try reader.integer(UInt64.self, "the offset of \(name)")
    }
  }

  private static func views(_ infos: [TensorInfo], file: MappedFile, alignment: Int, infoEnd: Int) throws(ModelFileError) -> [Tensor] {
    let dataBegin = (infoEnd + alignment - 1) & ~(alignment - 1)  // infoEnd <= file size, alignment <= 2^20: cannot overflow
    var tensors: [Tensor] = []
    tensors.reserveCapacity(infos.count)
    for info in infos {
      func malformed(_ reason: String) -> ModelFileError {
        .malformed(path: file.path, byteOffset: info.byteOffset, reason: "tensor \(info.name): \(reason)")
      }
      guard let extent = TensorExtent(shape: info.shape, type: info.type) else {
        throw malformed("shape \(info.shape) is not possible for \(info.type.name)")
      }
      guard let relative = Int(exactly: info.dataOffset), relative % alignment == 0 else {
        throw malformed("data offset \(info.dataOffset) is not a multiple of the alignment \(alignment)")
      }
      let (begin, beginOverflow) = dataBegin.addingReportingOverflow(relative)
      let (end, endOverflow) = begin.addingReportingOverflow(extent.byteCount)
      guard !beginOverflow, !endOverflow, end <= file.size else {
        throw malformed("its \(extent.byteCount) bytes at data offset \(relative) end past the file's \(file.size) bytes (truncated file?)")
      }
      tensors.append(
        Tensor(name: info.name, type: info.type, shape: info.shape, extent: extent, file: file, range: begin..<end))
    }
    try checkNoOverlap(tensors, path: file.path)
    return tensors
  }
}
