// What the engine is asked to do and what it answers: plain values that cross threads. Knows no text and no HTTP.

import Engine
import Scheduler

/// One sequence to generate.
package struct GenerationRequest: Sendable {
  package var promptTokens: [Int32]
  package var maxNewTokens: Int
  package var sampling: SamplingParameters
  /// Sampling one of these ends the sequence (the token counts, its text is not shown). Empty: only the length ends it.
  package var stopTokens: [Int32]
  /// Before that many tokens the model's own stop tokens are not sampled and no stop token ends the sequence.
  package var minNewTokens: Int
  /// nil: no log-probabilities; otherwise how many of the most probable tokens besides the chosen one.
  package var logProbabilityCount: Int?
  package var priority: Int
  package var cacheSalt: UInt64

  package init(
    promptTokens: [Int32], maxNewTokens: Int, sampling: SamplingParameters = .greedy, stopTokens: [Int32] = [], minNewTokens: Int = 0,
    logProbabilityCount: Int? = nil, priority: Int = 0, cacheSalt: UInt64 = 0
  ) {
    self.promptTokens = promptTokens
    self.maxNewTokens = maxNewTokens
    self.sampling = sampling
    self.stopTokens = stopTokens
    self.minNewTokens = minNewTokens
    self.logProbabilityCount = logProbabilityCount
    self.priority = priority
    self.cacheSalt = cacheSalt
  }
}

/// Why a sequence ended, in vLLM's words.
package enum FinishReason: String, Sendable, CaseIterable {
  case stop
  case length
  case abort
}

/// Monotonic nanoseconds of one sequence's life.
package struct SequenceTiming: Sendable {
  package var arrival: UInt64
  /// 0 until the first step that computed a part of it.
  package var firstScheduled: UInt64 = 0
  package var firstToken: UInt64 = 0
  /// Of the token before this event's; equal to `lastToken` for the first.
  package var previousToken: UInt64 = 0
  package var lastToken: UInt64 = 0

  package init(
    arrival: UInt64, firstScheduled: UInt64 = 0, firstToken: UInt64 = 0, previousToken: UInt64 = 0, lastToken: UInt64 = 0
  ) {
    self.arrival = arrival
    self.firstScheduled = firstScheduled
    self.firstToken = firstToken
    self.previousToken = previousToken
    self.lastToken = lastToken
  }
}

/// One sampled token of one sequence.
package struct TokenEvent: Sendable {
  package let sequence: SequenceID
  package let token: Int32
  /// Tokens generated so far, this one included.
  package let generatedCount: Int
  package let promptCount: Int
  /// Prompt tokens that came from the prefix cache.
  package let cachedPromptTokens: Int
  package let logProbabilities: TokenLogProbabilities?
  package let finish: FinishReason?
  /// The token is a stop token: its text is not part of the answer.
  package let isStopToken: Bool
  package let timing: SequenceTiming
}

/// What one step did, for metrics and benchmarks.
package struct StepReport: Sendable {
  package var entryCount = 0
  package var tokenCount = 0
  package var sampledCount = 0
  package var preemptedCount = 0
  package var planNanoseconds: UInt64 = 0
  package var forwardNanoseconds: UInt64 = 0
  package var sampleNanoseconds: UInt64 = 0
  package var commitNanoseconds: UInt64 = 0
}
