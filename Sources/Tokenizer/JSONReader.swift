// A strict pull parser for JSON (RFC 8259) over bytes in memory. It exists because a tokenizer.json holds 10^5 dictionary entries,
// which JSONDecoder turns into String keys: slow, and equal under Unicode's canonical equivalence, which vocabulary entries must not be.
// It knows nothing of tokenizers. No input makes it trap: depth is limited, UTF-8 was checked by the initialiser.

/// A small parsed value, for the parts of a file that are not streamed.
indirect enum JSONValue: Equatable {
  case null
  case bool(Bool)
  /// nil: a number that is no integer or does not fit.
  case number(Int?)
  case string([UInt8])
  case array([JSONValue])
  /// In file order; a repeated key is refused by the reader.
  case object([(key: [UInt8], value: JSONValue)])

  static func == (left: JSONValue, right: JSONValue) -> Bool {
    switch (left, right) {
    case (.null, .null): true
    case (.bool(let a), .bool(let b)): a == b
    case (.number(let a), .number(let b)): a == b
    case (.string(let a), .string(let b)): a == b
    case (.array(let a), .array(let b)): a == b
    case (.object(let a), .object(let b)): a.count == b.count && zip(a, b).allSatisfy { $0.key == $1.key && $0.value == $1.value }
    default: false
    }
  }

  /// The member of that name; nil for a missing one, for null, and when this is no object.
  subscript(_ name: String) -> JSONValue? {
    guard case .object(let members) = self, let value = members.first(where: { $0.key.elementsEqual(name.utf8) })?.value else { return nil }
    return value == .null ? nil : value
  }

  var text: [UInt8]? { if case .string(let bytes) = self { bytes } else { nil } }
  var flag: Bool? { if case .bool(let value) = self { value } else { nil } }
  var integer: Int? { if case .number(let value) = self { value } else { nil } }
  var elements: [JSONValue]? { if case .array(let values) = self { values } else { nil } }

  func isText(_ expected: String) -> Bool { text?.elementsEqual(expected.utf8) ?? false }
}

struct JSONReader {
  private let bytes: [UInt8]
  private var depth = 0
  /// Offset of the next byte to read. May be set to an offset this reader gave before.
  var position = 0

  /// - Throws: when the bytes are not UTF-8.
  init(_ bytes: [UInt8]) throws(TokenizerError) {
    if let offset = UTF8Repair.firstInvalidOffset(in: bytes) { throw .json(offset: offset, message: "not UTF-8") }
    self.bytes = bytes
  }

  func failure(_ message: String) -> TokenizerError { .json(offset: position, message: message) }

  /// The next byte that is not white space, without taking it.
  mutating func peek() throws(TokenizerError) -> UInt8 {
    while position < bytes.count {
      switch bytes[position] {
      case 0x20, 0x09, 0x0A, 0x0D: position += 1
      default: return bytes[position]
      }
    }
    throw failure("unexpected end of JSON")
  }

  mutating func expectEnd() throws(TokenizerError) {
    while position < bytes.count, [0x20, 0x09, 0x0A, 0x0D].contains(bytes[position]) { position += 1 }
    if position != bytes.count { throw failure("text after the JSON value") }
  }

  private mutating func take(_ byte: UInt8, _ name: String) throws(TokenizerError) {
    guard try peek() == byte else { throw failure("expected \(name)") }
    position += 1
  }

  private mutating func enter() throws(TokenizerError) {
    depth += 1
    if depth > TokenizerLimits.jsonDepth { throw failure("nested deeper than \(TokenizerLimits.jsonDepth)") }
  }

  // MARK: containers

  /// Calls `member` with each key; it must read the value. `key` is reused storage.
  mutating func object(
    _ member: (inout JSONReader, _ key: [UInt8]) throws(TokenizerError) -> Void
  ) throws(TokenizerError) {
    try take(UInt8(ascii: "{"), "an object")
    try enter()
    var key: [UInt8] = []
    if try peek() == UInt8(ascii: "}") {
      position += 1
      depth -= 1
      return
    }
    while true {
      key.removeAll(keepingCapacity: true)
      try string(appendingTo: &key)
      try take(UInt8(ascii: ":"), "':'")
      try member(&self, key)
      if try peek() == UInt8(ascii: ",") {
        position += 1
        continue
      }
      try take(UInt8(ascii: "}"), "',' or '}'")
      depth -= 1
      return
    }
  }

  /// Calls `element` once for each element; it must read it.
  mutating func array(_ element: (inout JSONReader) throws(TokenizerError) -> Void) throws(TokenizerError) {
    try take(UInt8(ascii: "["), "an array")
    try enter()
    if try peek() == UInt8(ascii: "]") {
      position += 1
      depth -= 1
      return
    }
    while true {
      try element(&self)
      if try peek() == UInt8(ascii: ",") {
        position += 1
        continue
      }
      try take(UInt8(ascii: "]"), "',' or ']'")
      depth -= 1
      return
    }
  }

  // MARK: scalars

  mutating func string(appendingTo out: inout [UInt8]) throws(TokenizerError) {
    try take(UInt8(ascii: "\""), "a string")
    while true {
      let start = position
      while position < bytes.count, bytes[position] != UInt8(ascii: "\""), bytes[position] != UInt8(ascii: "\\"), bytes[position] >= 0x20 {
        position += 1
      }
      out.append(contentsOf: bytes[start..<position])
      guard position < bytes.count else { throw failure("unterminated string") }
      switch bytes[position] {
      case UInt8(ascii: "\""):
        position += 1
        return
      case UInt8(ascii: "\\"):
        position += 1
        try escape(appendingTo: &out)
      default: throw failure("control character in a string")
      }
    }
  }

