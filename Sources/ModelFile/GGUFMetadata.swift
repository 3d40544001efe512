// The key/value part of a GGUF file (SPEC 3.4). Arrays are validated when read but stay in the file until asked for, so
// that a hostile count cannot make us allocate. Knows no particular keys.

/// Value types of GGUF metadata.
enum GGUFValueType: UInt32 {
  case u8 = 0
  case i8, u16, i16, u32, i32, f32, bool, string, array, u64, i64, f64

  /// Bytes of a value, or the least possible number for strings and arrays.
  var minimumBytes: Int {
    switch self {
    case .u8, .i8, .bool: 1
    case .u16, .i16: 2
    case .u32, .i32, .f32: 4
    case .u64, .i64, .f64, .string: 8
    case .array: 12
    }
  }
  var isFixedSize: Bool { self != .string && self != .array }
}

enum GGUFValue {
  case integer(Int)
  case huge(UInt64)  // a u64 over Int.max
  case float(Double)
  case bool(Bool)
  case string(UnsafeRawBufferPointer)
  case array(GGUFArray)
}

/// An array that has been walked and found whole; its elements are decoded on demand.
struct GGUFArray {
  let elementType: GGUFValueType
  let count: Int
  let byteOffset: Int  // of the first element
}

/// Reads values; the limits are far above every released model.
struct GGUFMetadata {
  static let keyCountLimit = 1 << 16
  static let keyBytesLimit = 1 << 12
  static let arrayCountLimit = 1 << 24
  static let arrayDepthLimit = 4
  static let stringBytesLimit = 1 << 26

  let file: MappedFile
  private(set) var keys: [String] = []  // file order
  private var values: [String: (value: GGUFValue, byteOffset: Int)] = [:]

  init(_ file: MappedFile, count: Int, reader: inout ByteReader) throws(ModelFileError) {
    self.file = file
    for _ in 0..<count {
      let start = reader.offset
      let key = String(decoding: try reader.string("a metadata key", limit: GGUFMetadata.keyBytesLimit), as: UTF8.self)
      let typeOffset = reader.offset
      let typeID = try reader.integer(UInt32.self, "the type of \(key)")
      guard let type = GGUFValueType(rawValue: typeID) else {
        throw .malformed(path: file.path, byteOffset: typeOffset, reason: "key \(key) has unknown value type \(typeID)")
      }
      let value = try GGUFMetadata.value(type, &reader, depth: 0)
      guard values.updateValue((value, start), forKey: key) == nil else {
        throw .malformed(path: file.path, byteOffset: start, reason: "duplicate key \(key)")
      }
      keys.append(key)
    }
  }

  subscript(_ key: String) -> GGUFValue? { values[key]?.value }
  func byteOffset(of key: String) -> Int { values[key]?.byteOffset ?? 0 }

  private static func value(_ type: GGUFValueType, _ reader: inout ByteReader, depth: Int) throws(ModelFileError) -> GGUFValue {
    switch type {
    case .u8: return .integer(Int(try reader.integer(UInt8.self, "a u8")))
    case .i8: return .integer(Int(try reader.integer(Int8.self, "an i8")))
    case .u16: return .integer(Int(try reader.integer(UInt16.self, "a u16")))
    case .i16: return .integer(Int(try reader.integer(Int16.self, "an i16")))
    case .u32: return .integer(Int(try reader.integer(UInt32.self, "a u32")))
    case .i32: return .integer(Int(try reader.integer(Int32.self, "an i32")))
    case .i64: return .integer(Int(try reader.integer(Int64.self, "an i64")))
    case .u64:
      let raw = try reader.integer(UInt64.self, "a u64")
      return Int(exactly: raw).map { .integer($0) } ?? .huge(raw)
    case .f32: return .float(Double(Float(bitPattern: try reader.integer(UInt32.self, "an f32"))))
    case .f64: return .float(Double(bitPattern: try reader.integer(UInt64.self, "an f64")))
    case .bool: return .bool(try reader.integer(UInt8.self, "a bool") != 0)
    case .string: return .string(try reader.string("a string", limit: stringBytesLimit))
    case .array: return .array(try array(&reader, depth: depth + 1))
    }
  }

  /// Walks an array to its end without keeping anything.
  private static func array(_ reader: inout ByteReader, depth: Int) throws(ModelFileError) -> GGUFArray {
    guard depth <= arrayDepthLimit else { throw reader.malformed("arrays nested deeper than \(arrayDepthLimit)") }
    let typeOffset = reader.offset
    let typeID = try reader.integer(UInt32.self, "an array's element type")
    guard let type = GGUFValueType(rawValue: typeID) else {
      throw .malformed(path: reader.path, byteOffset: typeOffset, reason: "unknown array element type \(typeID)")
    }
    let fitting = max(0, reader.remaining - 8) / type.minimumBytes
    let count = try reader.count("an array's count", limit: min(arrayCountLimit, fitting))
    let result = GGUFArray(elementType: type, count: count, byteOffset: reader.offset)
    if type.isFixedSize {
      _ = try reader.take(count * type.minimumBytes, "an array")
    } else {
      for _ in 0..<count {
        if type == .string {
          _ = try reader.string("an array's string", limit: stringBytesLimit)
        } else {
          _ = try array(&reader, depth: depth + 1)
        }
      }
    }
    return result
  }

