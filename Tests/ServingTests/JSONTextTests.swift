// The JSON writer against JSONDecoder: whatever goes in comes out again.

import FoundationEssentials
import Testing

@testable import Serving

@Suite("JSON text")
struct JSONTextTests {
  private func decoded(_ text: JSONText) throws -> [String] {
    var array = JSONText()
    array.raw("[")
    array.raw(text.bytes)
    array.raw("]")
    return try JSONDecoder().decode([String].self, from: Data(array.bytes))
  }

  @Test("every ASCII character and a scalar of each UTF-8 length survives")
  func eachCharacter() throws {
    let scalars =
      (0..<0x80).compactMap { Unicode.Scalar($0 as UInt32) } + ["\u{80}", "\u{7FF}", "\u{800}", "\u{2028}", "\u{FFFF}", "\u{10FFFF}"]
    for scalar in scalars {
      let string = String(Character(scalar))
      var text = JSONText()
      text.string(string)
      #expect(try decoded(text).first?.utf8.elementsEqual(string.utf8) == true, "U+\(String(scalar.value, radix: 16))")
      #expect(!text.bytes.contains { $0 < 0x20 }, "a raw control character would break the framing of a stream")
    }
  }

  @Test("random strings survive, as text and as bytes")
  func fuzz() throws {
    var random = SeededRandom(7)
    for _ in 0..<3000 {
      let string = random.text(upTo: 40)
      var text = JSONText()
      text.string(string)
      text.raw(",")
      text.string(utf8: Array(string.utf8))
      let result = try decoded(text)
      #expect(result.count == 2 && result.allSatisfy { $0.utf8.elementsEqual(string.utf8) })
    }
  }

  @Test("numbers survive; JSON has no infinities")
  func numbers() throws {
    var random = SeededRandom(8)
    for _ in 0..<3000 {
      let value = Float(bitPattern: UInt32(truncatingIfNeeded: random.next()))
      var text = JSONText()
      text.raw("[")
      text.number(value)
      text.raw("]")
      let result = try JSONDecoder().decode([Float?].self, from: Data(text.bytes))
      #expect(value.isFinite ? result == [value] : result == [nil])
    }
  }
}

/// A small deterministic generator, so that a failing case can be repeated (SplitMix64).
struct SeededRandom: RandomNumberGenerator {
  private var state: UInt64
  init(_ seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// Mixes ASCII, controls, and scalars of every UTF-8 length.
  mutating func text(upTo count: Int) -> String {
    var text = ""
    for _ in 0..<Int.random(in: 0...count, using: &self) {
      let ranges: [ClosedRange<UInt32>] = [
        0...0x1F, 0x20...0x7F, 0x22...0x22, 0x5C...0x5C, 0x80...0x7FF, 0x800...0xD7FF, 0xE000...0xFFFF, 0x10000...0x10FFFF,
      ]
      let range = ranges[Int.random(in: 0..<ranges.count, using: &self)]
      if let scalar = Unicode.Scalar(UInt32.random(in: range, using: &self)) { text.unicodeScalars.append(scalar) }
    }
    return text
  }
}
