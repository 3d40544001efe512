// The queue against a sorted array.

import Scheduler
import Testing

@Suite struct WaitingQueueTests {
  @Test func randomOperationsAgreeWithASortedArray() {
    var generator = SeededGenerator(3)
    var queue = WaitingQueue()
    var model: [(priority: Int, arrival: UInt64, slot: Int)] = []
    for arrival in 0..<20_000 as Range<UInt64> {
      switch Int.random(in: 0..<5, using: &generator) {
      case 0...2:
        let slot = Int.random(in: 0..<60, using: &generator)
        guard !queue.contains(slot: slot) else { continue }
        let priority = [Int.min, -1, 0, 0, 1, Int.max].randomElement(using: &generator) ?? 0
        queue.push(slot: slot, priority: priority, arrival: arrival)
        model.append((priority, arrival, slot))
        model.sort { ($0.priority, $0.arrival) < ($1.priority, $1.arrival) }
      case 3:
        #expect(queue.popFirst() == model.first?.slot)
        if !model.isEmpty { model.removeFirst() }
      default:
        let slot = Int.random(in: 0..<70, using: &generator)
        queue.remove(slot: slot)
        model.removeAll { $0.slot == slot }
      }
      #expect(queue.count == model.count && queue.first == model.first?.slot)
    }
    while let first = model.first {
      #expect(queue.popFirst() == first.slot)
      model.removeFirst()
    }
    #expect(queue.popFirst() == nil)
  }
}
