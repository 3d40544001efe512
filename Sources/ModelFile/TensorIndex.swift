// Checked lookup: a tensor is only handed out after its presence, exact shape and usable type have been verified, and
// what was never asked for is reported at the end. Knows no names.

struct TensorIndex {
  let path: String
  private let byName: [String: Tensor]
  private var taken: Set<String> = []

  /// Refuses duplicate names (also across files).
  init(_ tensors: [Tensor], path: String) throws(ModelFileError) {
    self.path = path
    var byName: [String: Tensor] = [:]
    byName.reserveCapacity(tensors.count)
    for tensor in tensors {
      guard byName.updateValue(tensor, forKey: tensor.name) == nil else {
        throw .malformed(path: tensor.path, byteOffset: tensor.fileOffset, reason: "duplicate tensor name \(tensor.name)")
      }
    }
    self.byName = byName
  }

  var tensorsByName: [String: Tensor] { byName }

  func contains(_ name: String) -> Bool { byName[name] != nil }

  /// A weight matrix (or stack of them) of any type that can be multiplied.
  mutating func matrix(_ name: String, _ shape: [Int]) throws(ModelFileError) -> Tensor {
    let tensor = try checked(name, shape)
    if tensor.type == .f8_e4m3 {
      guard tensor.scales != nil else {
        let expected = [(tensor.rows - 1) / BlockScales.block + 1, (tensor.columns - 1) / BlockScales.block + 1]
        throw .missingTensor(path: tensor.path, tensor: name + BlockScales.suffix, expected: expected)
      }
      taken.insert(name + BlockScales.suffix)
    }
    return tensor
  }

  /// A norm weight or bias: [count] of plain floats.
  mutating func vector(_ name: String, _ count: Int) throws(ModelFileError) -> Tensor {
    let tensor = try checked(name, [count])
    guard tensor.type.isPlainFloat else {
      throw .unsupportedTensorType(path: tensor.path, tensor: name, type: tensor.type.name + " for a vector", byteOffset: tensor.fileOffset)
    }
    return tensor
  }

  private mutating func checked(_ name: String, _ shape: [Int]) throws(ModelFileError) -> Tensor {
    guard let tensor = byName[name] else { throw .missingTensor(path: path, tensor: name, expected: shape) }
    guard tensor.shape == shape else {
      throw .wrongShape(path: tensor.path, tensor: name, found: tensor.shape, expected: shape, byteOffset: tensor.fileOffset)
    }
    taken.insert(name)
    return tensor
  }

  /// What nobody took. An unexpected bias is an error (SPEC 1.3); other tensors are a warning.
  /// `isIgnored` names those that are known to be unused.
  func leftovers(isIgnored: (String) -> Bool) throws(ModelFileError) -> [String] {
    let names = byName.keys.filter { !taken.contains($0) && !isIgnored($0) }.sorted()
    if let bias = names.first(where: { $0.hasSuffix(".bias") }), let tensor = byName[bias] {
      throw .unexpectedBias(path: tensor.path, tensor: bias)
    }
    guard !names.isEmpty else { return [] }
    let shown = names.prefix(5).map { printable($0, limit: 100) }.joined(separator: ", ")
    return ["\(names.count) unknown tensors are not used: \(shown)\(names.count > 5 ? ", …" : "")"]
  }
}
