// A strict pull parser for the JSON of model directories (RFC 8259): config.json, indexes, safetensors headers.
// Own parser and not JSONDecoder because a hostile header needs byte offsets in errors, a depth limit, refusal of
// duplicate keys, exact integers, and no tree in memory. Knows nothing of models.

struct JSONReader {
  /// Deeper nesting is refused, so that the recursion of `value` and `skip` is bounded.
  static let depthLimit = 48

  let path: String
  let bytes: [UInt8]
  let baseOffset: Int  // of bytes[0] in the file, for messages
  private var position = 0
  private var depth = 0

  init(_ bytes: [UInt8], path: String, baseOffset: Int = 0) {
    self.bytes = bytes
    self.path = path
    self.baseOffset = baseOffset
  }

  /// Offset in the file of the next byte to read.
  var fileOffset: Int { baseOffset + position }

  func malformed(_ reason: String, at offset: Int? = nil) -> ModelFileError {
    .malformed(path: path, byteOffset: offset ?? fileOffset, reason: "JSON: " + reason)
  }

  // MARK: Containers

  /// Reads an object; `body` is called after each key and must consume exactly the value. Duplicate keys are refused.
  mutating func object(_ body: (inout JSONReader, String) throws(ModelFileError) -> Void) throws(ModelFileError) {
    var seen: Set<String> = []
    try open(UInt8(ascii: "{"), "an object")
    if try !closes(UInt8(ascii: "}")) {
      repeat {
        skipSpace()
        let start = fileOffset
        let key = try string()
        guard seen.insert(key).inserted else { throw malformed("duplicate key \"\(key)\"", at: start) }
        try expect(UInt8(ascii: ":"), "':' after a key")
        try body(&self, key)
      } while try continues(until: UInt8(ascii: "}"))
    }
    depth -= 1
  }

  /// Reads an array; `body` must consume exactly one element per call.
  mutating func array(_ body: (inout JSONReader) throws(ModelFileError) -> Void) throws(ModelFileError) {
    try open(UInt8(ascii: "["), "an array")
    if try !closes(UInt8(ascii: "]")) {
      repeat { try body(&self) } while try continues(until: UInt8(ascii: "]"))
    }
    depth -= 1
  }

  /// Nothing but white space may follow. (safetensors pads its header with spaces.)
  mutating func finish() throws(ModelFileError) {
    skipSpace()
    guard position == bytes.count else { throw malformed("text after the end of the value") }
  }

  // MARK: Values

  mutating func value() throws(ModelFileError) -> JSONValue {
    switch try kind() {
    case .object:
      var members: [String: JSONValue] = [:]
      try object { (reader, key) throws(ModelFileError) in members[key] = try reader.value() }
      return .object(members)
    case .array:
      var elements: [JSONValue] = []
      try array { (reader) throws(ModelFileError) in elements.append(try reader.value()) }
      return .array(elements)
    case .string: return .string(try string())
    case .number: return try number()
    case .word: return try word()
    }
  }

  /// Passes over a value without making strings of it: a tokenizer.json has 10^5 of them. Duplicate keys and UTF-8 are not
  /// checked; a vocabulary may hold two spellings of one text, which `String` takes for equal.
  mutating func skip() throws(ModelFileError) {
    switch try kind() {
    case .object: try skipMembers()
    case .array: try array { (reader) throws(ModelFileError) in try reader.skip() }
    case .string: try skipString()
    case .number: _ = try number()
    case .word: _ = try word()
    }
  }

  private mutating func skipMembers() throws(ModelFileError) {
    try open(UInt8(ascii: "{"), "an object")
    if try !closes(UInt8(ascii: "}")) {
      repeat {
        try skipString()
        try expect(UInt8(ascii: ":"), "':' after a key")
        try skip()
      } while try continues(until: UInt8(ascii: "}"))
    }
    depth -= 1
  }

  private mutating func skipString() throws(ModelFileError) {
    try expect(UInt8(ascii: "\""), "a string")
    while position < bytes.count, bytes[position] != UInt8(ascii: "\"") {
      position += bytes[position] == UInt8(ascii: "\\") ? 2 : 1
    }
    guard position < bytes.count else { throw malformed("unterminated string", at: baseOffset + bytes.count) }
    position += 1
  }

  /// A number that is an integer of at least 0.
  mutating func natural(_ what: String) throws(ModelFileError) -> Int {
    skipSpace()
    let start = fileOffset
    guard try kind() == .number, case .integer(let value) = try number(), value >= 0 else {
      throw malformed("\(what) is not an integer from 0 to 2^63-1", at: start)
    }
    return value
  }

  mutating func string() throws(ModelFileError) -> String {
    try expect(UInt8(ascii: "\""), "a string")
    let start = position
    while position < bytes.count, bytes[position] != UInt8(ascii: "\""), bytes[position] != UInt8(ascii: "\\"), bytes[position] >= 0x20 {
      position += 1
    }
    guard position < bytes.count else { throw malformed("unterminated string") }
    if bytes[position] == UInt8(ascii: "\"") {
      let text = try validated(bytes[start..<position], at: start)
      position += 1
      return text
    }
    return try escapedString(prefix: bytes[start..<position], at: start)
  }

  // MARK: Pieces

  private enum Kind { case object, array, string, number, word }

  private mutating func kind() throws(ModelFileError) -> Kind {
    skipSpace()
    guard position < bytes.count else { throw malformed("unexpected end") }
    switch bytes[position] {
    case UInt8(ascii: "{"): return .object
    case UInt8(ascii: "["): return .array
    case UInt8(ascii: "\""): return .string
    case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"): return .number
    case UInt8(ascii: "t"), UInt8(ascii: "f"), UInt8(ascii: "n"): return .word
    default: throw malformed("unexpected byte 0x" + String(bytes[position], radix: 16))
    }
  }

