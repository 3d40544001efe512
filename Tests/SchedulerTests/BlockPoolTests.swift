// The pool against a naive model: sets and an array for the eviction order.

import Scheduler
import Testing

@Suite struct BlockPoolTests {
  @Test func takesFreeBlocksBeforeReusableOnesAndThoseOldestFirst() {
    var pool = BlockPool(blockCount: 4)
    let blocks = (0..<4).compactMap { _ in pool.take()?.block }
    #expect(Set(blocks) == [0, 1, 2, 3])
    #expect(pool.take() == nil)
    pool.release(blocks[2], reusable: true)
    pool.release(blocks[0], reusable: true)
    pool.release(blocks[3], reusable: false)
    #expect(pool.evictionOrder() == [blocks[3], blocks[2], blocks[0]])
    #expect(pool.take().map { $0.block == blocks[3] && !$0.evicted } == true)
    #expect(pool.take().map { $0.block == blocks[2] && $0.evicted } == true)
    #expect(pool.inUseCount == 3 && pool.reusableCount == 1 && pool.freeCount == 0)
    #expect(pool.violations() == [])
  }

  @Test func aSharedBlockIsFreeOnlyAfterItsLastHolder() {
    var pool = BlockPool(blockCount: 1)
    guard let (block, _) = pool.take() else { return #expect(Bool(false), "empty pool") }
    pool.acquire(block)
    pool.release(block, reusable: true)
    #expect(pool.availableCount == 0)
    pool.release(block, reusable: true)
    #expect(pool.reusableCount == 1)
    pool.acquire(block)  // back from the middle of the eviction order
    #expect(pool.availableCount == 0 && pool.references == [1] && pool.violations() == [])
  }

  @Test(arguments: [1, 2, 3, 7, 20])
  func randomOperationsAgreeWithAModel(blockCount: Int) {
    var generator = SeededGenerator(UInt64(blockCount))
    var pool = BlockPool(blockCount: blockCount)
    var holders = [Int](repeating: 0, count: blockCount)
    var order = (0..<blockCount).map { Int32($0) }  // held by none, next to take first
    var reusable: Set<Int32> = []
    for _ in 0..<2000 {
      let block = Int32.random(in: 0..<Int32(blockCount), using: &generator)
      switch Int.random(in: 0..<3, using: &generator) {
      case 0:
        let taken = pool.take()
        #expect(taken?.block == order.first)
        guard let first = order.first else { continue }
        #expect(taken?.evicted == reusable.contains(first))
        order.removeFirst()
        reusable.remove(first)
        holders[Int(first)] = 1
      case 1:
        guard holders[Int(block)] > 0 || reusable.contains(block) else { continue }
        pool.acquire(block)
        holders[Int(block)] += 1
        order.removeAll { $0 == block }
        reusable.remove(block)
      default:
        guard holders[Int(block)] > 0 else { continue }
        let keep = Bool.random(using: &generator)
        pool.release(block, reusable: keep)
        holders[Int(block)] -= 1
        guard holders[Int(block)] == 0 else { continue }
        if keep { order.append(block) } else { order.insert(block, at: 0) }
        if keep { reusable.insert(block) }
      }
      #expect(pool.evictionOrder() == order && pool.reusableCount == reusable.count && pool.violations() == [])
    }
  }
}