  private mutating func escape(appendingTo out: inout [UInt8]) throws(TokenizerError) {
    guard position < bytes.count else { throw failure("unterminated string") }
    let letter = bytes[position]
    position += 1
    switch letter {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): out.append(letter)
    case UInt8(ascii: "b"): out.append(0x08)
    case UInt8(ascii: "f"): out.append(0x0C)
    case UInt8(ascii: "n"): out.append(0x0A)
    case UInt8(ascii: "r"): out.append(0x0D)
    case UInt8(ascii: "t"): out.append(0x09)
    case UInt8(ascii: "u"):
      var value = try fourHexDigits()
      if (0xD800..<0xDC00).contains(value) {
        guard position + 1 < bytes.count, bytes[position] == UInt8(ascii: "\\"), bytes[position + 1] == UInt8(ascii: "u") else {
          throw failure("lone surrogate in a string")
        }
        position += 2
        let low = try fourHexDigits()
        guard (0xDC00..<0xE000).contains(low) else { throw failure("lone surrogate in a string") }
        value = 0x10000 + (value - 0xD800) << 10 + (low - 0xDC00)
      }
      guard let scalar = Unicode.Scalar(value) else { throw failure("lone surrogate in a string") }
      out.append(contentsOf: UTF8.encode(scalar).map { Array($0) } ?? [])
    default: throw failure("unknown escape in a string")
    }
  }

  private mutating func fourHexDigits() throws(TokenizerError) -> UInt32 {
    guard bytes.count - position >= 4 else { throw failure("unterminated string") }
    var value: UInt32 = 0
    for _ in 0..<4 {
      switch bytes[position] {
      case UInt8(ascii: "0")...UInt8(ascii: "9"): value = value << 4 | UInt32(bytes[position] - UInt8(ascii: "0"))
      case UInt8(ascii: "a")...UInt8(ascii: "f"): value = value << 4 | UInt32(bytes[position] - UInt8(ascii: "a") + 10)
      case UInt8(ascii: "A")...UInt8(ascii: "F"): value = value << 4 | UInt32(bytes[position] - UInt8(ascii: "A") + 10)
      default: throw failure("bad \\u escape")
      }
      position += 1
    }
    return value
  }

  /// Any JSON number. nil when it is no integer or does not fit `Int`.
  private mutating func number() throws(TokenizerError) -> Int? {
    let start = position
    func digitAt(_ offset: Int) -> Bool { offset < bytes.count && (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(bytes[offset]) }
    if bytes[position] == UInt8(ascii: "-") { position += 1 }
    guard digitAt(position) else { throw failure("bad number") }
    if bytes[position] == UInt8(ascii: "0"), digitAt(position + 1) { throw failure("number with a leading zero") }
    while digitAt(position) { position += 1 }
    let integerEnd = position
    if position < bytes.count, bytes[position] == UInt8(ascii: ".") {
      position += 1
      guard digitAt(position) else { throw failure("bad number") }
      while digitAt(position) { position += 1 }
    }
    if position < bytes.count, bytes[position] | 0x20 == UInt8(ascii: "e") {
      position += 1
      if position < bytes.count, bytes[position] == UInt8(ascii: "+") || bytes[position] == UInt8(ascii: "-") { position += 1 }
      guard digitAt(position) else { throw failure("bad number") }
      while digitAt(position) { position += 1 }
    }
    guard integerEnd == position else { return nil }
    return Int(String(decoding: bytes[start..<integerEnd], as: UTF8.self))
  }

  mutating func integer() throws(TokenizerError) -> Int {
    _ = try peek()
    guard let value = try number() else { throw failure("expected an integer") }
    return value
  }

  private mutating func word(_ text: StaticString) throws(TokenizerError) {
    let expected = String(describing: text).utf8
    guard bytes.count - position >= expected.count, bytes[position..<position + expected.count].elementsEqual(expected) else {
      throw failure("expected a JSON value")
    }
    position += expected.count
  }

  // MARK: whole values

  mutating func value() throws(TokenizerError) -> JSONValue {
    switch try peek() {
    case UInt8(ascii: "{"):
      var members: [(key: [UInt8], value: JSONValue)] = []
      var seen: Set<[UInt8]> = []
      try object { (reader, key) throws(TokenizerError) in
        guard seen.insert(key).inserted else { throw reader.failure("repeated key '\(String(decoding: key, as: UTF8.self))'") }
        members.append((key, try reader.value()))
      }
      return .object(members)
    case UInt8(ascii: "["):
      var elements: [JSONValue] = []
      try array { (reader) throws(TokenizerError) in elements.append(try reader.value()) }
      return .array(elements)
    case UInt8(ascii: "\""):
      var text: [UInt8] = []
      try string(appendingTo: &text)
      return .string(text)
    case UInt8(ascii: "t"):
      try word("true")
      return .bool(true)
    case UInt8(ascii: "f"):
      try word("false")
      return .bool(false)
    case UInt8(ascii: "n"):
      try word("null")
      return .null
    default: return .number(try number())
    }
  }

  /// Reads a value and checks it as `value` does (but for repeated keys), keeping nothing.
  mutating func skipValue() throws(TokenizerError) {
    switch try peek() {
    case UInt8(ascii: "{"): try object { (reader, _) throws(TokenizerError) in try reader.skipValue() }
    case UInt8(ascii: "["): try array { (reader) throws(TokenizerError) in try reader.skipValue() }
    case UInt8(ascii: "\""):
      var ignored: [UInt8] = []
      try string(appendingTo: &ignored)
    default: _ = try value()
    }
  }
}
