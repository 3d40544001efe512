// A sequence: its tokens, how many of them are computed, and the blocks that hold their latents. Plain state; every rule about
// it lives in Scheduler. It does not know text, sampling, or time.

/// Names a sequence for as long as the scheduler knows it; never used again. Ordered by arrival.
///
/// The low 24 bits are the slot in the scheduler's table (so look-up needs no hashing), the high 40 bits count arrivals.
package struct SequenceID: Hashable, Sendable, Comparable {
  package let rawValue: UInt64

  package init(rawValue: UInt64) { self.rawValue = rawValue }

  static let slotLimit = 1 << 24

  init(serial: UInt64, slot: Int) { rawValue = serial << 24 | UInt64(slot) }

  var slot: Int { Int(rawValue & 0xFF_FFFF) }

  package static func < (left: SequenceID, right: SequenceID) -> Bool { left.rawValue < right.rawValue }
}

/// One slot of the scheduler's table. Confined to the scheduler that owns it.
struct TokenSequence: Sendable {
  enum Phase: Sendable {
    /// The slot holds no sequence.
    case vacant
    /// In the waiting queue: never admitted yet, or preempted.
    case waiting
    /// Waits for its leader's prompt; in the leader's list of followers, not in the queue.
    case following
    /// Admitted: holds blocks, gets tokens in each step.
    case running
    /// Has its last token; holds no blocks; waits for the caller's `finish`.
    case complete
  }

  var id = SequenceID(rawValue: 0)
  var phase = Phase.vacant
  /// Prompt and generated tokens: all that is known.
  var tokens: [Int32] = []
  var promptCount = 0
  var maxNewTokens = 0
  var priority = 0
  var cacheSalt: UInt64 = 0

  /// Positions 0 ..< computed have their latents in `blocks`.
  var computed = 0
  /// Tokens granted by the plan being made; 0 outside `plan`.
  var granted = 0
  /// The block table: block i holds positions i * blockTokens ..< (i + 1) * blockTokens.
  var blocks: [Int32] = []
  /// The first `indexedBlocks` of `blocks` are full and in the prefix index; `chainHash` is the hash of the last of them.
  var indexedBlocks = 0
  var chainHash: UInt64 = 0

  /// Prompt tokens found in the prefix cache at the first admission; nil before it.
  var cachedPromptTokens: Int?
  /// The prompt has been computed at least once: followers may go.
  var promptDone = false
  /// Slots, -1 for none. A doubly linked list, so that cancelling a follower is O(1).
  var leader: Int32 = -1
  var firstFollower: Int32 = -1
  var nextFollower: Int32 = -1
  var previousFollower: Int32 = -1

  var generatedCount: Int { tokens.count - promptCount }
  /// Known tokens not computed yet. At least 1 in a running sequence: the last token is always computed by the sequence itself.
  var uncomputed: Int { tokens.count - computed }
}
