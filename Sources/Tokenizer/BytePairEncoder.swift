// Byte pair encoding of one piece (Sennrich et al. 2016; SPEC 4.1 step 5): from single bytes, the adjacent pair of lowest rank merges,
// the leftmost of equals, until none can. Short pieces by plain search, long ones by a linked list and a heap: O(n log n).
// It knows nothing of text, pre-tokenizers or added tokens.

struct BytePairEncoder: Sendable {
  /// The token of each single byte; -1: the vocabulary has none and the byte is dropped, as the `tokenizers` package does. [256]
  let byteTokens: [Int32]
  let merges: MergeTable

  /// Whether no byte of a text can be dropped. C0, C1 and F5 to FF are in no UTF-8.
  var knowsEveryByteOfUTF8: Bool {
    byteTokens.enumerated().allSatisfy { $1 >= 0 || $0 == 0xC0 || $0 == 0xC1 || $0 >= 0xF5 }
  }

  /// Pieces up to this many bytes are searched plainly.
  private static let shortPiece = 24
  private static let noMerge = UInt64.max

  /// Arrays reused between pieces.
  struct Scratch {
    fileprivate var ids: [Int32] = []
    /// The merge of each symbol with the one after it, as `MergeTable.merge` gives it.
    fileprivate var pairs: [UInt64] = []
    fileprivate var next: [Int] = []
    fileprivate var previous: [Int] = []
    fileprivate var heap = MergeHeap()
    /// Merges looked at so far, running total: the measure of work in tests.
    var operationCount = 0
  }

  /// Appends the tokens of `piece`.
  func encode(_ piece: ArraySlice<UInt8>, _ scratch: inout Scratch, into out: inout [Int32]) {
    scratch.ids.removeAll(keepingCapacity: true)
    for byte in piece {
      let token = byteTokens[Int(byte)]
      if token >= 0 { scratch.ids.append(token) }
    }
    guard scratch.ids.count > 1 else {
      out.append(contentsOf: scratch.ids)
      return
    }
    scratch.pairs.removeAll(keepingCapacity: true)
    for index in 0..<scratch.ids.count - 1 { scratch.pairs.append(merges.merge(scratch.ids[index], scratch.ids[index + 1])) }
    if scratch.ids.count <= Self.shortPiece {
      mergeShort(&scratch)
      out.append(contentsOf: scratch.ids)
    } else {
      mergeLong(&scratch, into: &out)
    }
  }

  private func mergeShort(_ scratch: inout Scratch) {
    while true {
      var best = Self.noMerge
      var place = 0
      // Only the rank decides, and a rank belongs to one pair: "<" keeps the leftmost.
      for (index, pair) in scratch.pairs.enumerated() where pair < best { (best, place) = (pair, index) }
      scratch.operationCount += scratch.pairs.count
      guard best != Self.noMerge else { return }
      scratch.ids[place] = Int32(truncatingIfNeeded: best)
      scratch.ids.remove(at: place + 1)
      scratch.pairs.remove(at: place)
      if place > 0 { scratch.pairs[place - 1] = merges.merge(scratch.ids[place - 1], scratch.ids[place]) }
      if place < scratch.pairs.count { scratch.pairs[place] = merges.merge(scratch.ids[place], scratch.ids[place + 1]) }
    }
  }

  private func mergeLong(_ scratch: inout Scratch, into out: inout [Int32]) {
    let count = scratch.ids.count
    scratch.next = Array(1...count)  // count: none
    scratch.previous = Array(-1..<count - 1)  // -1: none
    scratch.pairs.append(Self.noMerge)
    scratch.heap.fill(scratch.pairs)
    while let (rank, place) = scratch.heap.popLowest() {
      scratch.operationCount += 1
      let pair = scratch.pairs[place]
      // An entry is stale when its symbol merged away or changed since.
      guard pair != Self.noMerge, UInt32(truncatingIfNeeded: pair >> 32) == rank else { continue }
      let right = scratch.next[place]
      let after = scratch.next[right]
      let before = scratch.previous[place]
      scratch.ids[place] = Int32(truncatingIfNeeded: pair)
      scratch.pairs[right] = Self.noMerge
      scratch.next[place] = after
      scratch.pairs[place] = Self.noMerge
      if after < count {
        scratch.previous[after] = place
        renew(place, after, &scratch)
      }
      if before >= 0 { renew(before, place, &scratch) }
    }
    var index = 0
    while index < count {
      out.append(scratch.ids[index])
      index = scratch.next[index]
    }
  }

  private func renew(_ left: Int, _ right: Int, _ scratch: inout Scratch) {
    let pair = merges.merge(scratch.ids[left], scratch.ids[right])
    scratch.pairs[left] = pair
    if pair != Self.noMerge { scratch.heap.push(rank: UInt32(truncatingIfNeeded: pair >> 32), place: left) }
  }
}

/// A binary min-heap of (rank, place), packed so that one comparison orders both.
struct MergeHeap {
  private static let placeBits = 40  // a rank is below TokenizerLimits.merges = 2^22, so 24 bits are left for it
  private var entries: [UInt64] = []

  /// Starts over with one entry for each pair that merges.
  mutating func fill(_ pairs: [UInt64]) {
    entries.removeAll(keepingCapacity: true)
    for (place, pair) in pairs.enumerated() where pair != UInt64.max { entries.append((pair >> 32) << Self.placeBits | UInt64(place)) }
    for index in (0..<entries.count / 2).reversed() { sink(index) }
  }

  mutating func push(rank: UInt32, place: Int) {
    entries.append(UInt64(rank) << Self.placeBits | UInt64(place))
    var index = entries.count - 1
    let entry = entries[index]
    while index > 0, entries[(index - 1) / 2] > entry {
      entries[index] = entries[(index - 1) / 2]
      index = (index - 1) / 2
    }
    entries[index] = entry
  }

  mutating func popLowest() -> (rank: UInt32, place: Int)? {
    guard let lowest = entries.first, let last = entries.popLast() else { return nil }
    if !entries.isEmpty {
      entries[0] = last
      sink(0)
    }
    return (UInt32(truncatingIfNeeded: lowest >> Self.placeBits), Int(truncatingIfNeeded: lowest & ((1 << Self.placeBits) - 1)))
  }

  private mutating func sink(_ start: Int) {
    var index = start
    let entry = entries[index]
    while true {
      var child = 2 * index + 1
      guard child < entries.count else { break }
      if child + 1 < entries.count, entries[child + 1] < entries[child] { child += 1 }
      guard entries[child] < entry else { break }
      entries[index] = entries[child]
      index = child
    }
    entries[index] = entry
  }
}
