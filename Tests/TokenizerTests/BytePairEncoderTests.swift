// Byte pair encoding against the definition written out plainly, and the amount of its work on very long pieces.

import Testing

@testable import Tokenizer

/// Merges over few letters, so that they nest and compete. Token 256 + k is what merge k makes.
private struct RandomMerges {
  var merges: [(left: Int32, right: Int32)] = []
  var table = MergeTable(minimumCapacity: 64)

  init(count: Int, using generator: inout SeededGenerator) {
    while merges.count < count {
      let known = [97, 98, 99] + (0..<merges.count).map { Int32(256 + $0) }
      guard let left = known.randomElement(using: &generator), let right = known.randomElement(using: &generator) else { return }
      guard !merges.contains(where: { $0 == (left, right) }) else { continue }
      table.insert(left: left, right: right, rank: UInt32(merges.count), merged: Int32(256 + merges.count))
      merges.append((left, right))
    }
  }

  /// The definition: the lowest rank that occurs, its leftmost place, merge, again.
  func encode(_ piece: [UInt8]) -> [Int32] {
    var ids = piece.map { Int32($0) }
    while true {
      var best: (rank: Int, place: Int)?
      for place in ids.indices.dropLast() {
        guard let rank = merges.firstIndex(where: { $0 == (ids[place], ids[place + 1]) }) else { continue }
        if rank < best?.rank ?? Int.max { best = (rank, place) }
      }
      guard let best else { return ids }
      ids.replaceSubrange(best.place...best.place + 1, with: [Int32(256 + best.rank)])
    }
  }
}

struct BytePairEncoderTests {
  @Test func mergesInTheDefinedOrder() {
    var generator = SeededGenerator(seed: 9)
    for _ in 0..<150 * soakFactor {
      let random = RandomMerges(count: Int.random(in: 1...20, using: &generator), using: &generator)
      let encoder = BytePairEncoder(byteTokens: (0..<256).map { Int32($0) }, merges: random.table)
      var scratch = BytePairEncoder.Scratch()
      for length in [0, 1, 2, 3, 10, 24, 25, 26, 60, 120] {
        let piece: [UInt8] = (0..<length).map { _ in .random(in: 97...99, using: &generator) }
        var ids: [Int32] = []
        encoder.encode(piece[...], &scratch, into: &ids)
        #expect(ids == random.encode(piece))
      }
    }
  }

  /// One piece of 1 MB: merges looked at must not grow faster than the text. Each takes O(log n) in the heap.
  @Test(arguments: [1, 2, 3])
  func workIsLinearInTheLengthOfAPiece(seed: UInt64) {
    var generator = SeededGenerator(seed: seed)
    let merges = RandomMerges(count: 60, using: &generator)
    let encoder = BytePairEncoder(byteTokens: (0..<256).map { Int32($0) }, merges: merges.table)
    let size = seed == 1 ? 1 << 20 : 1 << 18
    let text: [UInt8] = (0..<size).map { _ in .random(in: 97...99, using: &generator) }
    func work(_ piece: ArraySlice<UInt8>) -> Int {
      var scratch = BytePairEncoder.Scratch()
      var ids: [Int32] = []
      encoder.encode(piece, &scratch, into: &ids)
      #expect(ids.count < piece.count * 4 / 5)
      return scratch.operationCount
    }
    let small = work(text.prefix(size / 64))
    let large = work(text[...])
    #expect(small > size / 512 && Double(large) < Double(small) * 64 * 1.03)
    #expect(large <= 2 * size)
  }

  /// The same through the whole tokenizer, on runs without spaces and on nothing but spaces.
  @Test(arguments: ["the", " ", "\n", "1", "!", "你", "\u{301}", "@", " \n", "a "])
  func encodingARunGivesItBack(unit: String) throws {
    let tokenizer = try Tokenizer(tokenizerJSON: try fixture("deepseek-v3.json"))
    let text = String(repeating: unit, count: 1 << 15)
    #expect(tokenizer.decode(tokenizer.encode(text)) == text)
  }

  @Test func bytesWithoutATokenAreDropped() {
    var byteTokens = [Int32](repeating: -1, count: 256)
    byteTokens[97] = 0
    let encoder = BytePairEncoder(byteTokens: byteTokens, merges: MergeTable(minimumCapacity: 0))
    var scratch = BytePairEncoder.Scratch()
    var ids: [Int32] = []
    encoder.encode([98, 97, 98, 97], &scratch, into: &ids)
    #expect(ids == [0, 0])
  }

  @Test func mergeTable() {
    var table = MergeTable(minimumCapacity: 1000)
    for index in Int32(0)..<1000 { table.insert(left: index, right: index &* 7, rank: UInt32(index), merged: index + 1) }
    #expect(table.count == 1000)
    for index in Int32(0)..<1000 { #expect(table.merge(index, index * 7) == UInt64(index) << 32 | UInt64(index + 1)) }
    #expect(table.merge(1, 8) == UInt64.max && table.merge(-1, -1) == UInt64.max)
    table.insert(left: 5, right: 35, rank: 77, merged: 78)
    #expect(table.merge(5, 35) == UInt64(77) << 32 | 78)
    #expect(table.count == 1000)
  }
}
