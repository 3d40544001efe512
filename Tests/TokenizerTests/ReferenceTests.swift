// Ids on a few thousand short texts, under each pre-tokenizer, against those of the Python package `tokenizers`
// (Tests/Fixtures/tokenizer/make_fixture.py). The large corpus is in CorpusTests.

import Testing

@testable import Tokenizer

private let schemes = ["deepseek-llm", "deepseek-coder", "deepseek-v3", "gpt-2"]

private struct Case {
  let text: [UInt8]
  /// FNV-1a of the ids, one for each of `schemes`.
  let hashes: [UInt32]
}

private func cases() throws -> [Case] {
  var file = LittleEndianBytes(try fixture("cases.bin"))
  return (0..<Int(file.next())).map { _ in
    let text = file.take(Int(file.next()))
    return Case(text: text, hashes: schemes.map { _ in file.next() })
  }
}

private func hash(_ ids: [Int32]) -> UInt32 { ids.reduce(2_166_136_261) { ($0 ^ UInt32(bitPattern: $1)) &* 16_777_619 } }

/// What a GGUF file written from that tokenizer.json holds.
private func ggufTokenizer(scheme: String, json: [UInt8]) throws -> Tokenizer {
  var reader = try JSONReader(json)
  let file = try reader.value()
  guard case .object(let members) = try #require(file["model"]?["vocab"]) else { fatalError("no vocabulary") }
  let added = try #require(file["added_tokens"]?.elements)
  var tokens = [[UInt8]](repeating: [], count: members.count + added.count)
  var types = [Int32](repeating: 1, count: tokens.count)
  for member in members { tokens[try #require(member.value.integer)] = member.key }
  for token in added {
    let id = try #require(token["id"]?.integer)
    tokens[id] = try #require(token["content"]?.text)
    types[id] = token["special"]?.flag == true ? 3 : 4
  }
  let merges = try #require(file["model"]?["merges"]?.elements).map { merge in
    merge.text ?? Array((merge.elements ?? []).compactMap(\.text).joined(separator: [0x20]))
  }
  tokens.append(Array("[PAD\(tokens.count)]".utf8))
  return try Tokenizer(ggufModel: "gpt2", pre: scheme, tokens: tokens, types: types + [4], merges: merges)
}

struct ReferenceTests {
  @Test(arguments: schemes.indices)
  func idsEqualThoseOfTheReference(scheme: Int) throws {
    let tokenizer = try Tokenizer(tokenizerJSON: try fixture("\(schemes[scheme]).json"))
    #expect(tokenizer.preTokenizerName == schemes[scheme])
    let cases = try cases()
    #expect(cases.count > 2000)
    for item in cases {
      let ids = tokenizer.encode(item.text)
      #expect(hash(ids) == item.hashes[scheme], "\(String(decoding: item.text, as: UTF8.self).debugDescription) gave \(ids)")
      #expect(Array(tokenizer.decode(ids, skipSpecial: false).utf8) == item.text)
    }
  }

  /// GGUF keeps no `normalized` flag, so texts where added tokens overlap may differ, and do in no other case.
  @Test(arguments: schemes.indices)
  func ggufGivesTheSameIds(scheme: Int) throws {
    let tokenizer = try ggufTokenizer(scheme: schemes[scheme], json: try fixture("\(schemes[scheme]).json"))
    for item in try cases() where !String(decoding: item.text, as: UTF8.self).contains("@@#") {
      let ids = tokenizer.encode(item.text)
      #expect(hash(ids) == item.hashes[scheme], "\(String(decoding: item.text, as: UTF8.self).debugDescription) gave \(ids)")
    }
  }

  @Test func withoutAddedTokensTheirTextIsPlainText() throws {
    let tokenizer = try Tokenizer(tokenizerJSON: try fixture("deepseek-v3.json"))
    for item in try cases() {
      let ids = tokenizer.encode(item.text, matchAddedTokens: false)
      #expect(ids.allSatisfy { $0 < 700 })
      #expect(Array(tokenizer.decode(ids, skipSpecial: false).utf8) == item.text)
    }
    let user = try #require(tokenizer.id(ofAddedToken: "<｜User｜>"))
    #expect(tokenizer.encode("<｜User｜>") == [user])
    #expect(tokenizer.encode("<｜User｜>", matchAddedTokens: false).count > 3)
  }

  @Test func flagsOfTokens() throws {
    let tokenizer = try Tokenizer(tokenizerJSON: try fixture("deepseek-v3.json"))
    let end = try #require(tokenizer.id(ofAddedToken: "<｜end▁of▁sentence｜>"))
    let think = try #require(tokenizer.id(ofAddedToken: "<think>"))
    let holder = try #require(tokenizer.id(ofAddedToken: "<｜place▁holder▁no▁7｜>"))
    #expect(tokenizer.vocabularySize == 713)
    #expect(tokenizer.isSpecial(end) && tokenizer.isUsable(end))
    #expect(!tokenizer.isSpecial(think) && tokenizer.isUsable(think))
    #expect(!tokenizer.isUsable(holder))
    #expect(tokenizer.decode([end, think, holder]) == "<think>")
    #expect(tokenizer.decode([end, think], skipSpecial: false) == "<｜end▁of▁sentence｜><think>")
    for id in [-1, Int32.min, Int32.max, 713] {
      #expect(!tokenizer.isUsable(id) && !tokenizer.isSpecial(id) && tokenizer.bytes(of: id).isEmpty)
    }
    #expect(tokenizer.id(ofAddedToken: "<think") == nil && tokenizer.id(ofAddedToken: "") == nil)
  }
}
