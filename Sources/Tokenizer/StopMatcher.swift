// Finds stop strings in streamed text, across the borders of tokens, and holds back what may still become one.
// It works on bytes (Knuth, Morris, Pratt 1977, one automaton for each stop): linear time whatever the text and the stops.
// It knows nothing of tokens.

package struct StopMatcher: Sendable {
  package struct Result: Equatable, Sendable {
    /// Text that can be given out now. When a stop matched: the text before it that was not given out yet.
    package var bytes: [UInt8]
    /// Index, in `stops`, of the one that matched. From then on nothing more comes out.
    package var stop: Int?
  }

  private struct Automaton: Sendable {
    let stop: [UInt8]
    /// Length of the longest proper prefix of stop[0 ... i] that is also its suffix. [stop.count]
    let borders: [Int]
    /// How many bytes of `stop` the text now ends with.
    var matched = 0

    init(_ stop: [UInt8]) {
      self.stop = stop
      var borders = [Int](repeating: 0, count: stop.count)
      var length = 0
      for index in stop.indices.dropFirst() {
        while length > 0, stop[index] != stop[length] { length = borders[length - 1] }
        if stop[index] == stop[length] { length += 1 }
        borders[index] = length
      }
      self.borders = borders
    }

    /// True when `stop` is complete.
    mutating func advance(_ byte: UInt8) -> Bool {
      while matched > 0, byte != stop[matched] { matched = borders[matched - 1] }
      if byte == stop[matched] { matched += 1 }
      return matched == stop.count
    }
  }

  private var automata: [Automaton]
  /// The index of each automaton's stop in what the caller gave.
  private let indices: [Int]
  /// The end of the text so far that may be the start of a stop.
  private var held: [UInt8] = []
  private var stopped: Int?

  /// - Parameter stops: any number; empty ones never match.
  package init(stops: [[UInt8]]) {
    indices = stops.indices.filter { !stops[$0].isEmpty }
    automata = stops.filter { !$0.isEmpty }.map(Automaton.init)
  }

  /// Takes the next bytes. The stop that is complete first wins, whatever the size of the portions; of several complete at the same
  /// byte the longest (it begins first), of equal ones the first given. When stops and text are UTF-8 in whole characters, so is the result.
  package mutating func append(_ bytes: [UInt8]) -> Result {
    guard stopped == nil else { return Result(bytes: [], stop: stopped) }
    guard !automata.isEmpty else { return Result(bytes: bytes, stop: nil) }
    for (offset, byte) in bytes.enumerated() {
      var winner: Int?
      for index in automata.indices where automata[index].advance(byte) {
        if let best = winner, automata[best].stop.count >= automata[index].stop.count { continue }
        winner = index
      }
      if let winner {
        held.append(contentsOf: bytes[...offset])
        held.removeLast(automata[winner].stop.count)
        stopped = indices[winner]
        defer { held = [] }
        return Result(bytes: held, stop: stopped)
      }
    }
    held.append(contentsOf: bytes)
    let keep = automata.map(\.matched).max() ?? 0
    let out = Array(held.dropLast(keep))
    held.removeFirst(held.count - keep)
    return Result(bytes: out, stop: nil)
  }

  /// The end of the text: what was held back was no stop after all.
  package mutating func finish() -> [UInt8] {
    defer { held = [] }
    return held
  }
}
