// The text of a choice against an oracle that sees all of it at once: random tokens (in the middle of characters too), random stop
// strings, and the JSON of the chunks decoded by JSONDecoder.

@testable import Engine
import FoundationEssentials
import HTTP
import Testing

@testable import Serving

@Suite("Text of a choice")
struct ChoiceTextTests {
  private let model: ServedModel

  init() throws { model = try TinyModel.served() }

  private func sampling(stops: [[UInt8]] = [], minTokens: Int = 0) -> SamplingFields {
    var fields = SamplingFields()
    fields.stops = stops
    fields.minTokens = minTokens
    return fields
  }

  /// Where the text ends: before the stop that is complete first, the longest of those.
  private func oracle(_ text: [UInt8], _ stops: [[UInt8]]) -> (text: [UInt8], isStopped: Bool) {
    for end in 0...text.count {
      let found = stops.filter { text[..<end].suffix($0.count).elementsEqual($0) && $0.count <= end }
      if let longest = found.map(\.count).max() { return (Array(text[..<(end - longest)]), true) }
    }
    return (text, false)
  }

  private struct Chunk: Decodable {
    struct Choice: Decodable {
      let index: Int
      let text: String
      let finish_reason: String?
    }
    let id: String
    let object: String
    let choices: [Choice]
  }

