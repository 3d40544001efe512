// Which pre-tokenizers are recognised and which refused. What they split is in ReferenceTests.

import Testing

@testable import Tokenizer

private func preTokenizer(_ json: String) throws -> PreTokenizer {
  var reader = try JSONReader(Array(json.utf8))
  return try PreTokenizer(json: try reader.value())
}

private func sequence(_ steps: [String]) -> String {
  let byteLevel = #"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}"#
  return #"{"type":"Sequence","pretokenizers":[\#((steps + [byteLevel]).joined(separator: ","))]}"#
}

private func split(_ pattern: String, _ rest: String = #""behavior":"Isolated","invert":false"#) -> String {
  #"{"type":"Split","pattern":{"Regex":"\#(pattern)"},\#(rest)}"#
}

private let digits = #"{"type":"Digits","individual_digits":true}"#
private let coder = [#"[\r\n]"#, #"\\s?\\p{L}+"#, #"\\s?\\p{P}+"#, "[一-龥\u{800}-一가-\u{d7ff}]+"].map { split($0) } + [digits]

struct PreTokenizerTests {
  @Test func patternsAreRecognisedHoweverTheyAreWritten() throws {
    #expect(try preTokenizer(sequence(coder)).scheme == .deepseekCoder)
    // The same as escapes of JSON, and of the regular expression.
    for pattern in [#"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"#, #"[\\u4E00-\\u9fa5\\u0800-\\x{4e00}\\x{AC00}-\\ud7ff]+"#] {
      var steps = coder
      steps[3] = split(pattern)
      steps[0] = split(#"[\\r\\n]"#)
      #expect(try preTokenizer(sequence(steps)).scheme == .deepseekCoder)
    }
    #expect(try preTokenizer(#"{"type":"ByteLevel","add_prefix_space":false}"#).scheme == .gpt2)
    #expect(try preTokenizer(sequence([]).replacing("\"use_regex\":false", with: "\"use_regex\":true")).scheme == .gpt2)
  }

  @Test(arguments: [
    sequence([]),  // no split at all
    sequence(coder.dropLast()), sequence(coder.reversed()), sequence(coder + coder),
    sequence([split("\\\\p{N}{1,3}")] + coder), sequence([split("\\\\w+")]), sequence([split("")]), sequence([split("\\\\")]),
    sequence(coder.map { $0.replacing("Isolated", with: "Removed") }), sequence(coder.map { $0.replacing("false", with: "true") }),
    sequence(coder.dropLast() + [digits.replacing("true", with: "false")]),
    sequence(coder).replacing("\"add_prefix_space\":false", with: "\"add_prefix_space\":true"),
    sequence(coder).replacing("\"use_regex\":false", with: "\"use_regex\":true"),
    #"{"type":"Sequence","pretokenizers":[\#(coder.joined(separator: ","))]}"#, #"{"type":"Sequence"}"#, #"{"type":"Whitespace"}"#, "null",
    "[]", "1",
    #"{"type":"Metaspace","replacement":"▁"}"#, #"{"type":"ByteLevel"}"#, #"{"type":"Split","pattern":{"String":" "}}"#,
  ])
  func othersAreRefused(json: String) {
    #expect(throws: TokenizerError.self) { try preTokenizer(json) }
  }

  /// U+2126 OHM SIGN and U+03A9 are equal as Swift strings; as patterns they are not.
  @Test func patternsAreComparedByBytes() throws {
    let json = String(decoding: try fixture("deepseek-llm.json"), as: UTF8.self)
    #expect(throws: Never.self) { try Tokenizer(tokenizerJSON: Array(json.utf8)) }
    let changed = json.unicodeScalars.map { $0.value == 0x2126 ? "\u{3A9}" : String($0) }.joined()
    #expect(changed == json && Array(changed.utf8) != Array(json.utf8))
    #expect(throws: TokenizerError.self) { try Tokenizer(tokenizerJSON: Array(changed.utf8)) }
  }

  @Test func namesOfGGUF() throws {
    #expect(try PreTokenizer(ggufName: "deepseek-llm").scheme == .deepseekLLM)
    #expect(try PreTokenizer(ggufName: "deepseek-coder").scheme == .deepseekCoder)
    #expect(try PreTokenizer(ggufName: "deepseek-v3").scheme == .deepseekV3)
    #expect(try PreTokenizer(ggufName: "gpt-2").scheme == .gpt2)
    for name in ["deepseek-r1-qwen", "default", "kimi-k2", "glm4", "llama-bpe", "", "deepseek-v3 ", "DEEPSEEK-V3"] {
      #expect(throws: TokenizerError.self) { try PreTokenizer(ggufName: name) }
    }
    #expect(throws: TokenizerError.self) { try PreTokenizer(ggufName: nil) }
  }

  @Test func escapesThatAreNoneOfOurs() {
    func resolved(_ text: String) -> String { String(decoding: PreTokenizer.resolvingEscapes(in: Array(text.utf8)), as: UTF8.self) }
    #expect(resolved(#"\\r\n\s\p{L}\u0041\x{42}\x41"#) == "\\\\r\n\\s\\p{L}AB\\x41")
    #expect(resolved(#"\"#) == #"\"#)
    #expect(resolved(#"\u12"#) == #"\u12"#)
    #expect(resolved(#"\ud800 \x{} \x{zz} \x{110000}"#) == #"\ud800 \x{} \x{zz} \x{110000}"#)
  }

  /// Classes the Unicode versions disagree on: the answer is the reference's, not that of the Swift in use.
  @Test func classesOfScalars() {
    let classes = ScalarClasses.shared
    #expect(classes[0x41] == ScalarClasses.letter | ScalarClasses.cased)
    #expect(classes[0x3000] == ScalarClasses.space)
    #expect(classes[0x11DE0] == ScalarClasses.digit)  // assigned in Unicode 17: a number to `Digits`, unassigned to \p{N}
    #expect(classes[0x88F] == 0)  // a letter of Unicode 17
    #expect(classes[0x10FFFF] == 0 && classes[0x110000] == 0 && classes[UInt32.max] == 0)
  }
}
