// Text that comes out of a stream of tokens: whole characters only, nothing lost, U+FFFD as Python's errors="replace" puts it.

import Testing

@testable import Tokenizer

private struct UTF8Case {
  let input: [UInt8]
  let replaced: [UInt8]
}

private func utf8Cases() throws -> [UTF8Case] {
  var file = LittleEndianBytes(try fixture("utf8.bin"))
  return (0..<Int(file.next())).map { _ in
    let input = file.take(Int(file.next()))
    return UTF8Case(input: input, replaced: file.take(Int(file.next())))
  }
}

/// Tokens 0 ..< 256 are the single bytes.
private func byteTokenizer() throws -> Tokenizer {
  let tokens = (UInt8.min...UInt8.max).map { ByteAlphabet.entry(of: $0) }
  return try Tokenizer(ggufModel: "gpt2", pre: "gpt-2", tokens: tokens, types: [], merges: [])
}

struct StreamDecoderTests {
  @Test func brokenSequencesAreReplacedAsPythonDoes() throws {
    let cases = try utf8Cases()
    #expect(cases.count == 1500)
    for item in cases {
      #expect(UTF8Repair.repaired(item.input) == item.replaced)
      #expect((UTF8Repair.firstInvalidOffset(in: item.input) == nil) == (item.input == item.replaced))
      if let offset = UTF8Repair.firstInvalidOffset(in: item.input) { #expect(isUTF8(Array(item.input[..<offset]))) }
    }
  }

  @Test func everyPortionIsWholeCharacters() throws {
    let tokenizer = try byteTokenizer()
    for item in try utf8Cases() {
      var decoder = StreamDecoder(tokenizer)
      var out: [UInt8] = []
      for byte in item.input {
        let portion = decoder.append(Int32(byte))
        #expect(isUTF8(portion))
        out += portion
      }
      let rest = decoder.finish()
      #expect(isUTF8(rest))
      #expect(out + rest == item.replaced)
      #expect(decoder.finish().isEmpty)
      // At most the three bytes of an unfinished character are held back.
      #expect(String(decoding: out + rest, as: UTF8.self) == tokenizer.decode(item.input.map(Int32.init)))
    }
  }

  @Test func charactersComeOutWithTheirLastByte() throws {
    var decoder = StreamDecoder(try byteTokenizer())
    for scalar in ["é", "你", "🚀", "\u{10FFFF}", "\u{D7FF}", "\u{FFFD}"] {
      let bytes = Array(scalar.utf8)
      for byte in bytes.dropLast() { #expect(decoder.append(Int32(byte)).isEmpty) }
      #expect(decoder.append(Int32(bytes[bytes.count - 1])) == bytes)
    }
  }

  @Test func encodingReplacesBrokenBytes() throws {
    let tokenizer = try byteTokenizer()
    for item in try utf8Cases() { #expect(tokenizer.encode(item.input).map { UInt8($0) } == item.replaced) }
  }
}
