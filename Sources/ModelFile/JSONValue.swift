// JSON as a value, and typed access to the members of a configuration object. Knows no particular keys.

package enum JSONValue: Sendable, Equatable {
  case null
  case bool(Bool)
  case integer(Int)  // exact: written without fraction and exponent, and fits
  case number(Double)  // finite
  case string(String)
  case array([JSONValue])
  case object([String: JSONValue])

  /// Parses a whole document.
  init(parsing bytes: [UInt8], path: String) throws(ModelFileError) {
    var reader = JSONReader(bytes, path: path)
    self = try reader.value()
    try reader.finish()
  }

  var integerValue: Int? {
    switch self {
    case .integer(let value): value
    case .number(let value): Int(exactly: value)
    default: nil
    }
  }

  var doubleValue: Double? {
    switch self {
    case .integer(let value): Double(value)
    case .number(let value): value
    default: nil
    }
  }

  var stringValue: String? { if case .string(let value) = self { value } else { nil } }
  var arrayValue: [JSONValue]? { if case .array(let value) = self { value } else { nil } }
  var objectValue: [String: JSONValue]? { if case .object(let value) = self { value } else { nil } }
}

/// The members of one JSON object. A member that is null counts as absent (SPEC 1.3 rule 1).
struct JSONObject {
  let path: String
  let prefix: String  // where this object sits in the document, for messages: "rope_scaling."
  let members: [String: JSONValue]

  init(_ value: JSONValue, path: String, prefix: String = "") throws(ModelFileError) {
    guard let members = value.objectValue else {
      throw .badValue(path: path, key: prefix.isEmpty ? "document" : String(prefix.dropLast()), reason: "is not a JSON object")
    }
    self.path = path
    self.prefix = prefix
    self.members = members
  }

  subscript(_ key: String) -> JSONValue? {
    guard let value = members[key], value != .null else { return nil }
    return value
  }

  func bad(_ key: String, _ reason: String) -> ModelFileError { .badValue(path: path, key: prefix + key, reason: reason) }
  func missing(_ key: String) -> ModelFileError { .missingKey(path: path, key: prefix + key) }
  func unsupported(_ key: String, _ value: String) -> ModelFileError { .unsupported(path: path, key: prefix + key, value: value) }

  func integer(_ key: String) throws(ModelFileError) -> Int? {
    guard let value = self[key] else { return nil }
    guard let integer = value.integerValue else { throw bad(key, "is not an integer") }
    return integer
  }

  func requiredInteger(_ key: String) throws(ModelFileError) -> Int {
    guard let value = try integer(key) else { throw missing(key) }
    return value
  }

  func double(_ key: String) throws(ModelFileError) -> Double? {
    guard let value = self[key] else { return nil }
    guard let double = value.doubleValue else { throw bad(key, "is not a number") }
    return double
  }

  func bool(_ key: String) throws(ModelFileError) -> Bool? {
    guard let value = self[key] else { return nil }
    guard case .bool(let bool) = value else { throw bad(key, "is not true or false") }
    return bool
  }

  func string(_ key: String) throws(ModelFileError) -> String? {
    guard let value = self[key] else { return nil }
    guard case .string(let string) = value else { throw bad(key, "is not a string") }
    return string
  }

  func object(_ key: String) throws(ModelFileError) -> JSONObject? {
    guard let value = self[key] else { return nil }
    return try JSONObject(value, path: path, prefix: prefix + key + ".")
  }
}
