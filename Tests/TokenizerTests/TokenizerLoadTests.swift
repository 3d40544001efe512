// Files that contradict themselves, ask for what is not implemented, or mean harm: an error that says why, never a trap.

import Testing

@testable import Tokenizer

private let plain = tokenizerJSON(vocabulary: #""a":0,"b":1,"ab":2,"Ġ":3"#, merges: #""a b""#)

private func added(_ id: String, _ content: String, _ rest: String = "") -> String {
  #"{"id":\#(id),"content":"\#(content)","special":true,"normalized":false\#(rest)}"#
}

struct TokenizerLoadTests {
  @Test func plainFile() throws {
    let tokenizer = try Tokenizer(tokenizerJSON: plain)
    #expect(tokenizer.encode("abba ab") == [2, 1, 0, 3, 2])
    #expect(tokenizer.vocabularySize == 4)
    #expect(tokenizer.encode("") == [])
    #expect(tokenizer.encode("xyz") == [])  // no tokens for these bytes: dropped, as the reference does
  }

  @Test func vocabularyAfterMergesAndHoles() throws {
    let json =
      #"{"model":{"merges":[["a","b"]],"vocab":{"ab":7,"a":5,"b":2}},"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false}}"#
    let tokenizer = try Tokenizer(tokenizerJSON: Array(json.utf8))
    #expect(tokenizer.encode("abb") == [7, 2])
    #expect(tokenizer.vocabularySize == 8)
    #expect([0, 1, 2, 3, 5, 7, 8].map { tokenizer.isUsable($0) } == [false, false, true, false, true, true, false])
  }

  @Test(arguments: [
    (#""a":-1"#, ""), (#""a":4194304"#, ""), (#""a":99999999999999999999"#, ""), (#""a":1.5"#, ""), (#""a":"1""#, ""), (#""a":null"#, ""),
    (#""a":0,"a":1"#, ""), (#""a":0,"b":0"#, ""), (#""a":0"#, #""a b""#), (#""a":0,"b":1"#, #""a b""#), (#""a":0"#, #""aa""#),
    (#""a":0"#, #""a a a""#),
    (#""a":0,"aa":1"#, #"["a"]"#), (#""a":0,"aa":1"#, #"["a","a","a"]"#), (#""a":0,"aa":1"#, #"["a",1]"#), (#""a":0,"aa":1"#, "1"),
    (#""a":0,"aa":1"#, "null"),
  ])
  func contradictions(vocabulary: String, merges: String) {
    #expect(throws: TokenizerError.self) { try Tokenizer(tokenizerJSON: tokenizerJSON(vocabulary: vocabulary, merges: merges)) }
  }

  @Test(arguments: [
    added("-1", "x"), added("4194304", "x"), added("1e3", "x"), added("0", "x"), added("9", "a"), added("5", "x") + "," + added("6", "x"),
    added("5", "x") + "," + added("5", "y"), added("5", "x", #","lstrip":true"#), added("5", "x", #","rstrip":true"#),
    added("5", "x", #","single_word":true"#),
    #"{"content":"x"}"#, #"{"id":5}"#, "5", added("5", String(repeating: "x", count: 1025)),
  ])
  func badAddedTokens(added: String) {
    #expect(throws: TokenizerError.self) { try Tokenizer(tokenizerJSON: tokenizerJSON(vocabulary: #""a":0"#, merges: "", added: added)) }
  }

  @Test(arguments: [
    #""dropout":0.1,"#, #""ignore_merges":true,"#, #""continuing_subword_prefix":"x","#, #""end_of_word_suffix":"</w>","#,
    #""unk_token":"a","#, #""byte_fallback":true,"#,
    #""x":[[[,"#, #""dropout":null,"dropout":null,"#,
  ])
  func featuresThatAreNotThere(model: String) {
    #expect(throws: TokenizerError.self) { try Tokenizer(tokenizerJSON: tokenizerJSON(vocabulary: #""a":0"#, merges: "", model: model)) }
  }

  @Test(arguments: ["\"type\":\"BPE\"", "\"normalizer\":null", "\"decoder\":{\"type\":\"ByteLevel\"}"])
  func otherParts(part: String) {
    let other = ["\"type\":\"Unigram\"", "\"normalizer\":{\"type\":\"NFC\"}", "\"decoder\":{\"type\":\"Metaspace\"}"]
    let text = String(decoding: plain, as: UTF8.self)
    for replacement in other where replacement.prefix(6) == part.prefix(6) {
      #expect(throws: TokenizerError.self) { try Tokenizer(tokenizerJSON: Array(text.replacing(part, with: replacement).utf8)) }
    }
  }

  @Test func addedTokensOfTheVocabularyAndTwice() throws {
    let tokens = [added("0", "a"), added("9", "zz"), added("9", "zz"), added("3", "")].joined(separator: ",")
    let tokenizer = try Tokenizer(tokenizerJSON: tokenizerJSON(vocabulary: #""a":0,"b":1,"ab":2"#, merges: #""a b""#, added: tokens))
    #expect(tokenizer.encode("abzz") == [0, 1, 9])
    #expect(tokenizer.vocabularySize == 10)
  }

  /// An empty token and merges with it: nothing starts from it, so encoding ends.
  @Test func emptyTokens() throws {
    let json = tokenizerJSON(vocabulary: #""":0,"a":1,"aa":2"#, merges: #"["","a"],["a",""],["",""],["a","a"]"#)
    let tokenizer = try Tokenizer(tokenizerJSON: json)
    #expect(tokenizer.encode("aaa") == [2, 1])
    #expect(tokenizer.decode([0, 1, 0]) == "a")
  }

  /// "é" in two spellings is equal as a String and two tokens as bytes.
  @Test func canonicallyEqualTokensStayApart() throws {
    let tokens = added("1", "\u{e9}") + "," + added("2", "e\u{301}")
    let tokenizer = try Tokenizer(tokenizerJSON: tokenizerJSON(vocabulary: #""a":0"#, merges: "", added: tokens))
    #expect(tokenizer.encode("\u{e9}e\u{301}") == [1, 2])
    #expect(tokenizer.id(ofAddedToken: "e\u{301}") == 2)
    #expect(tokenizer.bytes(of: 1) == [0xC3, 0xA9])
  }

  @Test func longestAddedTokenAndThenTheLeftmost() throws {
    let tokens = [added("1", "<x>"), added("2", "<x>y"), added("3", "x>yz"), added("4", "<")].joined(separator: ",")
    let tokenizer = try Tokenizer(tokenizerJSON: tokenizerJSON(vocabulary: #""a":0"#, merges: "", added: tokens))
    #expect(tokenizer.encode("<x>yz<x><<xa") == [2, 1, 4, 4, 0])
    #expect(tokenizer.encode("ax>yza") == [0, 3, 0])
  }

  @Test func gguf() throws {
    func load(_ tokens: [String], _ types: [Int32], _ merges: [String] = [], model: String = "gpt2", pre: String? = "gpt-2") throws
      -> Tokenizer
    {
      try Tokenizer(ggufModel: model, pre: pre, tokens: tokens.map { Array($0.utf8) }, types: types, merges: merges.map { Array($0.utf8) })
    }
    let tokens = ["a", "Ġ", "<e>", "[PAD3]", "<u>", "[PAD9]", "<unk>", "Ġa", "ø"]
    let tokenizer = try load(tokens, [1, 1, 3, 4, 4, 5, 2, 1, 4], ["Ġ a"])
    #expect(tokenizer.encode(" a<e><u>[PAD3]aø") == [7, 2, 4, 0, 8])  // bytes without tokens are dropped
    #expect((0..<9).map { tokenizer.isUsable($0) } == [true, true, true, false, true, false, false, true, true])
    #expect((0..<9).map { tokenizer.isSpecial($0) } == [false, false, true, false, false, false, false, false, false])
    #expect(tokenizer.decode([7, 2, 4, 8]) == " a<u>ø")
    #expect(throws: TokenizerError.self) { try load(["a"], [1], model: "llama") }
    #expect(throws: TokenizerError.self) { try load(["a"], [1], pre: nil) }
    #expect(throws: TokenizerError.self) { try load(["a", "b"], [1]) }
    #expect(throws: TokenizerError.self) { try load(["a", "a"], [1, 1]) }
    #expect(throws: TokenizerError.self) { try load(["a"], [9]) }
    #expect(throws: TokenizerError.self) { try load(["a"], [1], ["a a"]) }
    #expect(throws: TokenizerError.self) { try Tokenizer(ggufModel: "gpt2", pre: "gpt-2", tokens: [[0xFF]], types: [], merges: []) }
    #expect(try load([], []).encode("abc") == [])
  }
}
