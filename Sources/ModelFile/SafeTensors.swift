// One safetensors file (SPEC 3.1; https://huggingface.co/docs/safetensors): u64 header length, JSON header, data.
// Knows neither indexes nor what the tensors are for.

enum SafeTensors {
  static let headerBytesLimit = 100_000_000  // the reference implementation's limit
  static let tensorCountLimit = 1 << 20
  static let dimensionLimit = 8

  /// The tensors in header order. Ranges are checked against the file and against each other.
  static func tensors(in file: MappedFile) throws(ModelFileError) -> [Tensor] {
    var reader = ByteReader(file)
    let headerBytes = try reader.count("the header length", limit: min(headerBytesLimit, max(0, file.size - 8)))
    let header = try reader.take(headerBytes, "the header")
    let dataBegin = reader.offset
    var json = JSONReader([UInt8](header), path: file.path, baseOffset: 8)
    var tensors: [Tensor] = []
    try json.object { (json, name) throws(ModelFileError) in
      if name == "__metadata__" {
        try json.skip()
      } else {
        guard tensors.count < tensorCountLimit else { throw json.malformed("more than \(tensorCountLimit) tensors") }
        let start = json.fileOffset
        let entry = try Entry(&json, name: name)
        tensors.append(try view(entry, name: name, file: file, dataBegin: dataBegin, infoOffset: start))
      }
    }
    try json.finish()
    try checkNoOverlap(tensors, path: file.path)
    return tensors
  }

  private struct Entry {
    var dtype = ""
    var shape: [Int] = []
    var offsets: [Int] = []

    init(_ json: inout JSONReader, name: String) throws(ModelFileError) {
      let start = json.fileOffset
      var dtype: String?
      var shape: [Int]?
      var offsets: [Int]?
      try json.object { (json, key) throws(ModelFileError) in
        switch key {
        case "dtype": dtype = try json.string()
        case "shape": shape = try Entry.naturals(&json, "a dimension of \(name)", limit: SafeTensors.dimensionLimit)
        case "data_offsets": offsets = try Entry.naturals(&json, "a data offset of \(name)", limit: 2)
        default: try json.skip()
        }
      }
      guard let dtype, let shape, let offsets, offsets.count == 2 else {
        throw json.malformed("tensor \(name) needs dtype, shape and two data_offsets", at: start)
      }
      (self.dtype, self.shape, self.offsets) = (dtype, shape, offsets)
    }

    private static func naturals(_ json: inout JSONReader, _ what: String, limit: Int) throws(ModelFileError) -> [Int] {
      var values: [Int] = []
      try json.array { (json) throws(ModelFileError) in
        values.append(try json.natural(what))
        guard values.count <= limit else { throw json.malformed("more than \(limit) numbers where \(what) belongs") }
      }
      return values
    }
  }

  private static func view(_ entry: Entry, name: String, file: MappedFile, dataBegin: Int, infoOffset: Int) throws(ModelFileError) -> Tensor
  {
    func malformed(_ reason: String) -> ModelFileError {
      .malformed(path: file.path, byteOffset: infoOffset, reason: "tensor \(name): \(reason)")
    }
    guard let type = TensorType(safeTensors: entry.dtype) else {
      throw .unsupportedTensorType(path: file.path, tensor: name, type: entry.dtype, byteOffset: infoOffset)
    }
    guard let extent = TensorExtent(shape: entry.shape, type: type) else {
      throw malformed("shape \(entry.shape) is not possible for \(type.name)")
    }
    let (relativeBegin, relativeEnd) = (entry.offsets[0], entry.offsets[1])
    guard relativeBegin <= relativeEnd, relativeEnd <= file.size - dataBegin else {
      throw malformed("data_offsets \(entry.offsets) end past the \(file.size - dataBegin) bytes of data (truncated file?)")
    }
    guard relativeEnd - relativeBegin == extent.byteCount else {
      throw malformed("data_offsets \(entry.offsets) do not span the \(extent.byteCount) bytes of \(entry.shape) \(type.name)")
    }
    let range = dataBegin + relativeBegin..<dataBegin + relativeEnd
    return Tensor(name: name, type: type, shape: entry.shape, extent: extent, file: file, range: range)
  }
}

/// The block scales of FP8 tensors (SPEC 3.3): `X.weight_scale_inv` [ceil(rows/128), ceil(columns/128)] multiplies `X.weight`.
enum BlockScales {
  static let suffix = "_scale_inv"
  static let block = 128

  /// Gives every F8 tensor that has a scale tensor its scales. One without any keeps nil, and is refused where it is used.
  static func attach(to tensors: [Tensor]) throws(ModelFileError) -> [Tensor] {
    guard tensors.contains(where: { $0.type == .f8_e4m3 }) else { return tensors }
    var scaleTensors: [String: Tensor] = [:]
    for tensor in tensors where tensor.name.hasSuffix(suffix) { scaleTensors[tensor.name] = tensor }
    var result: [Tensor] = []
    result.reserveCapacity(tensors.count)
    for tensor in tensors {
      if tensor.type == .f8_e4m3, let scale = scaleTensors[tensor.name + suffix] {
        result.append(tensor.with(scales: try widened(scale, for: tensor)))
      } else {
        result.append(tensor)
      }
    }
    return result
  }

  private static func widened(_ scale: Tensor, for tensor: Tensor) throws(ModelFileError) -> [Float] {
    let expected = [(tensor.rows - 1) / block + 1, (tensor.columns - 1) / block + 1]
    guard tensor.shape.count == 2, scale.shape == expected else {
      throw .wrongShape(path: scale.path, tensor: scale.name, found: scale.shape, expected: expected, byteOffset: scale.fileOffset)
    }
    let values: [Float]
    switch scale.type {
    case .f32:
      values = (0..<scale.elementCount).map {
        Float(bitPattern: UInt32(littleEndian: scale.bytes.loadUnaligned(fromByteOffset: $0 * 4, as: UInt32.self)))
      }
    case .bf16:
      values = (0..<scale.elementCount).map {
        Float(bitPattern: UInt32(UInt16(littleEndian: scale.bytes.loadUnaligned(fromByteOffset: $0 * 2, as: UInt16.self))) << 16)
      }
    default:
      throw .unsupportedTensorType(path: scale.path, tensor: scale.name, type: scale.type.name, byteOffset: scale.fileOffset)
    }
    guard values.allSatisfy(\.isFinite) else {
      throw .malformed(path: scale.path, byteOffset: scale.fileOffset, reason: "tensor \(scale.name) holds a scale that is not finite")
    }
    return values
  }
}
