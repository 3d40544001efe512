// Everything that can be wrong with a model on disk, each case with what an operator needs to find it.
// A description is always one line: text that comes from the file is cut and its control characters are escaped.

package enum ModelFileError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The operating system refused: not found, no permission, not a regular file ...
  case cannotOpen(path: String, reason: String)
  /// The bytes at `byteOffset` are not what the format says.
  case malformed(path: String, byteOffset: Int, reason: String)
  /// Readable, but of a kind Quire does not serve: architecture, version, rope type, quantisation ...
  case unsupported(path: String, key: String, value: String)
  case unsupportedTensorType(path: String, tensor: String, type: String, byteOffset: Int)
  case missingKey(path: String, key: String)
  case badValue(path: String, key: String, reason: String)
  case missingTensor(path: String, tensor: String, expected: [Int])
  case wrongShape(path: String, tensor: String, found: [Int], expected: [Int], byteOffset: Int)
  /// A bias that the graph would ignore: the answers would be silently wrong.
  case unexpectedBias(path: String, tensor: String)

  package var description: String {
    switch self {
    case .cannotOpen(let path, let reason):
      "\(printable(path)): \(printable(reason))"
    case .malformed(let path, let byteOffset, let reason):
      "\(printable(path)): at byte \(byteOffset): \(printable(reason))"
    case .unsupported(let path, let key, let value):
      "\(printable(path)): \(printable(key)) = \(printable(value)) is not supported"
    case .unsupportedTensorType(let path, let tensor, let type, let byteOffset):
      "\(printable(path)): tensor \(printable(tensor)) (described at byte \(byteOffset)) has type \(printable(type)), which is not supported"
    case .missingKey(let path, let key):
      "\(printable(path)): key \(printable(key)) is missing"
    case .badValue(let path, let key, let reason):
      "\(printable(path)): \(printable(key)): \(printable(reason))"
    case .missingTensor(let path, let tensor, let expected):
      "\(printable(path)): tensor \(printable(tensor)) \(expected) is missing"
    case .wrongShape(let path, let tensor, let found, let expected, let byteOffset):
      "\(printable(path)): tensor \(printable(tensor)) (data at byte \(byteOffset)) has shape \(found), expected \(expected)"
    case .unexpectedBias(let path, let tensor):
      "\(printable(path)): unexpected bias \(printable(tensor)): this architecture has none there, ignoring it would give wrong answers"
    }
  }
}

/// Text from a file made fit for one line of a terminal or log: control characters escaped, at most `limit` characters.
package func printable(_ text: String, limit: Int = 300) -> String {
  var result = ""
  var count = 0
  for scalar in text.unicodeScalars {
    if count == limit { return result + "…" }
    count += 1
    switch scalar.properties.generalCategory {
    case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate, .privateUse, .unassigned:
      result += "\\u{" + String(scalar.value, radix: 16) + "}"
    default:
      result.unicodeScalars.append(scalar)
    }
  }
  return result
}
