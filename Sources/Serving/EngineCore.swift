// The engine's step: plan -> forward -> sample -> commit, over one scheduler, one forward pass and one sampler.
// Synchronous and without threads: EngineLoop drives it for the server, `quire generate` and `quire bench` drive it directly.
// Knows no text, no HTTP and no model files.

import Engine
import Scheduler

/// Confined to one thread. After each `step` its `events` are valid until the next call.
package final class EngineCore {
  /// Logits of the wanted rows in entry order: [batch.logitsRowCount, vocabularySize] float32, valid until the next call.
  package typealias ForwardPass = (borrowing Batch) throws(EngineError) -> UnsafeBufferPointer<Float>

  package let vocabularySize: Int
  /// The engine's own counters, for metrics; called on the core's thread, now and then.
  package var readGauges: (() -> EngineGauges)?
  /// To be called once by the thread that makes the steps, before the first: it may be pinned to a CPU. The answer is a warning.
  package var adoptThread: (() -> String?)?
  /// To be called when no step is to come until somebody asks for something.
  package var rest: (() -> Void)?
  private let forwardPass: ForwardPass
  private var scheduler: Scheduler
  private var sampler: Sampler
  private var batch = Batch()
  private var sampledTokens: [Int32] = []
  private var sequences: [SequenceID: ActiveSequence] = [:]
  package private(set) var events: [TokenEvent] = []
  package private(set) var lastStep = StepReport()

  /// - Parameters:
  ///   - maskedTokens: never sampled.
  ///   - modelStopTokens: not sampled before a sequence's `minNewTokens`.
  ///   - transformer: whose workers sample; nil: the thread that makes the steps.
  package init(
    configuration: SchedulerConfiguration, vocabularySize: Int, maskedTokens: [Int32] = [], modelStopTokens: [Int32] = [],
    transformer: Transformer? = nil, forwardPass: @escaping ForwardPass
  ) {
    self.vocabularySize = vocabularySize
    self.forwardPass = forwardPass
    scheduler = Scheduler(configuration)
    sampler = Sampler(
      vocabularySize: vocabularySize, maskedTokens: maskedTokens, earlyMaskedTokens: modelStopTokens, transformer: transformer)
  }

  // MARK: - Sequences

  /// Queues a sequence. `follows`: wait for that one's prompt, whose blocks this one shares (n > 1).
  package func add(
    _ request: GenerationRequest, follows: SequenceID? = nil, arrivalNanoseconds: UInt64 = Clock.nanoseconds()
  ) throws(SchedulerError) -> SequenceID {
    let id = try scheduler.add(
      SequenceRequest(
        promptTokens: request.promptTokens, maxNewTokens: request.maxNewTokens, priority: request.priority, cacheSalt: request.cacheSalt,
        follows: follows))
    sequences[id] = ActiveSequence(request, arrival: arrivalNanoseconds)
    return id
  }

  /// Forgets the sequence; its blocks are free before the next plan. False if it is not known (any more).
  @discardableResult
  package func cancel(_ id: SequenceID) -> Bool {
    guard sequences.removeValue(forKey: id) != nil else { return false }
    scheduler.cancel(id)
    return true
  }

  /// As `cancel`, for a sequence that came to its end outside the engine (a stop string in its text).
  @discardableResult
  package func finish(_ id: SequenceID) -> Bool {
    guard sequences.removeValue(forKey: id) != nil else { return false }
    scheduler.finish(id)
    return true
  }

  package func timing(of id: SequenceID) -> SequenceTiming? { sequences[id]?.timing }
  package func generatedCount(of id: SequenceID) -> Int? { sequences[id]?.generatedCount }

  /// Sequences that run or wait.
  package var hasWork: Bool { !sequences.isEmpty }
  package var statistics: SchedulerStatistics { scheduler.statistics }
  package var configuration: SchedulerConfiguration { scheduler.configuration }
  package func invariantViolations() -> [String] { scheduler.checkInvariants() }

  // MARK: - The step

  /// Does one step's work and leaves its tokens in `events`. False if there was nothing to do.
  @discardableResult
  package func step() throws(EngineError) -> Bool {
    events.removeAll(keepingCapacity: true)
    let start = Clock.nanoseconds()

    scheduler.plan(into: &batch)
    guard !batch.isEmpty else {
      lastStep = StepReport()
      return false
    }
    let planned = Clock.nanoseconds()
    noteScheduled(at: start)
    let logits = try forwardPass(batch)
    let forwarded = Clock.nanoseconds()
    sample(logits, at: forwarded)
    let sampled = Clock.nanoseconds()
    scheduler.commit(batch, sampledTokens: sampledTokens)

    removeFinished()
    lastStep = StepReport(
      entryCount: batch.entries.count, tokenCount: batch.tokens.count, sampledCount: sampledTokens.count,
      preemptedCount: batch.preempted.count, planNanoseconds: planned - start, forwardNanoseconds: forwarded - planned,
      sampleNanoseconds: sampled - forwarded, commitNanoseconds: Clock.nanoseconds() - sampled)
    return true
  }

  /// The events were taken.
  package func clearEvents() { events.removeAll(keepingCapacity: true) }

  private func noteScheduled(at now: UInt64) {
    for id in batch.admitted { sequences[id]?.timing.firstScheduled = now }
  }

  /// One token per wanted row, in entry order.
  private func sample(_ logits: UnsafeBufferPointer<Float>, at now: UInt64) {
    sampler.begin()
    var row = 0
    for entry in batch.entries {
      for _ in entry.logitsRows {
        let values = UnsafeBufferPointer(rebasing: logits[row * vocabularySize..<(row + 1) * vocabularySize])
        row += 1
        guard let sequence = sequences[entry.sequence] else {  // not reached: sequences leave only between steps
          sampler.add(logits: values)
          continue
        }
        sampler.add(
          logits: values, parameters: sequence.request.sampling, generator: &sequence.generator, isEarly: sequence.isEarly,
          topCount: sequence.request.logProbabilityCount)
      }
    }
    sampler.run()
    noteTokens(at: now)
  }

  /// The sampled tokens as events.
  private func noteTokens(at now: UInt64) {
    sampledTokens.removeAll(keepingCapacity: true)
    for entry in batch.entries {
      for _ in entry.logitsRows {
        let row = sampledTokens.count
        let token = sampler.token(row)
        sampledTokens.append(token)
        guard let sequence = sequences[entry.sequence] else { continue }
        let (request, isEarly) = (sequence.request, sequence.isEarly)
        sequence.noteToken(at: now)
        let isStop = !isEarly && request.stopTokens.contains(token)
        events.append(
          TokenEvent(
            sequence: entry.sequence, token: token, generatedCount: sequence.generatedCount, promptCount: request.promptTokens.count,
            cachedPromptTokens: scheduler.cachedPromptTokens(of: entry.sequence) ?? 0, logProbabilities: sampler.logProbabilities(row),
            finish: isStop ? .stop : sequence.generatedCount >= request.maxNewTokens ? .length : nil, isStopToken: isStop,
            timing: sequence.timing))
      }
    }
  }

  private func removeFinished() {
    for event in events where event.finish != nil {
      sequences.removeValue(forKey: event.sequence)
      scheduler.finish(event.sequence)
    }
  }
}

/// What the core keeps of a sequence beside the scheduler's part. A class: it changes in place with every token.
private final class ActiveSequence {
  let request: GenerationRequest
  var generator: SamplerGenerator
  var generatedCount = 0
  var timing: SequenceTiming

  init(_ request: GenerationRequest, arrival: UInt64) {
    self.request = request
    generator = SamplerGenerator(seed: request.sampling.seed)
    timing = SequenceTiming(arrival: arrival)
  }

  /// Its least length is not reached.
  var isEarly: Bool { generatedCount < request.minNewTokens }

  func noteToken(at now: UInt64) {
    generatedCount += 1
    if generatedCount == 1 { timing.firstToken = now }
    timing.previousToken = generatedCount == 1 ? now : timing.lastToken
    timing.lastToken = now
  }
}
