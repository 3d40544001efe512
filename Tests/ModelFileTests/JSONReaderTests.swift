// The strict JSON parser: what it accepts, what it refuses and where, and that random text cannot crash it.

import FoundationEssentials
import Testing

@testable import ModelFile

private func parse(_ text: String) throws -> JSONValue { try JSONValue(parsing: Array(text.utf8), path: "x.json") }

@Suite struct JSONReaderTests {
  static let accepted: [(String, JSONValue)] = [
    ("0", .integer(0)), ("-7", .integer(-7)), ("9223372036854775807", .integer(.max)), ("-9223372036854775808", .integer(.min)),
    ("9223372036854775808", .number(9.223372036854775808e18)), ("1.0", .number(1)), ("1e3", .number(1000)), ("-2.5E-1", .number(-0.25)),
    (" [ ] ", .array([])), ("{}", .object([:])), ("[1,\t2\r\n,3]", .array([.integer(1), .integer(2), .integer(3)])), ("null", .null),
    ("{\"a\":{\"b\":[true,false,null]}}", .object(["a": .object(["b": .array([.bool(true), .bool(false), .null])])])),
    ("\"\"", .string("")), ("\"a\\n\\t\\\"\\\\\\/\\b\\f\\r\"", .string("a\n\t\"\\/\u{8}\u{c}\r")),
    ("\"\\u00e9\\u4E2d\"", .string("\u{e9}\u{4e2d}")),
    ("\"\\ud83d\\ude00\"", .string("\u{1f600}")), ("\"x\\ud83d\"", .string("x\u{fffd}")), ("\"é中\"", .string("é中")),
  ]

  @Test(arguments: accepted)
  func accepts(_ text: String, _ value: JSONValue) throws { #expect(try parse(text) == value) }

  static let refused: [(String, Int)] = [
    ("", 0), ("  ", 2), ("{", 1), ("[1", 2), ("[1,]", 3), ("{\"a\":1,}", 7), ("{\"a\" 1}", 5), ("{a:1}", 1), ("01", 2), ("1.", 2), ("-", 1),
    ("1e", 2),
    (".5", 0), ("+1", 0), ("nul", 0), ("NaN", 0), ("Infinity", 0), ("1e999", 0), ("\"a", 2), ("\"\u{1}\"", 1), ("\"\\x\"", 2),
    ("\"\\u12\"", 3),
    ("\"\\ud83d\\u0041\"", 13), ("[1] 2", 4), ("{\"a\":1,\"a\":2}", 7), ("tru", 0), ("[1 2]", 3), ("\"a\\", 3),
  ]

  @Test(arguments: refused)
  func refuses(_ text: String, _ offset: Int) throws {
    let error = #expect(throws: ModelFileError.self) { try parse(text) }
    guard case .malformed(_, let byteOffset, _)? = error else {
      Issue.record("wrong error \(String(describing: error))")
      return
    }
    #expect(byteOffset == offset, "\(error?.description ?? "")")
  }

  @Test func invalidUTF8() {
    for bytes: [UInt8] in [[0x22, 0xFF, 0x22], [0x22, 0xC3, 0x22], [0x22, 0x5C, 0x6E, 0xED, 0xA0, 0x80, 0x22]] {
      #expect(throws: ModelFileError.self) { try JSONValue(parsing: bytes, path: "x") }
    }
  }

  @Test func depthIsLimited() throws {
    func nested(_ depth: Int) -> String { String(repeating: "[", count: depth) + String(repeating: "]", count: depth) }
    #expect(throws: Never.self) { try parse(nested(JSONReader.depthLimit)) }
    #expect(throws: ModelFileError.self) { try parse(nested(JSONReader.depthLimit + 1)) }
    #expect(throws: ModelFileError.self) { try parse(String(repeating: "[", count: 1_000_000)) }
    #expect(throws: ModelFileError.self) { try parse(String(repeating: "{\"a\":", count: 100_000)) }
  }

  @Test func skipping() throws {
    var reader = JSONReader(Array(#"[{"a": "x\"\\", "a": [1, {"b\"": null}], "c": {}}, true, -1.5e3] "#.utf8), path: "x")
    try reader.skip()
    try reader.finish()
    for text in [#"{"a"}"#, #"{"a": "x\"#, #"{"a": "x"#, #"{"a": 1,}"#, #"["x\""#, "{1: 2}", String(repeating: "[", count: 100_000)] {
      var reader = JSONReader(Array(text.utf8), path: "x")
      #expect(throws: ModelFileError.self) { try reader.skip() }
    }
  }

  /// Random changes to a valid text: either both this parser and Foundation's accept, or this one throws its own error.
  @Test func mutations() throws {
    let text = Array("{\"a\": [1, -2.5e3, true, null, \"x\\u00e9\\n\"], \"b\": {\"c\": \"\u{4e2d}\", \"d\": [[], {}]}}".utf8)
    let alphabet = Array("{}[]\",:\\0123456789eE+-.truefalsn \u{e9}".utf8) + [0, 0xFF, 0x80]
    var generator = SeededGenerator(state: 11)
    var acceptedCount = 0
    for _ in 0..<20_000 {
      var changed = text
      for _ in 0..<Int.random(in: 1...3, using: &generator) {
        let position = Int.random(in: 0..<changed.count, using: &generator)
        switch Int.random(in: 0..<3, using: &generator) {
        case 0: changed[position] = alphabet.randomElement(using: &generator) ?? 0
        case 1: changed.remove(at: position)
        default: changed.insert(alphabet.randomElement(using: &generator) ?? 0, at: position)
        }
      }
      if (try? JSONValue(parsing: changed, path: "x")) != nil {
        acceptedCount += 1
        #expect((try? JSONDecoder().decode(Accepted.self, from: Data(changed))) != nil, "\(String(decoding: changed, as: UTF8.self))")
      }
    }
    #expect(acceptedCount > 100)
  }

  /// Anything that is JSON.
  private struct Accepted: Decodable {
    init(from decoder: any Decoder) throws { _ = try? decoder.singleValueContainer() }
  }
}