  @Test("streams of random tokens: chunks together are the text up to the stop, each of them valid JSON and UTF-8")
  func randomStreams() throws {
    var random = SeededRandom(3)
    let answer = CompletionText(id: "cmpl-\"x", model: "m\\n", createdUnixSeconds: 5, includesUsage: false, wantsLogProbabilities: false)
    var stopped = 0
    for _ in 0..<1500 {
      // Tokens of real text and of nothing at all: bytes in any order make broken characters, which become U+FFFD.
      var tokens: [Int32] = model.tokenizer.encode(random.text(upTo: 12))
      for _ in 0..<Int.random(in: 0...6, using: &random) {
        tokens.insert(Int32.random(in: 0..<312, using: &random), at: Int.random(in: 0...tokens.count, using: &random))
      }
      guard !tokens.isEmpty else { continue }
      let full = Array(model.tokenizer.decode(tokens).utf8)
      var stops: [[UInt8]] = []
      for _ in 0..<Int.random(in: 0...3, using: &random) {
        let scalars = Array(String(decoding: full, as: UTF8.self).unicodeScalars)
        let start = Int.random(in: 0...scalars.count, using: &random)
        var stop = String.UnicodeScalarView()
        stop.append(contentsOf: scalars[start...].prefix(Int.random(in: 1...3, using: &random)))
        if Bool.random(using: &random) { stop.append("q") }
        if !stop.isEmpty { stops.append(Array(String(stop).utf8)) }
      }
      let expected = oracle(full, stops)
      var choice = ChoiceText(model: model, sampling: sampling(stops: stops))
      var text: [UInt8] = []
      var finish: String?
      for (index, token) in tokens.enumerated() {
        let isLast = index == tokens.count - 1
        let delta = choice.append(.test(token, count: index + 1, finish: isLast ? .length : nil))
        let event = SSE.data(answer.chunk(choice: 2, text: delta.text, logProbabilities: [], finish: delta.finish))
        #expect(
          event.starts(with: Array("data: ".utf8)) && event.suffix(2).elementsEqual([10, 10]) && event.dropLast(2).allSatisfy { $0 >= 0x20 }
        )
        let chunk = try JSONDecoder().decode(Chunk.self, from: Data(event.dropFirst(6).dropLast(2)))
        #expect(chunk.choices.count == 1 && chunk.choices[0].index == 2 && chunk.id == "cmpl-\"x")
        text += Array(chunk.choices[0].text.utf8)
        if let reason = chunk.choices[0].finish_reason {
          #expect(finish == nil)
          finish = reason
        }
      }
      #expect(text == expected.text, "tokens \(tokens), stops \(stops)")
      #expect(finish == (expected.isStopped ? "stop" : "length"))
      stopped += expected.isStopped ? 1 : 0
    }
    #expect(stopped > 100)
  }

  @Test("a stop token gives no text, and what was held back comes out")
  func stopToken() {
    var choice = ChoiceText(model: model, sampling: sampling(stops: [Array("abc".utf8)]))
    let letters = model.tokenizer.encode("ab")
    var text: [UInt8] = []
    for (index, token) in letters.enumerated() { text += choice.append(.test(token, count: index + 1)).text }
    #expect(text.isEmpty, "ab may become abc")
    let last = choice.append(.test(311, count: letters.count + 1, finish: .stop, isStopToken: true))
    #expect(last.text == Array("ab".utf8) && last.finish == .stop && !last.isStopString)
    #expect(choice.append(.test(letters[0], count: 9)).text.isEmpty, "nothing comes after the end")
  }

  @Test("stop strings count only after min_tokens")
  func minTokens() {
    let tokens = model.tokenizer.encode("xyxy")
    var choice = ChoiceText(model: model, sampling: sampling(stops: [Array("x".utf8)], minTokens: tokens.count))
    var text: [UInt8] = []
    for (index, token) in tokens.enumerated() { text += choice.append(.test(token, count: index + 1)).text }
    #expect(text == Array("xyxy".utf8))
  }

  @Test("log-probabilities keep step with the text, and a stop string's never come out")
  func logProbabilities() {
    let tokens = model.tokenizer.encode("é one STOP two")
    let pieces = tokens.map { model.tokenizer.bytes(of: $0) }
    for stop in ["STOP", " two", "é", "zzz"] {
      var choice = ChoiceText(model: model, sampling: sampling(stops: [Array(stop.utf8)]), scalarOffset: 7)
      var text: [UInt8] = []
      var entries: [LogProbabilityEntry] = []
      for (index, token) in tokens.enumerated() {
        let values = TokenLogProbabilities(
          chosen: -1.5, top: [.init(token: 5, logProbability: -0.5), .init(token: token, logProbability: -1.5)])
        let delta = choice.append(
          .test(token, count: index + 1, finish: index == tokens.count - 1 ? .length : nil, logProbabilities: values))
        text += delta.text
        entries += delta.logProbabilities
      }
      // Tokens that begin inside the visible text, all of them and no others.
      var start = 0
      var expected = 0
      for piece in pieces where start < text.count || stop == "zzz" {
        expected += 1
        start += piece.count
      }
      #expect(entries.count == expected, "stop \(stop)")
      start = 0
      for (entry, piece) in zip(entries, pieces) {
        let scalars = pieces.joined().prefix(start).count { $0 & 0xC0 != 0x80 }
        let isWhole = String(validating: Array(pieces.joined().prefix(start)), as: UTF8.self) != nil
        if isWhole { #expect(entry.textOffset == 7 + scalars) }
        #expect(entry.top.count == 2)
        if String(validating: piece, as: UTF8.self) != nil {
          #expect(entry.token == piece)
        } else {
          #expect(entry.token.starts(with: Array("bytes:\\x".utf8)))
        }
        start += piece.count
      }
    }
  }

  @Test("tokens as ids, and the chosen token beside the top ones")
  func tokenIDs() {
    var choice = ChoiceText(model: model, sampling: sampling(), tokensAsIDs: true)
    let values = TokenLogProbabilities(chosen: -9, top: [.init(token: 5, logProbability: -0.5)])
    let entry = choice.append(.test(42, count: 1, logProbabilities: values)).logProbabilities.first
    #expect(entry?.token == Array("token_id:42".utf8))
    #expect(entry?.top.map(\.token) == [Array("token_id:5".utf8), Array("token_id:42".utf8)])
    #expect(entry?.top.map(\.logProbability) == [-0.5, -9])
  }
}
