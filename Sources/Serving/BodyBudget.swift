// Bounds the bytes of request bodies that are held at once, from the handler to the last byte of the answer: without it, many large
// bodies waiting for the engine could exhaust the memory. Knows nothing of what is in them.

import HTTP

package final class BodyBudget: Sendable {
  private let limit: Int
  private let held = Locked(0)

  package init(limitBytes: Int) { limit = limitBytes }

  /// Gives its bytes back when it goes.
  package final class Share: Sendable {
    private let budget: BodyBudget
    private let byteCount: Int

    fileprivate init(_ budget: BodyBudget, _ byteCount: Int) {
      self.budget = budget
      self.byteCount = byteCount
    }

    deinit { budget.held.withLock { $0 -= byteCount } }
  }

  /// nil if the bytes do not fit now.
  package func take(byteCount: Int) -> Share? {
    let fits = held.withLock { held in
      guard byteCount >= 0, byteCount <= limit - held else { return false }
      held += byteCount
      return true
    }
    return fits ? Share(self, byteCount) : nil
  }

  package var heldBytes: Int { held.withLock { $0 } }
}
