// What the scheduler is told at start (sizes and limits), what a caller hands it per sequence, and what it answers when it
// refuses one. It does not know where the numbers come from (the config file, the memory plan, a request).

/// Sizes and limits. Values out of range are pulled into it by `Scheduler.init`; see `clamped()`.
package struct SchedulerConfiguration: Sendable, Equatable {
  /// Token positions in one block, 1...1024.
  package var blockTokens: Int
  /// Blocks in the pool.
  package var blockCount: Int
  /// Token budget of one step, prefill and decode together.
  package var maxBatchTokens: Int
  /// Sequences running at once. Never more than `maxBatchTokens`, so that each running sequence gets its token in each step.
  package var maxSequences: Int
  /// Bound of the waiting queue for new sequences (preempted ones always come back in).
  package var maxWaiting: Int
  /// Prompt + generated tokens of one sequence (the model's limit).
  package var maxContextTokens: Int
  /// Whether full blocks are indexed and shared between sequences with equal prefixes.
  package var prefixCaching: Bool
  /// Largest prefill piece of one sequence in one step, so that the gaps of running streams stay short.
  package var maxPrefillChunkTokens: Int
  /// Prefill tokens of all sequences together in a step with decodes, or `prefillTokensPerDecode` per decode if that is more: few streams
  /// are kept smooth, many bear more, or new prompts would wait too long beside them.
  package var prefillTokensBesideDecodes: Int
  static let prefillTokensPerDecode = 6

  package init(
    blockTokens: Int = 16, blockCount: Int, maxBatchTokens: Int = 512, maxSequences: Int = 64, maxWaiting: Int = 1024,
    maxContextTokens: Int, prefixCaching: Bool = true, maxPrefillChunkTokens: Int = 256, prefillTokensBesideDecodes: Int = .max
  ) {
    self.blockTokens = blockTokens
    self.blockCount = blockCount
    self.maxBatchTokens = maxBatchTokens
    self.maxSequences = maxSequences
    self.maxWaiting = maxWaiting
    self.maxContextTokens = maxContextTokens
    self.prefixCaching = prefixCaching
    self.maxPrefillChunkTokens = maxPrefillChunkTokens
    self.prefillTokensBesideDecodes = prefillTokensBesideDecodes
  }

  /// Every value inside the range in which the scheduler's arithmetic cannot overflow. Telling the operator about a bad value
  /// is the config reader's work; this only makes sure that none of them can stop the process.
  package func clamped() -> SchedulerConfiguration {
    var result = self
    result.blockTokens = min(max(blockTokens, 1), 1024)
    result.blockCount = min(max(blockCount, 1), Int(Int32.max) - 1)
    result.maxBatchTokens = min(max(maxBatchTokens, 1), 1 << 24)
    result.maxSequences = min(max(maxSequences, 1), 1 << 20, result.maxBatchTokens)
    result.maxWaiting = min(max(maxWaiting, 1), 1 << 22)
    result.maxContextTokens = min(max(maxContextTokens, 1), 1 << 30)
    result.maxPrefillChunkTokens = min(max(maxPrefillChunkTokens, 1), result.maxBatchTokens)
    result.prefillTokensBesideDecodes = min(max(prefillTokensBesideDecodes, 1), result.maxBatchTokens)
    return result
  }
}

/// One sequence to generate. A request with `n > 1` makes n of these with the same prompt.
package struct SequenceRequest: Sendable {
  package var promptTokens: [Int32]
  /// Tokens to generate at most; less than 1 counts as 1.
  package var maxNewTokens: Int
  /// Lower is sooner, as in vLLM.
  package var priority: Int
  /// Sequences with different salts never share blocks. One salt per API key.
  package var cacheSalt: UInt64
  /// Admit this one only after that sequence's prompt is computed, or it is gone: n > 1 shares one prefill.
  package var follows: SequenceID?

  package init(
    promptTokens: [Int32], maxNewTokens: Int, priority: Int = 0, cacheSalt: UInt64 = 0, follows: SequenceID? = nil
  ) {
    self.promptTokens = promptTokens
    self.maxNewTokens = maxNewTokens
    self.priority = priority
    self.cacheSalt = cacheSalt
    self.follows = follows
  }
}

/// Why a sequence was refused. Nothing was changed by the call that threw it.
package enum SchedulerError: Error, Equatable, CustomStringConvertible {
  /// As many sequences wait as may wait; try again later.
  case queueFull(limit: Int)
  case emptyPrompt
  /// `tokens` is prompt + maxNewTokens (saturated); `limit` is `maxContextTokens`.
  case promptTooLong(tokens: Int, limit: Int)
  /// The whole pool cannot hold this sequence: `tokensNeeded` positions against `tokensAvailable`.
  case poolTooSmall(tokensNeeded: Int, tokensAvailable: Int)

  package var description: String {
    switch self {
    case .queueFull(let limit): "the waiting queue is full (\(limit) sequences)"
    case .emptyPrompt: "the prompt has no tokens"
    case .promptTooLong(let tokens, let limit): "prompt and new tokens are \(tokens) tokens, the context holds \(limit)"
    case .poolTooSmall(let needed, let available): "the sequence needs \(needed) cache positions, the cache holds \(available)"
    }
  }
}

/// Counts at one moment (running ... blocksFree) and running totals since start (the rest).
package struct SchedulerStatistics: Sendable, Equatable {
  package var running = 0
  /// Waiting for admission, preempted ones and followers included.
  package var waiting = 0
  /// Blocks held by at least one sequence.
  package var blocksInUse = 0
  /// Blocks held by none, still indexed: prefix cache, evicted when needed.
  package var blocksCached = 0
  package var blocksFree = 0
  /// Prompt tokens looked up in the prefix cache, at the first admission of each sequence.
  package var prefixQueriesTokens = 0
  /// Prompt tokens found there.
  package var prefixHitTokens = 0
  package var preemptions = 0
}
