// Where the fixtures of these tests are, how their binary files are read, and a small random generator with a seed.

import FoundationEssentials

@testable import Tokenizer

func fileBytes(_ path: String) throws -> [UInt8] { [UInt8](try Data(contentsOf: URL(filePath: path))) }

/// A file of Tests/Fixtures/tokenizer.
func fixture(_ name: String, file: String = #filePath) throws -> [UInt8] {
  let tests = URL(filePath: file).deletingLastPathComponent().deletingLastPathComponent()
  return try fileBytes(tests.appending(path: "Fixtures/tokenizer/\(name)").path)
}

/// Reads u32 and byte strings from the front of a file that the fixture scripts wrote.
struct LittleEndianBytes {
  private let bytes: [UInt8]
  private var position = 0

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  mutating func next() -> UInt32 {
    defer { position += 4 }
    return bytes[position..<position + 4].reversed().reduce(0) { $0 << 8 | UInt32($1) }
  }

  mutating func take(_ count: Int) -> [UInt8] {
    defer { position += count }
    return Array(bytes[position..<position + count])
  }
}

/// splitmix64: the same numbers on every run.
struct SeededGenerator: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var value = state
    value = (value ^ (value >> 30)) &* 0xBF58_476D_1CE4_E5B9
    value = (value ^ (value >> 27)) &* 0x94D0_49BB_1331_11EB
    return value ^ (value >> 31)
  }
}

/// QUIRE_SOAK=1 makes the random tests run longer.
let soakFactor = ProcessInfo.processInfo.environment["QUIRE_SOAK"] == nil ? 1 : 50

/// A tokenizer.json with the given parts of its model, a pre-tokenizer that is known, and added tokens.
func tokenizerJSON(
  vocabulary: String, merges: String, added: String = "", model: String = "",
  preTokenizer: String = #"{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}"#
) -> [UInt8] {
  Array(
    #"{"added_tokens":[\#(added)],"normalizer":null,"pre_tokenizer":\#(preTokenizer),"decoder":{"type":"ByteLevel"},"#.utf8)
    + Array(#""model":{"type":"BPE",\#(model)"vocab":{\#(vocabulary)},"merges":[\#(merges)]}}"#.utf8)
}

func isUTF8(_ bytes: [UInt8]) -> Bool { Array(String(decoding: bytes, as: UTF8.self).utf8) == bytes }
