// Who holds which block: reference counts and one intrusive list of the blocks that nobody holds, in eviction order. It does not
// know what is in a block or why it is indexed; Scheduler keeps this and PrefixIndex in step.

/// `blockCount` blocks, each in exactly one state. All operations are O(1) and allocate nothing.
package struct BlockPool: Sendable {
  package enum State: UInt8, Sendable {
    /// Held by none, content worthless.
    case free
    /// Held by none, content indexed: may be held again, or evicted.
    case reusable
    /// Held by `references` sequences.
    case inUse
  }

  package let blockCount: Int
  package private(set) var states: [State]  // [blockCount]
  package private(set) var references: [Int32]  // [blockCount]
  // The list of blocks held by none, as links between block numbers; node `blockCount` is the sentinel. Front: taken first. Free
  // blocks enter at the front (last freed, first taken: warm in the CPU's caches), reusable ones at the back, so a reusable block
  // is taken only when no free one is left, the least recently released first.
  private(set) var next: [Int32]  // [blockCount + 1]
  private(set) var previous: [Int32]  // [blockCount + 1]
  package private(set) var freeCount: Int
  package private(set) var reusableCount = 0

  package init(blockCount: Int) {
    self.blockCount = blockCount
    states = Array(repeating: .free, count: blockCount)
    references = Array(repeating: 0, count: blockCount)
    next = (0...blockCount).map { Int32($0 == blockCount ? 0 : $0 + 1) }
    previous = (0...blockCount).map { Int32($0 == 0 ? blockCount : $0 - 1) }
    freeCount = blockCount
  }

  /// Blocks that `take` could hand out.
  package var availableCount: Int { freeCount + reusableCount }
  package var inUseCount: Int { blockCount - freeCount - reusableCount }

  /// The next block to use, held once; nil if every block is held. `evicted`: it was reusable, so take it out of the index.
  package mutating func take() -> (block: Int32, evicted: Bool)? {
    let block = next[blockCount]
    guard block != Int32(blockCount) else { return nil }
    let evicted = states[Int(block)] == .reusable
    leaveList(block)
    references[Int(block)] = 1
    return (block, evicted)
  }

  /// One more sequence holds the block, which must be in use or reusable.
  package mutating func acquire(_ block: Int32) {
    if states[Int(block)] != .inUse { leaveList(block) }
    references[Int(block)] += 1
  }

  /// One sequence less holds the block. When it was the last: reusable blocks go to the back of the list, worthless ones to the front.
  package mutating func release(_ block: Int32, reusable: Bool) {
    let index = Int(block)
    precondition(references[index] > 0, "block \(block) released more often than held")
    references[index] -= 1
    guard references[index] == 0 else { return }
    let sentinel = Int32(blockCount)
    if reusable {
      states[index] = .reusable
      reusableCount += 1
      link(block, between: previous[blockCount], and: sentinel)
    } else {
      states[index] = .free
      freeCount += 1
      link(block, between: sentinel, and: next[blockCount])
    }
  }

  private mutating func leaveList(_ block: Int32) {
    let index = Int(block)
    if states[index] == .reusable { reusableCount -= 1 } else { freeCount -= 1 }
    states[index] = .inUse
    next[Int(previous[index])] = next[index]
    previous[Int(next[index])] = previous[index]
  }

  private mutating func link(_ block: Int32, between before: Int32, and after: Int32) {
    next[Int(block)] = after
    previous[Int(block)] = before
    next[Int(before)] = block
    previous[Int(after)] = block
  }
}
