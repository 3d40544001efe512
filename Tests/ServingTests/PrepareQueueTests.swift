// Bounded work and bounded memory before the engine, and the messages' way to its thread.

import Glibc
import HTTP
import Testing

@testable import Serving

@Suite("Queues between the threads")
struct PrepareQueueTests {
  @Test("never more than `width` at once, never more than `limit` waiting, and everything accepted runs once")
  func bounded() {
    let queue = PrepareQueue(width: 2, limit: 5)
    let state = Locked((running: 0, most: 0, done: 0))
    let gate = Flag()
    var accepted = 0
    for _ in 0..<10 {
      let isTaken = queue.submit {
        state.withLock {
          $0.running += 1
          $0.most = max($0.most, $0.running)
        }
        while !gate.isSet { usleep(500) }
        state.withLock {
          $0.running -= 1
          $0.done += 1
        }
      }
      accepted += isTaken ? 1 : 0
    }
    #expect(accepted == 7)
    gate.set()
    while state.withLock({ $0.done }) < accepted { usleep(500) }
    #expect(state.withLock { $0.most } <= 2)
    #expect(queue.submit {}, "there is room again")
  }

  @Test("bytes come back when their holder goes")
  func budget() {
    let budget = BodyBudget(limitBytes: 100)
    var first = budget.take(byteCount: 60)
    #expect(first != nil && budget.take(byteCount: 41) == nil && budget.heldBytes == 60)
    let second = budget.take(byteCount: 40)
    #expect(second != nil && budget.take(byteCount: 1) == nil)
    first = nil
    #expect(budget.heldBytes == 40 && budget.take(byteCount: 60) != nil && budget.take(byteCount: .max) == nil)
    withExtendedLifetime(second) {}
  }

  @Test("an inbox loses nothing and keeps each sender's order")
  func inbox() {
    let inbox = Inbox<(sender: Int, number: Int)>()
    let senders = 4
    let each = 2000
    let received = Locked([[Int]](repeating: [], count: senders))
    runThreads(senders + 1) { index in
      guard index < senders else {
        var taken: [(sender: Int, number: Int)] = []
        var count = 0
        while count < senders * each {
          inbox.take(into: &taken, waits: true)
          count += taken.count
          received.withLock { lists in for message in taken { lists[message.sender].append(message.number) } }
        }
        return
      }
      for number in 0..<each { inbox.post((index, number)) }
    }
    #expect(received.withLock { $0 }.allSatisfy { $0 == Array(0..<each) })
    var rest: [(sender: Int, number: Int)] = []
    inbox.take(into: &rest, waits: false)
    #expect(rest.isEmpty)
  }
}
