// Mutated tokenizer files: each either loads, and then encodes and decodes without a trap, or is refused. Run it under
// `swift test --sanitize=address` too; QUIRE_SOAK=1 for more rounds.

import Testing

@testable import Tokenizer

/// A small file of every feature, so that mutations hit structure and not only vocabulary.
private func seedFile(_ name: String) throws -> [UInt8] {
  var reader = try JSONReader(try fixture(name))
  let file = try reader.value()
  let names = ["pre_tokenizer", "decoder", "normalizer"]
  let kept = names.map { "\"\($0)\":\(text(file[$0] ?? .null))" }.joined(separator: ",")
  let alphabet = (UInt8.min...UInt8.max).map { "\(text(.string(ByteAlphabet.entry(of: $0)))):\($0)" }.joined(separator: ",")
  let merges = #""t h","th e",["Ġ","the"],"i n","a n"],"#
  let added = (file["added_tokens"]?.elements ?? []).prefix(6).map(text).joined(separator: ",")
  return Array(
    #"{"added_tokens":[\#(added)],\#(kept),"model":{"type":"BPE","merges":[\#(merges)"vocab":{"th":256,"the":257,"Ġthe":258,"in":259,"an":260,\#(alphabet)}}}"#
      .utf8)
}

private func text(_ value: JSONValue) -> String {
  switch value {
  case .null: "null"
  case .bool(let flag): "\(flag)"
  case .number(let number): "\(number ?? 0)"
  case .string(let bytes): "\"" + String(decoding: bytes, as: UTF8.self).unicodeScalars.map(escaped).joined() + "\""
  case .array(let elements): "[" + elements.map(text).joined(separator: ",") + "]"
  case .object(let members): "{" + members.map { "\(text(.string($0.key))):\(text($0.value))" }.joined(separator: ",") + "}"
  }
}

private func escaped(_ scalar: Unicode.Scalar) -> String {
  let hex = String(scalar.value, radix: 16)
  guard scalar.value < 0x20 || scalar == "\"" || scalar == "\\" else { return String(scalar) }
  return "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
}

private func mutate(_ bytes: [UInt8], using generator: inout SeededGenerator) -> [UInt8] {
  var bytes = bytes
  let pieces = [
    "\"", "\\", "{", "}", "[", "]", ",", ":", "null", "true", "-1", "4194303", "4194304", "1e9", "\\ud800", "\\u0000",
    "99999999999999999999", "\u{e9}", " ", "0",
  ]
  for _ in 0..<Int.random(in: 1...4, using: &generator) {
    let at = Int.random(in: 0..<max(1, bytes.count), using: &generator)
    switch Int.random(in: 0..<6, using: &generator) {
    case 0: bytes[at] = .random(in: 0...255, using: &generator)
    case 1: bytes.removeSubrange(at..<min(bytes.count, at + Int.random(in: 1...30, using: &generator)))
    case 2: bytes.insert(contentsOf: (pieces.randomElement(using: &generator) ?? "").utf8, at: at)
    case 3: bytes.insert(contentsOf: bytes[at..<min(bytes.count, at + Int.random(in: 1...40, using: &generator))], at: at)
    case 4: bytes[at] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
    default: bytes.removeSubrange(at...)
    }
    if bytes.isEmpty { return bytes }
  }
  return bytes
}

struct FuzzTests {
  @Test(arguments: ["deepseek-llm.json", "deepseek-coder.json", "deepseek-v3.json", "gpt-2.json"])
  func mutatedFiles(name: String) throws {
    let seed = try seedFile(name)
    #expect(try Tokenizer(tokenizerJSON: seed).vocabularySize > 260)
    let text = Array("<think>in the <|EOT|> 1234 你好 and\r\n  ø\u{301}@@@#<｜User｜>\u{0}".utf8) + [0xFF, 0xE2, 0x82]
    var generator = SeededGenerator(seed: UInt64(name.utf8.count))
    var loaded = 0
    for _ in 0..<400 * soakFactor {
      guard let tokenizer = try? Tokenizer(tokenizerJSON: mutate(seed, using: &generator)) else { continue }
      loaded += 1
      let ids = tokenizer.encode(text)
      #expect(ids.allSatisfy { $0 >= 0 && $0 < tokenizer.vocabularySize })
      #expect(isUTF8(Array(tokenizer.decode(ids).utf8)))
      for id in [0, 1, 255, Int32(truncatingIfNeeded: tokenizer.vocabularySize) - 1] { _ = tokenizer.decode([id, id], skipSpecial: false) }
    }
    #expect(loaded > 0)
  }

  @Test func randomGGUF() {
    var generator = SeededGenerator(seed: 77)
    for _ in 0..<2000 * soakFactor {
      func bytes(_ most: Int) -> [UInt8] {
        (0..<Int.random(in: 0...most, using: &generator)).map { _ in [97, 98, 0xC4, 0xA0, 0x20, 0xC3].randomElement(using: &generator) ?? 0
        }
      }
      let tokens = (0..<Int.random(in: 0...8, using: &generator)).map { _ in bytes(3) }
      let types = tokens.map { _ in Int32.random(in: 1...(Bool.random(using: &generator) ? 6 : 7), using: &generator) }
      let merges = (0..<Int.random(in: 0...2, using: &generator)).map { _ in bytes(2) + [0x20] + bytes(2) }
      guard let tokenizer = try? Tokenizer(ggufModel: "gpt2", pre: "deepseek-v3", tokens: tokens, types: types, merges: merges) else {
        continue
      }
      let ids = tokenizer.encode("ab ba  aab é b")
      #expect(ids.allSatisfy { $0 >= 0 && $0 < tokenizer.vocabularySize })
    }
  }

  @Test func arbitraryBytesSurviveEncodingAndDecoding() throws {
    let tokenizer = try Tokenizer(tokenizerJSON: try fixture("deepseek-llm.json"))
    var generator = SeededGenerator(seed: 4)
    for _ in 0..<1000 * soakFactor {
      let bytes: [UInt8] = (0..<Int.random(in: 0...60, using: &generator)).map { _ in .random(in: 0...255, using: &generator) }
      let ids = tokenizer.encode(bytes)
      #expect(Array(tokenizer.decode(ids, skipSpecial: false).utf8) == UTF8Repair.repaired(bytes))
    }
  }
}
