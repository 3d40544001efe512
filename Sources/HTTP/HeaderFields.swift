// The header fields of one request, as slices of the received head. Names compare as ASCII bytes without case;
// values are kept as bytes and read as text only when asked. Knows no meaning of any field.

package struct HeaderFields: Sendable, Equatable {
  private var bytes: [UInt8] = []
  private var fields: [(name: Range<Int>, value: Range<Int>)] = []

  package init() {}

  package init(_ pairs: [(String, String)]) {
    for (name, value) in pairs { append(name: name.utf8, value: value.utf8) }
  }

  package var count: Int { fields.count }

  package mutating func append(name: some Collection<UInt8>, value: some Collection<UInt8>) {
    let start = bytes.count
    bytes.append(contentsOf: name)
    let middle = bytes.count
    bytes.append(contentsOf: value)
    fields.append((start..<middle, middle..<bytes.count))
  }

  /// The first field of that name (give it in any case), as text; invalid UTF-8 is replaced.
  package subscript(_ name: String) -> String? {
    values(of: name).first.map { String(decoding: $0, as: UTF8.self) }
  }

  /// All fields of that name in order, as bytes.
  package func values(of name: String) -> [ArraySlice<UInt8>] {
    fields.filter { isName($0.name, name.utf8) }.map { bytes[$0.value] }
  }

  /// All fields of that name as one comma-separated list (RFC 9110 section 5.3).
  package func list(_ name: String) -> String? {
    let found = values(of: name)
    return found.isEmpty ? nil : String(decoding: Array(found.joined(separator: [UInt8(ascii: ","), UInt8(ascii: " ")])), as: UTF8.self)
  }

  package var pairs: [(name: String, value: String)] {
    fields.map { (String(decoding: bytes[$0.name], as: UTF8.self), String(decoding: bytes[$0.value], as: UTF8.self)) }
  }

  package static func == (left: HeaderFields, right: HeaderFields) -> Bool {
    left.bytes == right.bytes && left.fields.elementsEqual(right.fields) { $0.name == $1.name && $0.value == $1.value }
  }

  private func isName(_ range: Range<Int>, _ name: String.UTF8View) -> Bool {
    guard range.count == name.count else { return false }
    return zip(bytes[range], name).allSatisfy { ASCII.lowercased($0) == ASCII.lowercased($1) }
  }
}
