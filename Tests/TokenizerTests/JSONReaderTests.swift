// JSON as RFC 8259 has it and nothing else; no input makes the reader trap.

import Testing

@testable import Tokenizer

private func parse(_ text: String) throws -> JSONValue {
  var reader = try JSONReader(Array(text.utf8))
  let value = try reader.value()
  try reader.expectEnd()
  var skipping = try JSONReader(Array(text.utf8))
  try skipping.skipValue()
  try skipping.expectEnd()
  return value
}

struct JSONReaderTests {
  @Test func values() throws {
    #expect(try parse(" null ") == .null)
    #expect(try parse("\t[true,false]\r\n") == .array([.bool(true), .bool(false)]))
    #expect(try parse("[]") == .array([]))
    #expect(try parse("{ }") == .object([]))
    #expect(try parse("-0") == .number(0))
    #expect(try parse("9223372036854775807") == .number(Int.max))
    #expect(try parse("9223372036854775808") == .number(nil))
    #expect(try parse("[1.5,1e3,-1.5E-3,1E+2]") == .array([.number(nil), .number(nil), .number(nil), .number(nil)]))
    #expect(try parse(#""a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude80é""#) == .string(Array("a\"\\/\u{8}\u{c}\n\r\té🚀é".utf8)))
    let object = try parse(#"{"a":{"b":[1]},"":"x","n":null}"#)
    #expect(object["a"]?["b"]?.elements == [.number(1)])
    #expect(object[""]?.isText("x") == true && object["n"] == nil && object["c"] == nil && object["a"]?["b"]?["c"] == nil)
  }

  @Test(arguments: [
    "", " ", "nul", "nullx", "tru", "[", "[1", "[1,", "[1,]", "[,1]", "[1 2]", "]", "{", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\":1,}",
    "{a:1}", "{1:1}", "{\"a\" 1}", "01", "-", "+1", ".5", "1.", "1e",
    "1e+", "--1", "0x1", "NaN", "1 1", "\"", "\"\\", "\"\\x\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\u+123\"", "\"a\nb\"", "\"\u{0}\"",
    "\"\\ud800\"", "\"\\ud800x\"", "\"\\ud800\\n\"",
    "\"\\ud800\\u0041\"", "\"\\udc00\"", "'a'", "// c\n1", "\u{feff}1",
  ])
  func malformed(text: String) {
    #expect(throws: TokenizerError.self) { try parse(text) }
  }

  @Test func repeatedKeysAreRefused() {
    #expect(throws: TokenizerError.json(offset: 11, message: "repeated key 'a'")) {
      var reader = try JSONReader(Array(#"{"a":1,"a":2}"#.utf8))
      _ = try reader.value()
    }
    // Canonically equal, but different keys.
    #expect(throws: Never.self) {
      var reader = try JSONReader(Array("{\"\u{e9}\":1,\"e\u{301}\":2}".utf8))
      _ = try reader.value()
    }
  }

  @Test func depthIsLimited() throws {
    func nested(_ depth: Int) -> String { String(repeating: "[", count: depth) + String(repeating: "]", count: depth) }
    #expect(throws: Never.self) { try parse(nested(TokenizerLimits.jsonDepth)) }
    #expect(throws: TokenizerError.self) { try parse(nested(TokenizerLimits.jsonDepth + 1)) }
    #expect(throws: TokenizerError.self) { try parse(String(repeating: "[", count: 1_000_000)) }
    #expect(throws: TokenizerError.self) { try parse(String(repeating: "{\"a\":", count: 1_000_000)) }
    // Side by side is not deep.
    #expect(throws: Never.self) { try parse("[" + String(repeating: "[],{},", count: 1000) + "1]") }
  }

  @Test func onlyUTF8() {
    #expect(throws: TokenizerError.json(offset: 1, message: "not UTF-8")) { try JSONReader([0x22, 0xFF, 0x22]) }
    #expect(throws: TokenizerError.json(offset: 0, message: "not UTF-8")) { try JSONReader([0xE2, 0x82]) }
  }

  @Test func randomBytesNeverTrap() {
    var generator = SeededGenerator(seed: 1)
    let alphabet = Array("[]{}\",:\\u0123e+-.truefalsn \n\u{e9}d8".utf8)
    for _ in 0..<5000 * soakFactor {
      let bytes = (0..<Int.random(in: 0...24, using: &generator)).map { _ in alphabet.randomElement(using: &generator) ?? 0 }
      guard var reader = try? JSONReader(bytes), let value = try? reader.value() else { continue }
      #expect(reader.position <= bytes.count)
      var again = try? JSONReader(bytes)
      #expect((try? again?.value()) == value)
    }
  }
}