  private mutating func skipSpace() {
    while position < bytes.count {
      switch bytes[position] {
      case 0x20, 0x09, 0x0A, 0x0D: position += 1
      default: return
      }
    }
  }

  private mutating func expect(_ byte: UInt8, _ what: String) throws(ModelFileError) {
    skipSpace()
    guard position < bytes.count, bytes[position] == byte else { throw malformed("expected \(what)") }
    position += 1
  }

  private mutating func open(_ byte: UInt8, _ what: String) throws(ModelFileError) {
    try expect(byte, what)
    depth += 1
    guard depth <= JSONReader.depthLimit else { throw malformed("nested deeper than \(JSONReader.depthLimit)") }
  }

  private mutating func closes(_ byte: UInt8) throws(ModelFileError) -> Bool {
    skipSpace()
    guard position < bytes.count else { throw malformed("unexpected end") }
    guard bytes[position] == byte else { return false }
    position += 1
    return true
  }

  private mutating func continues(until end: UInt8) throws(ModelFileError) -> Bool {
    if try closes(end) { return false }
    try expect(UInt8(ascii: ","), "',' or the end of the container")
    return true
  }

  private mutating func word() throws(ModelFileError) -> JSONValue {
    for (text, value) in [("true", JSONValue.bool(true)), ("false", .bool(false)), ("null", .null)] {
      if bytes[position...].starts(with: text.utf8) {
        position += text.utf8.count
        return value
      }
    }
    throw malformed("unknown word")
  }

  private mutating func number() throws(ModelFileError) -> JSONValue {
    let start = position
    var isInteger = true
    if bytes[position] == UInt8(ascii: "-") { position += 1 }
    let leadingZero = position < bytes.count && bytes[position] == UInt8(ascii: "0")
    guard case let digitCount = digits(), digitCount == 1 || (digitCount > 1 && !leadingZero) else { throw malformed("bad number") }
    if position < bytes.count, bytes[position] == UInt8(ascii: ".") {
      position += 1
      isInteger = false
      guard digits() > 0 else { throw malformed("bad number") }
    }
    if position < bytes.count, bytes[position] | 0x20 == UInt8(ascii: "e") {
      position += 1
      isInteger = false
      if position < bytes.count, bytes[position] == UInt8(ascii: "-") || bytes[position] == UInt8(ascii: "+") { position += 1 }
      guard digits() > 0 else { throw malformed("bad number") }
    }
    let text = String(decoding: bytes[start..<position], as: UTF8.self)
    if isInteger, let value = Int(text) { return .integer(value) }
    guard let value = Double(text), value.isFinite else { throw malformed("number out of range", at: baseOffset + start) }
    return .number(value)
  }

  /// Moves past decimal digits and returns how many there were.
  private mutating func digits() -> Int {
    let start = position
    while position < bytes.count, bytes[position] >= UInt8(ascii: "0"), bytes[position] <= UInt8(ascii: "9") { position += 1 }
    return position - start
  }

  private func validated(_ text: some Sequence<UInt8>, at start: Int) throws(ModelFileError) -> String {
    guard let string = String(validating: text, as: UTF8.self) else { throw malformed("invalid UTF-8 in a string", at: baseOffset + start) }
    return string
  }

  private mutating func escapedString(prefix: ArraySlice<UInt8>, at start: Int) throws(ModelFileError) -> String {
    var text = [UInt8](prefix)
    while position < bytes.count {
      let byte = bytes[position]
      position += 1
      switch byte {
      case UInt8(ascii: "\""): return try validated(text, at: start)
      case UInt8(ascii: "\\"): try appendEscape(to: &text)
      case 0..<0x20: throw malformed("control character in a string", at: fileOffset - 1)
      default: text.append(byte)
      }
    }
    throw malformed("unterminated string")
  }

  private mutating func appendEscape(to text: inout [UInt8]) throws(ModelFileError) {
    guard position < bytes.count else { throw malformed("unterminated string") }
    let escape = bytes[position]
    position += 1
    switch escape {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(escape)
    case UInt8(ascii: "b"): text.append(0x08)
    case UInt8(ascii: "f"): text.append(0x0C)
    case UInt8(ascii: "n"): text.append(0x0A)
    case UInt8(ascii: "r"): text.append(0x0D)
    case UInt8(ascii: "t"): text.append(0x09)
    case UInt8(ascii: "u"): text.append(contentsOf: Character(try unicodeEscape()).utf8)
    default: throw malformed("unknown escape", at: fileOffset - 1)
    }
  }

  private mutating func unicodeEscape() throws(ModelFileError) -> Unicode.Scalar {
    let high = try fourHexDigits()
    if let scalar = Unicode.Scalar(high) { return scalar }
    guard high < 0xDC00, bytes[position...].starts(with: [UInt8(ascii: "\\"), UInt8(ascii: "u")]) else { return "\u{FFFD}" }
    position += 2
    let low = try fourHexDigits()
    guard low >= 0xDC00, low <= 0xDFFF, let scalar = Unicode.Scalar(0x10000 + (high - 0xD800) << 10 + (low - 0xDC00)) else {
      throw malformed("unpaired surrogate")
    }
    return scalar
  }

  private mutating func fourHexDigits() throws(ModelFileError) -> UInt32 {
    guard bytes.count - position >= 4 else { throw malformed("unterminated string") }
    var value: UInt32 = 0
    for byte in bytes[position..<position + 4] {
      guard byte < 0x80, let digit = Character(Unicode.Scalar(byte)).hexDigitValue else { throw malformed("bad \\u escape") }
      value = value << 4 | UInt32(digit)
    }
    position += 4
    return value
  }
}
