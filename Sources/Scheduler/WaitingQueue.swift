// The order in which waiting sequences are admitted: priority, then arrival. A binary heap that knows where each slot is, so that
// a cancelled sequence leaves at once. It does not know why a sequence waits.

/// push, popFirst and remove are O(log n), first is O(1).
package struct WaitingQueue: Sendable {
  private struct Ticket: Sendable {
    var priority: Int
    var arrival: UInt64
    var slot: Int32

    func precedes(_ other: Ticket) -> Bool {
      priority != other.priority ? priority < other.priority : arrival < other.arrival
    }
  }

  private var heap: [Ticket] = []
  /// Where a slot's ticket is in `heap`, -1 if it has none. Grows with the highest slot.
  private var places: [Int32] = []

  package init() {}

  package var count: Int { heap.count }
  package var first: Int? { heap.first.map { Int($0.slot) } }

  /// Because the key holds the arrival, a preempted sequence comes before all of its priority that were never admitted: they came later.
  package mutating func push(slot: Int, priority: Int, arrival: UInt64) {
    while places.count <= slot { places.append(-1) }
    precondition(places[slot] < 0, "slot \(slot) queued twice")
    heap.append(Ticket(priority: priority, arrival: arrival, slot: Int32(slot)))
    places[slot] = Int32(heap.count - 1)
    siftUp(heap.count - 1)
  }

  package mutating func popFirst() -> Int? {
    guard let slot = first else { return nil }
    remove(slot: slot)
    return slot
  }

  package mutating func remove(slot: Int) {
    guard contains(slot: slot) else { return }
    let hole = Int(places[slot])
    places[slot] = -1
    let last = heap.removeLast()
    guard hole < heap.count else { return }
    heap[hole] = last
    places[Int(last.slot)] = Int32(hole)
    siftUp(hole)
    siftDown(Int(places[Int(last.slot)]))
  }

  package func contains(slot: Int) -> Bool { slot < places.count && places[slot] >= 0 }

  private mutating func siftUp(_ start: Int) {
    var place = start
    while place > 0 {
      let parent = (place - 1) / 2
      guard heap[place].precedes(heap[parent]) else { return }
      exchange(place, parent)
      place = parent
    }
  }

  private mutating func siftDown(_ start: Int) {
    var place = start
    while true {
      var best = place
      for child in (2 * place + 1)...(2 * place + 2) where child < heap.count && heap[child].precedes(heap[best]) { best = child }
      guard best != place else { return }
      exchange(place, best)
      place = best
    }
  }

  private mutating func exchange(_ left: Int, _ right: Int) {
    heap.swapAt(left, right)
    places[Int(heap[left].slot)] = Int32(left)
    places[Int(heap[right].slot)] = Int32(right)
  }

  /// What is wrong with the heap; for `Scheduler.checkInvariants`.
  func violations() -> [String] {
    var found: [String] = []
    for place in heap.indices {
      if place > 0, heap[place].precedes(heap[(place - 1) / 2]) { found.append("waiting queue: place \(place) precedes its parent") }
      if places[Int(heap[place].slot)] != Int32(place) { found.append("waiting queue: slot \(heap[place].slot) has a wrong place") }
    }
    if places.count(where: { $0 >= 0 }) != heap.count { found.append("waiting queue: places of slots that do not wait") }
    return found
  }
}
