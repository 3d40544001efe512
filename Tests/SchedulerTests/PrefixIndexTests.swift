// The prefix index, also with its hash switched off: what it answers must not depend on the hash.

import Scheduler
import Testing

@Suite struct PrefixIndexTests {
  private func insert(_ block: Int32, _ index: inout PrefixIndex, parent: Int32, before: UInt64, salt: UInt64, _ tokens: [Int32]) -> UInt64
  {
    let hash = index.chainHash(parent: before, source: tokens, start: 0)
    index.insert(block, hash: hash, parent: parent, salt: salt, source: tokens, start: 0)
    return hash
  }

  @Test(arguments: [UInt64.max, 0, 1])
  func findsOnlyEqualTokensParentAndSalt(mask: UInt64) {
    var index = PrefixIndex(blockCount: 8, blockTokens: 3, seed: 5, hashMask: mask)
    let root = index.rootHash(salt: 1)
    let first = insert(4, &index, parent: PrefixIndex.root, before: root, salt: 1, [1, 2, 3])
    let second = insert(2, &index, parent: 4, before: first, salt: 1, [1, 2, 3])
    func find(_ tokens: [Int32], parent: Int32, before: UInt64, salt: UInt64) -> Int32? {
      index.find(hash: index.chainHash(parent: before, source: tokens, start: 0), parent: parent, salt: salt, source: tokens, start: 0)
    }
    #expect(find([1, 2, 3], parent: PrefixIndex.root, before: root, salt: 1) == 4)
    #expect(find([1, 2, 3], parent: 4, before: first, salt: 1) == 2)
    #expect(find([1, 2, 4], parent: PrefixIndex.root, before: root, salt: 1) == nil)
    #expect(find([1, 2, 3], parent: PrefixIndex.root, before: index.rootHash(salt: 2), salt: 2) == nil)
    #expect(find([1, 2, 3], parent: 2, before: second, salt: 1) == nil)
    #expect(find([1, 2, 3], parent: 3, before: first, salt: 1) == nil)
    index.remove(4)
    #expect(find([1, 2, 3], parent: PrefixIndex.root, before: root, salt: 1) == nil)
    #expect(find([1, 2, 3], parent: 4, before: first, salt: 1) == 2)
    #expect(index.count == 1)
  }

  @Test func removalFromTheMiddleOfABucketKeepsTheRest() {
    var index = PrefixIndex(blockCount: 16, blockTokens: 1, seed: 5, hashMask: 0)  // one bucket for all
    for block in 0..<Int32(16) { _ = insert(block, &index, parent: PrefixIndex.root, before: 0, salt: 0, [block]) }
    var left = Set(0..<Int32(16))
    for gone in [7, 0, 15, 8, 1, 3] as [Int32] {
      index.remove(gone)
      left.remove(gone)
      for block in 0..<Int32(16) {
        #expect(index.find(hash: 0, parent: PrefixIndex.root, salt: 0, source: [block], start: 0) == (left.contains(block) ? block : nil))
      }
    }
  }

  /// Neighbouring inputs, as prompts are, spread over all hashes: no two of 200,000 are equal (expected: 1e-9 pairs).
  @Test func hashesOfSimilarBlocksDiffer() {
    let index = PrefixIndex(blockCount: 1, blockTokens: 5, seed: 0)
    var seen: Set<UInt64> = []
    for parent in 0..<20 as Range<UInt64> {
      for number in 0..<5_000 as Range<Int32> {
        seen.insert(index.chainHash(parent: parent, source: [0, 0, number % 10, number / 10 % 10, number / 100], start: 0))
        seen.insert(index.chainHash(parent: parent << 58, source: [number, -1, 0, 0, 0], start: 0))
      }
    }
    #expect(seen.count == 200_000)
  }

  @Test func theSeedChangesEveryHash() {
    let (left, right) = (PrefixIndex(blockCount: 1, blockTokens: 2, seed: 1), PrefixIndex(blockCount: 1, blockTokens: 2, seed: 2))
    for number in 0..<1000 as Range<Int32> {
      #expect(left.chainHash(parent: 0, source: [number, 1], start: 0) != right.chainHash(parent: 0, source: [number, 1], start: 0))
    }
    #expect(left.rootHash(salt: 0) != right.rootHash(salt: 0) && left.rootHash(salt: 0) != left.rootHash(salt: 1))
  }
}
