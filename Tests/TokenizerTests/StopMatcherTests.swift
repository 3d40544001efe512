// Stop strings across portions of any size, against a search that looks at all of the text at every byte.

import Testing

@testable import Tokenizer

/// The text before the stop that is complete first (the longest of those), and its index.
private func search(_ text: [UInt8], _ stops: [[UInt8]]) -> (text: [UInt8], stop: Int?) {
  for end in text.indices {
    let ending = stops.indices.filter { !stops[$0].isEmpty && text[...end].suffix(stops[$0].count).elementsEqual(stops[$0]) }
    guard let longest = ending.map({ stops[$0].count }).max(), let stop = ending.first(where: { stops[$0].count == longest }) else {
      continue
    }
    return (Array(text[...end].dropLast(longest)), stop)
  }
  return (text, nil)
}

private func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

struct StopMatcherTests {
  @Test func findsWhatASearchOfTheWholeTextFinds() {
    var generator = SeededGenerator(seed: 5)
    for _ in 0..<4000 * soakFactor {
      let letters = UInt8.random(in: 1...3, using: &generator)
      func word(_ most: Int) -> [UInt8] {
        (0..<Int.random(in: 0...most, using: &generator)).map { _ in .random(in: 0..<letters, using: &generator) }
      }
      let stops = (0..<Int.random(in: 0...5, using: &generator)).map { _ in word(6) }
      let text = word(40)
      let expected = search(text, stops)
      var matcher = StopMatcher(stops: stops)
      var out: [UInt8] = []
      var stop: Int?
      var rest = text[...]
      while !rest.isEmpty {
        let portion = rest.prefix(Int.random(in: 1...7, using: &generator))
        rest = rest.dropFirst(portion.count)
        let result = matcher.append(Array(portion))
        out += result.bytes
        if stop != nil { #expect(result.bytes.isEmpty && result.stop == stop) }
        stop = result.stop
        // Held back is only what a stop could still begin with.
        if stop == nil {
          let held = Array(text[..<rest.startIndex].dropFirst(out.count))
          #expect(held.isEmpty || stops.contains { $0.count > held.count && $0.starts(with: held) })
        }
      }
      out += matcher.finish()
      #expect(out == expected.text && stop == expected.stop)
    }
  }

  @Test func acrossManyTokens() {
    var matcher = StopMatcher(stops: [bytes("\n\nUser:"), bytes("</answer>")])
    var out: [UInt8] = []
    for byte in bytes("Yes.\n\nUse it.\n\nUser") { out += matcher.append([byte]).bytes }
    #expect(out == bytes("Yes.\n\nUse it."))
    #expect(matcher.append(bytes(": more")) == .init(bytes: [], stop: 0))
    #expect(matcher.append(bytes("x")) == .init(bytes: [], stop: 0))
    #expect(matcher.finish().isEmpty)
  }

  @Test func partsOfAStopAreGivenOutWhenItDoesNotCome() {
    var matcher = StopMatcher(stops: [bytes("abcab!")])
    #expect(matcher.append(bytes("xabcab")) == .init(bytes: bytes("x"), stop: nil))
    #expect(matcher.append(bytes("cab")) == .init(bytes: bytes("abc"), stop: nil))
    #expect(matcher.finish() == bytes("abcab"))
  }

  @Test func resultIsWholeCharacters() {
    var matcher = StopMatcher(stops: [bytes("é!"), bytes("界")])
    #expect(matcher.append(bytes("é")) == .init(bytes: [], stop: nil))
    #expect(matcher.append(bytes("è世")) == .init(bytes: bytes("éè世"), stop: nil))
    #expect(matcher.append(bytes("世界x")) == .init(bytes: bytes("世"), stop: 1))
  }

  @Test func noStops() {
    for stops: [[UInt8]] in [[], [[]], [[], []]] {
      var matcher = StopMatcher(stops: stops)
      #expect(matcher.append(bytes("abc")) == .init(bytes: bytes("abc"), stop: nil))
      #expect(matcher.finish().isEmpty)
    }
  }

  /// A stop like "aaa...b" in a text of a's: the worst case of a plain search. It would take 10^10 steps here.
  @Test func longStopInALongRun() {
    let stop = [UInt8](repeating: 97, count: 100_000) + [98]
    var matcher = StopMatcher(stops: [stop, stop, stop, stop])
    var count = 0
    for _ in 0..<50 { count += matcher.append([UInt8](repeating: 97, count: 10_000)).bytes.count }
    #expect(count == 400_000)
    #expect(matcher.append([98]) == .init(bytes: [], stop: 0))
  }
}
