// Real threads for tests: blocking clients would starve a pool as wide as the machine.

import Dispatch
import Glibc
import HTTP

/// Set by one thread, read by another.
final class Flag: Sendable {
  private let value = Locked(false)
  func set() { value.withLock { $0 = true } }
  var isSet: Bool { value.withLock { $0 } }
}

func runThreads(_ count: Int, _ body: @escaping @Sendable (Int) -> Void) {
  let group = DispatchGroup()
  for index in 0..<count { DispatchQueue(label: "test-\(index)").async(group: group) { body(index) } }
  group.wait()
}

/// Makes an engine crawl, at most some fifty steps a second, until it is released.
final class Pace: Sendable {
  private let isReleased = Flag()
  func release() { isReleased.set() }
  func wait() { if !isReleased.isSet { usleep(20_000) } }
}