  // MARK: Typed access. Integers are read leniently: any integer type, and floats or bools where they are exact.

  private func bad(_ key: String, _ reason: String) -> ModelFileError {
    .badValue(path: file.path, key: key, reason: "\(reason) (at byte \(byteOffset(of: key)))")
  }

  func integer(_ key: String) throws(ModelFileError) -> Int? {
    switch self[key] {
    case nil: return nil
    case .integer(let value): return value
    case .bool(let value): return value ? 1 : 0
    case .huge(let value): throw bad(key, "is \(value), out of range")
    case .float(let value): if let exact = Int(exactly: value) { return exact }
    case .string, .array: break
    }
    throw bad(key, "is not an integer")
  }

  func requiredInteger(_ key: String) throws(ModelFileError) -> Int {
    guard let value = try integer(key) else { throw .missingKey(path: file.path, key: key) }
    return value
  }

  func double(_ key: String) throws(ModelFileError) -> Double? {
    switch self[key] {
    case nil: return nil
    case .float(let value) where value.isFinite: return value
    case .integer(let value): return Double(value)
    default: throw bad(key, "is not a finite number")
    }
  }

  func bool(_ key: String) throws(ModelFileError) -> Bool? {
    switch self[key] {
    case nil: return nil
    case .bool(let value): return value
    case .integer(let value) where value == 0 || value == 1: return value == 1
    default: throw bad(key, "is not a bool")
    }
  }

  func bytes(_ key: String) throws(ModelFileError) -> [UInt8]? {
    switch self[key] {
    case nil: return nil
    case .string(let value): return [UInt8](value)
    default: throw bad(key, "is not a string")
    }
  }

  func string(_ key: String) throws(ModelFileError) -> String? {
    try bytes(key).map { String(decoding: $0, as: UTF8.self) }
  }

  /// One value per layer: a scalar stands for all `count`.
  func integers(_ key: String, count: Int) throws(ModelFileError) -> [Int]? {
    guard case .array(let array)? = self[key] else {
      return try integer(key).map { Array(repeating: $0, count: count) }
    }
    guard array.count >= count else { throw bad(key, "has \(array.count) elements, \(count) are needed") }
    return Array(try integerArray(key, limit: array.count)?.prefix(count) ?? [])
  }

  func integerArray(_ key: String, limit: Int) throws(ModelFileError) -> [Int]? {
    guard let (array, start) = try arrayReader(key, limit: limit) else { return nil }
    var reader = start
    var result: [Int] = []
    result.reserveCapacity(array.count)
    for _ in 0..<array.count {
      switch try GGUFMetadata.value(array.elementType, &reader, depth: GGUFMetadata.arrayDepthLimit) {
      case .integer(let value): result.append(value)
      case .bool(let value): result.append(value ? 1 : 0)
      default: throw bad(key, "is not an array of integers")
      }
    }
    return result
  }

  func stringArray(_ key: String, limit: Int) throws(ModelFileError) -> [[UInt8]]? {
    guard let (array, start) = try arrayReader(key, limit: limit) else { return nil }
    guard array.elementType == .string else { throw bad(key, "is not an array of strings") }
    var reader = start
    var result: [[UInt8]] = []
    result.reserveCapacity(array.count)
    for _ in 0..<array.count { result.append([UInt8](try reader.string("a string", limit: GGUFMetadata.stringBytesLimit))) }
    return result
  }

  private func arrayReader(_ key: String, limit: Int) throws(ModelFileError) -> (GGUFArray, ByteReader)? {
    guard let value = self[key] else { return nil }
    guard case .array(let array) = value else { throw bad(key, "is not an array") }
    guard array.count <= limit else { throw bad(key, "has \(array.count) elements, the limit is \(limit)") }
    var reader = ByteReader(file)
    _ = try reader.take(array.byteOffset, "the array")
    return (array, reader)
  }

  /// The value as text for `quire inspect`: strings cut, arrays as their count.
  func text(_ key: String) -> String {
    switch self[key] {
    case nil: ""
    case .integer(let value): String(value)
    case .huge(let value): String(value)
    case .float(let value): String(Float(value).isFinite && Double(Float(value)) == value ? "\(Float(value))" : "\(value)")
    case .bool(let value): String(value)
    case .string(let value): printable(String(decoding: value.prefix(400), as: UTF8.self), limit: 60)
    case .array(let array): "[\(array.count) × \(array.elementType)]"
    }
  }
}
