// Deadlines of the connections of one loop: a doubly linked list per kind over arrays of slots. A kind has one
// duration, so its list is sorted by appending; set, clear and expire are O(1) and leave no garbage, whatever
// storm of short connections comes. No clock inside: the loop passes the time in.

/// What a connection is waiting for, one thing at a time.
package enum DeadlineKind: UInt8, CaseIterable, Sendable {
  case head, body, idle, write, linger
}

package struct DeadlineQueue: Sendable {
  private struct Node {
    var previous: Int32 = -1
    var next: Int32 = -1
    var kind: DeadlineKind?
    var deadlineNanoseconds: UInt64 = 0
  }
  private struct List {
    var first: Int32 = -1
    var last: Int32 = -1
  }

  private var nodes: [Node] = []  // [slot]
  private var lists = [List](repeating: List(), count: DeadlineKind.allCases.count)  // [kind]

  package init() {}

  /// Replaces the slot's deadline.
  package mutating func set(slot: Int, kind: DeadlineKind, deadlineNanoseconds: UInt64) {
    clear(slot: slot)
    while nodes.count <= slot { nodes.append(Node()) }
    // Normally the new deadline is the latest of its kind and the walk ends at once.
    var after = lists[Int(kind.rawValue)].last
    while after >= 0, nodes[Int(after)].deadlineNanoseconds > deadlineNanoseconds { after = nodes[Int(after)].previous }
    let before = after >= 0 ? nodes[Int(after)].next : lists[Int(kind.rawValue)].first
    let index = Int32(truncatingIfNeeded: slot)
    nodes[slot] = Node(previous: after, next: before, kind: kind, deadlineNanoseconds: deadlineNanoseconds)
    if after >= 0 { nodes[Int(after)].next = index } else { lists[Int(kind.rawValue)].first = index }
    if before >= 0 { nodes[Int(before)].previous = index } else { lists[Int(kind.rawValue)].last = index }
  }

  package mutating func clear(slot: Int) {
    guard slot < nodes.count, let kind = nodes[slot].kind else { return }
    let node = nodes[slot]
    let list = Int(kind.rawValue)
    if node.previous >= 0 { nodes[Int(node.previous)].next = node.next } else { lists[list].first = node.next }
    if node.next >= 0 { nodes[Int(node.next)].previous = node.previous } else { lists[list].last = node.previous }
    nodes[slot] = Node()
  }

  package var earliestNanoseconds: UInt64? {
    var earliest: UInt64?
    for list in lists where list.first >= 0 {
      let deadline = nodes[Int(list.first)].deadlineNanoseconds
      earliest = min(earliest ?? deadline, deadline)
    }
    return earliest
  }

  /// Takes one deadline that has passed, or nil when there is none.
  package mutating func takeExpired(nowNanoseconds: UInt64) -> (slot: Int, kind: DeadlineKind)? {
    for kind in DeadlineKind.allCases {
      let first = lists[Int(kind.rawValue)].first
      guard first >= 0, nodes[Int(first)].deadlineNanoseconds <= nowNanoseconds else { continue }
      clear(slot: Int(first))
      return (Int(first), kind)
    }
    return nil
  }
}
