// Runs the work between a request's bytes and its tokens (JSON, tokenisation) off the event loops, on a Dispatch queue, a bounded number
// at a time and a bounded number waiting. Knows nothing of the work.

import Dispatch
import HTTP

/// Any thread may submit. At most `width` pieces run at once, in order of submission.
package final class PrepareQueue: Sendable {
  private struct State {
    var waiting: [@Sendable () -> Void] = []
    var runningCount = 0
  }

  private let width: Int
  private let limit: Int
  private let queue = DispatchQueue(label: "prepare", attributes: .concurrent)
  private let state = Locked(State())

  package init(width: Int, limit: Int) {
    self.width = max(width, 1)
    self.limit = max(limit, 0)
  }

  /// False, and nothing done, if too many pieces wait already.
  package func submit(_ work: @escaping @Sendable () -> Void) -> Bool {
    enum Answer { case start, queued, refused }
    let answer = state.withLock { state -> Answer in
      if state.runningCount < width {
        state.runningCount += 1
        return .start
      }
      guard state.waiting.count < limit else { return .refused }
      state.waiting.append(work)
      return .queued
    }
    if answer == .start { queue.async { [self] in run(work) } }
    return answer != .refused
  }

  private func run(_ first: @Sendable () -> Void) {
    first()
    while true {
      let next = state.withLock { state -> (@Sendable () -> Void)? in
        guard !state.waiting.isEmpty else {
          state.runningCount -= 1
          return nil
        }
        return state.waiting.removeFirst()
      }
      guard let next else { return }
      next()
    }
  }
}
