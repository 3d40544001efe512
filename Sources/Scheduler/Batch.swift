// One step's work as plain arrays: what the engine reads, and all it learns of the scheduler. It does not know priorities, queues
// or how blocks are shared.

/// The plan of one step. `Scheduler.plan(into:)` empties and fills it, keeping the arrays' storage: no allocation once warm.
package struct Batch: Sendable {
  package struct Entry: Sendable, Equatable {
    package var sequence: SequenceID
    /// Position in its sequence of the entry's first token. All positions before it are computed.
    package var startPosition: Int
    /// Into `Batch.tokens`.
    package var tokens: Range<Int>
    /// Into `Batch.blockTable`: the sequence's blocks, exactly enough for positions 0 ..< startPosition + tokens.count.
    package var blockTable: Range<Int>
    /// Rows, counted from this entry's first token, whose logits are wanted; empty while a prefill is unfinished.
    package var logitsRows: Range<Int>
    /// False only for a decode: the one newest token, a generated one.
    package var isPrefill: Bool

    package init(
      sequence: SequenceID, startPosition: Int, tokens: Range<Int>, blockTable: Range<Int>, logitsRows: Range<Int>, isPrefill: Bool
    ) {
      self.sequence = sequence
      self.startPosition = startPosition
      self.tokens = tokens
      self.blockTable = blockTable
      self.logitsRows = logitsRows
      self.isPrefill = isPrefill
    }
  }

  /// Best priority and oldest first.
  package var entries: [Entry] = []
  package var tokens: [Int32] = []
  package var blockTable: [Int32] = []
  /// Sequences preempted while planning this step (for metrics); they wait again and will be recomputed.
  package var preempted: [SequenceID] = []
  /// Sequences that left the waiting queue for the first time in this step (for queue-time metrics).
  package var admitted: [SequenceID] = []
  /// Rows of logits wanted by all entries together: the number of tokens that `commit` expects.
  package var logitsRowCount = 0
  /// Which plan this is; `commit` ignores any but the latest.
  var step: UInt64 = 0

  package init() {}

  package var isEmpty: Bool { entries.isEmpty }

  mutating func reset(step: UInt64) {
    entries.removeAll(keepingCapacity: true)
    tokens.removeAll(keepingCapacity: true)
    blockTable.removeAll(keepingCapacity: true)
    preempted.removeAll(keepingCapacity: true)
    admitted.removeAll(keepingCapacity: true)
    logitsRowCount = 0
    self.step = step
  }
}
