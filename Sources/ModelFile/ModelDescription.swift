// What `quire inspect` prints about a model file, as values: tensors by type, metadata. Knows no terminal.

package struct ModelDescription: Sendable {
  package struct TypeSummary: Sendable, Equatable {
    package let type: TensorType
    package let tensorCount: Int
    package let elementCount: Int
    package let byteCount: Int
  }

  package let types: [TypeSummary]  // most bytes first
  package let tensorCount: Int
  package let elementCount: Int
  package let byteCount: Int
  package let metadata: [(key: String, value: String)]  // file order (GGUF) or sorted (config.json)
}

extension ModelFile {
  package func describe() -> ModelDescription {
    var types: [ModelDescription.TypeSummary] = []
    for (type, group) in Dictionary(grouping: tensors, by: \.type) {
      types.append(
        .init(
          type: type, tensorCount: group.count, elementCount: group.reduce(0) { $0 + $1.elementCount },
          byteCount: group.reduce(0) { $0 + $1.bytes.count }))
    }
    types.sort { ($0.byteCount, $0.type.rawValue) > ($1.byteCount, $1.type.rawValue) }
    return ModelDescription(
      types: types, tensorCount: tensors.count, elementCount: types.reduce(0) { $0 + $1.elementCount },
      byteCount: types.reduce(0) { $0 + $1.byteCount }, metadata: metadata)
  }
}

extension JSONValue {
  /// The leaves of an object as "a.b" and text, sorted by key; strings are cut, arrays given as their count.
  func printableMembers(prefix: String = "") -> [(key: String, value: String)] {
    guard let members = objectValue else { return [] }
    return members.sorted { $0.key < $1.key }.flatMap { key, value -> [(key: String, value: String)] in
      let name = prefix + printable(key, limit: 100)
      switch value {
      case .object: return value.printableMembers(prefix: name + ".")
      case .array(let elements): return [(name, "[\(elements.count)]")]
      case .string(let text): return [(name, printable(text, limit: 60))]
      case .integer(let number): return [(name, String(number))]
      case .number(let number): return [(name, String(number))]
      case .bool(let flag): return [(name, String(flag))]
      case .null: return [(name, "null")]
      }
    }
  }
}
