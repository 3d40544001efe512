// Everything that is counted, and who counts it: the engine thread once per step, the event loops once per request.
// Names and text are in MetricsText.swift. Knows no HTTP.

import HTTP
import Scheduler

/// What does not change once a model is loaded.
package struct ModelInfo: Sendable, Equatable {
  package var name = ""
  package var maxContextTokens = 1
  package var weightsBytes = 0
  package var cacheBytesPerToken = 0
  package var blockTokens = 1
  package var blockCount = 0
  package var kernels = ""
  package var compute = ""
  package var cacheType = ""

  package init() {}
}

/// Numbers that the engine keeps itself; read now and then on its thread.
package struct EngineGauges: Sendable, Equatable {
  /// Busiest expert's tokens over the mean of its layer, in the worst layer; 1 is even. nil: no experts used yet.
  package var expertLoadImbalance: Double?
  /// Cumulative, by part of the forward pass.
  package var phaseNanoseconds: [(name: String, nanoseconds: UInt64)] = []

  package init() {}

  package static func == (left: EngineGauges, right: EngineGauges) -> Bool {
    left.expertLoadImbalance == right.expertLoadImbalance
      && left.phaseNanoseconds.elementsEqual(right.phaseNanoseconds) { $0.name == $1.name && $0.nanoseconds == $1.nanoseconds }
  }
}

/// Shared. Each part has its own lock, held for a few additions only.
package final class Metrics: Sendable {
  let engine: Locked<EngineMetrics>
  let http = Locked(HTTPMetrics())
  package let version: String
  let startUnixSeconds = Clock.unixSeconds()

  package init(version: String, modelName: String = "") {
    self.version = version
    var info = ModelInfo()
    info.name = modelName
    engine = Locked(EngineMetrics(info))
  }

  /// Once, before the engine's thread starts.
  package func install(_ info: ModelInfo) { engine.withLock { $0 = EngineMetrics(info, rejections: $0.rejections) } }

  // MARK: - The engine thread

  func recordStep(_ report: StepReport, _ events: [TokenEvent], _ statistics: SchedulerStatistics) {
    engine.withLock { engine in
      engine.statistics = statistics
      guard report.entryCount > 0 else { return }
      engine.steps += 1
      engine.phases.plan += report.planNanoseconds
      engine.phases.forward += report.forwardNanoseconds
      engine.phases.sample += report.sampleNanoseconds
      engine.phases.commit += report.commitNanoseconds
      engine.iterationTokens.observe(Double(report.tokenCount))
      for event in events { engine.record(event) }
    }
  }

  func recordDelivery(nanoseconds: UInt64) { engine.withLock { $0.phases.deliver += nanoseconds } }

  func recordFinish(_ reason: FinishReason, promptCount: Int, generatedCount: Int, timing: SequenceTiming) {
    engine.withLock { $0.recordFinish(reason, promptCount: promptCount, generatedCount: generatedCount, timing: timing) }
  }

  func recordGauges(_ gauges: EngineGauges) { engine.withLock { $0.gauges = gauges } }

  func recordCancellation(_ reason: CancelReason) { engine.withLock { $0.cancellations[reason, default: 0] += 1 } }

  // MARK: - Any thread

  func recordRejection(_ reason: String) { engine.withLock { $0.rejections[reason, default: 0] += 1 } }

  func recordParameters(maxTokens: Int, choices: Int) {
    engine.withLock {
      $0.requestMaxTokens.observe(Double(maxTokens))
      $0.requestChoices.observe(Double(choices))
    }
  }

  package var observer: ServerObserver {
    ServerObserver(
      connectionOpened: { [self] in http.withLock { $0.openConnections += 1 } },
      connectionClosed: { [self] in http.withLock { $0.openConnections -= 1 } },
      requestFinished: { [self] record in http.withLock { $0.record(record) } })
  }
}

/// Behind `Metrics.engine`.
struct EngineMetrics: Sendable {
  struct Phases: Sendable {
    var plan: UInt64 = 0
    var forward: UInt64 = 0
    var sample: UInt64 = 0
    var commit: UInt64 = 0
    var deliver: UInt64 = 0
  }

  let info: ModelInfo
  var statistics = Scheduler(SchedulerConfiguration(blockCount: 1, maxContextTokens: 1)).statistics  // all zero
  var steps: UInt64 = 0
  var phases = Phases()
  var gauges = EngineGauges()
  var promptTokens: UInt64 = 0
  var generationTokens: UInt64 = 0
  var finished: [FinishReason: UInt64] = [:]
  var cancellations: [CancelReason: UInt64] = [:]
  var rejections: [String: UInt64]
  var timeToFirstToken = Histogram(bounds: Histogram.timeToFirstToken)
  var interTokenLatency = Histogram(bounds: Histogram.perToken)
  var timePerOutputToken = Histogram(bounds: Histogram.perToken)
  var endToEnd = Histogram(bounds: Histogram.requestLatency)
  var queueTime = Histogram(bounds: Histogram.requestLatency)
  var inferenceTime = Histogram(bounds: Histogram.requestLatency)
  var prefillTime = Histogram(bounds: Histogram.requestLatency)
  var decodeTime = Histogram(bounds: Histogram.requestLatency)
  var iterationTokens = Histogram(bounds: Histogram.iterationTokens)
  var requestPromptTokens: Histogram
  var requestGenerationTokens: Histogram
  var requestMaxTokens: Histogram
  var requestChoices = Histogram(bounds: Histogram.choices)

  init(_ info: ModelInfo, rejections: [String: UInt64] = [:]) {
    self.info = info
    self.rejections = rejections
    let lengths = Histogram(bounds: Histogram.oneTwoFive(upTo: info.maxContextTokens))
    requestPromptTokens = lengths
    requestGenerationTokens = lengths
    requestMaxTokens = lengths
  }

  mutating func record(_ event: TokenEvent) {
    generationTokens += 1
    let timing = event.timing
    if event.generatedCount == 1 {
      promptTokens += UInt64(event.promptCount)
      timeToFirstToken.observe(Clock.seconds(from: timing.arrival, to: timing.firstToken))
    } else {
      interTokenLatency.observe(Clock.seconds(from: timing.previousToken, to: timing.lastToken))
    }
    guard let reason = event.finish else { return }
    recordFinish(reason, promptCount: event.promptCount, generatedCount: event.generatedCount, timing: timing)
  }

  mutating func recordFinish(_ reason: FinishReason, promptCount: Int, generatedCount: Int, timing: SequenceTiming) {
    finished[reason, default: 0] += 1
    let end = timing.lastToken > 0 ? timing.lastToken : Clock.nanoseconds()
    endToEnd.observe(Clock.seconds(from: timing.arrival, to: end))
    requestPromptTokens.observe(Double(promptCount))
    requestGenerationTokens.observe(Double(generatedCount))
    guard timing.firstScheduled > 0 else { return }
    queueTime.observe(Clock.seconds(from: timing.arrival, to: timing.firstScheduled))
    guard timing.firstToken > 0 else { return }
    prefillTime.observe(Clock.seconds(from: timing.firstScheduled, to: timing.firstToken))
    inferenceTime.observe(Clock.seconds(from: timing.firstScheduled, to: timing.lastToken))
    let decode = Clock.seconds(from: timing.firstToken, to: timing.lastToken)
    decodeTime.observe(decode)
    if generatedCount > 1 { timePerOutputToken.observe(decode / Double(generatedCount - 1)) }
  }
}

/// Behind `Metrics.http`.
struct HTTPMetrics: Sendable {
  struct Key: Hashable, Sendable {
    let method: String
    let path: String
    let code: Int
  }

  var requests: [Key: UInt64] = [:]
  var openConnections = 0
  var requestBytes: UInt64 = 0
  var responseBytes: UInt64 = 0

  /// Clients choose methods and paths: only known ones become label values.
  private static let methods: Set<String> = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

  mutating func record(_ record: RequestRecord) {
    let method = Self.methods.contains(record.method) ? record.method : "other"
    requests[Key(method: method, path: record.routePattern ?? "other", code: record.status), default: 0] += 1
    requestBytes += UInt64(max(record.requestBytes, 0))
    responseBytes += UInt64(max(record.responseBytes, 0))
  }
}
