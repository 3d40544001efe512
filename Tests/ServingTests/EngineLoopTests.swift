// The engine's thread with a foretold forward pass and a real event loop: order, all-or-nothing, failures, cancellation, stop. No HTTP.

import Dispatch
import Engine
import Glibc
import Scheduler
import Testing

@testable import HTTP
@testable import Serving

@Suite("Engine loop")
struct EngineLoopTests {
  private static let vocabularySize = 8

  /// Logits that want token 3, and a switch that makes the pass fail.
  private final class Stub: @unchecked Sendable {
    let fails = Locked(false)
    let logits: UnsafeMutableBufferPointer<Float>

    init() {
      logits = .allocate(capacity: 64 * vocabularySize)
      logits.initialize(repeating: 0)
      for row in 0..<64 { logits[row * vocabularySize + 3] = 9 }
    }

    deinit { logits.deallocate() }

    func core() -> EngineCore {
      EngineCore(
        configuration: SchedulerConfiguration(
          blockTokens: 4, blockCount: 32, maxBatchTokens: 16, maxSequences: 4, maxWaiting: 6, maxContextTokens: 1_000),
        vocabularySize: vocabularySize
      ) { [self] batch throws(EngineError) in
        if fails.withLock({ $0 }) { throw .badBatch(reason: "test") }
        usleep(200)  // a model takes time; without it a long sequence is over before it can be cancelled
        return UnsafeBufferPointer(rebasing: UnsafeBufferPointer(logits)[..<(batch.logitsRowCount * vocabularySize)])
      }
    }
  }

  /// What one request heard.
  private final class Ear: Sendable {
    struct State {
      var tokens: [Int: [TokenEvent]] = [:]
      var refusal: APIError?
    }
    let state = Locked(State())
    func hear(_ event: GenerationEvent) {
      state.withLock {
        switch event {
        case .token(let choice, let token): $0.tokens[choice, default: []].append(token)
        case .refused(let error): $0.refusal = error
        }
      }
    }
    func tokenCount(_ choice: Int) -> Int { state.withLock { $0.tokens[choice]?.count ?? 0 } }
    var refusal: APIError? { state.withLock { $0.refusal } }
  }

  private func withEngine(_ body: (EngineLoop, EventLoop, Stub, Metrics) throws -> Void) throws {
    let loop = try EventLoop(index: 0)
    let group = DispatchGroup()
    loop.start(group: group)
    let stub = Stub()
    let metrics = Metrics(version: "test")
    let engine = EngineLoop(core: stub.core(), metrics: metrics)
    defer {
      engine.stop()
      loop.stop()
      group.wait()
    }
    try body(engine, loop, stub, metrics)
  }

  private func submission(_ ear: Ear, _ loop: EventLoop, prompts: Int = 1, choices: Int = 1, maxNewTokens: Int) -> Submission {
    let sequences = (0..<prompts * choices).map { n in
      GenerationRequest(promptTokens: [Int32(n / choices), 1, 2], maxNewTokens: maxNewTokens)
    }
    return Submission(
      ticket: .next(), sequences: sequences, choicesPerPrompt: choices, arrivalNanoseconds: Clock.nanoseconds(), loop: loop,
      receiver: { ear.hear($0) })
  }

  private func waitUntil(_ condition: () -> Bool) {
    for _ in 0..<6000 {
      if condition() { return }
      usleep(5000)
    }
    Issue.record("the condition did not come true")
  }

  @Test("every choice gets all its tokens in order, and exactly one end")
  func order() throws {
    try withEngine { engine, loop, _, _ in
      let ears = (0..<2).map { _ in Ear() }
      for ear in ears { engine.submit(submission(ear, loop, prompts: 1, choices: 3, maxNewTokens: 12)) }
      waitUntil { ears.allSatisfy { ear in (0..<3).allSatisfy { ear.tokenCount($0) == 12 } } }
      for ear in ears {
        for (_, events) in ear.state.withLock({ $0.tokens }) {
          #expect(events.map(\.generatedCount) == Array(1...12) && events.allSatisfy { $0.token == 3 })
          #expect(events.filter { $0.finish != nil }.map(\.generatedCount) == [12])
        }
      }
    }
  }

  @Test("a request that does not fit in the queue is refused whole; a failing pass gives up the running ones and the engine goes on")
  func refusals() throws {
    try withEngine { engine, loop, stub, metrics in
      let crowd = Ear()
      engine.submit(submission(crowd, loop, prompts: 7, choices: 1, maxNewTokens: 5))
      waitUntil { crowd.refusal != nil }
      #expect(crowd.refusal?.status == 429 && crowd.tokenCount(0) == 0)
      let unlucky = Ear()
      stub.fails.withLock { $0 = true }
      engine.submit(submission(unlucky, loop, prompts: 2, choices: 2, maxNewTokens: 50))
      waitUntil { unlucky.refusal != nil }
      #expect(unlucky.refusal?.status == 500 && unlucky.refusal?.code == "engine_failure")
      stub.fails.withLock { $0 = false }
      let lucky = Ear()
      engine.submit(submission(lucky, loop, maxNewTokens: 4))
      waitUntil { lucky.tokenCount(0) == 4 }
      #expect(metrics.engine.withLock { $0.cancellations[.failed] } == 1)
      #expect(metrics.engine.withLock { $0.rejections["queue_full"] } == 1)
    }
  }

  @Test("cancelled and finished sequences fall silent and free their blocks; unknown tickets are ignored")
  func leaving() throws {
    try withEngine { engine, loop, _, metrics in
      let ear = Ear()
      let endless = submission(ear, loop, prompts: 2, choices: 1, maxNewTokens: 60)
      engine.submit(endless)
      waitUntil { ear.tokenCount(0) > 1 && ear.tokenCount(1) > 1 }
      engine.finish(endless.ticket, choice: 0)
      engine.finish(endless.ticket, choice: 99)
      engine.cancel(endless.ticket, .disconnected)
      engine.cancel(endless.ticket, .disconnected)
      engine.cancel(.next(), .disconnected)
      waitUntil { metrics.engine.withLock { $0.statistics.blocksInUse == 0 && $0.statistics.running == 0 } }
      let next = Ear()
      engine.submit(submission(next, loop, maxNewTokens: 2))
      waitUntil { next.tokenCount(0) == 2 }
      let counts = (ear.tokenCount(0), ear.tokenCount(1))
      usleep(20_000)
      #expect(counts == (ear.tokenCount(0), ear.tokenCount(1)))
      #expect(metrics.engine.withLock { ($0.cancellations[.disconnected] ?? 0) } <= 1)
    }
  }

  @Test("the engine's thread, and no other, is pinned when threads are to be")
  func pinning() throws {
    var settings = TinyModel.settings
    settings.pinThreads = true
    let loaded = try TinyModel.load(settings)
    let here = Topology.affinity()
    let loop = try EventLoop(index: 0)
    let group = DispatchGroup()
    loop.start(group: group)
    let seen = Locked<[[Int]?]>([])
    let warned = Flag()
    let engine = EngineLoop(
      core: loaded.makeCore(), metrics: Metrics(version: "test"), beforeStep: { seen.withLock { $0.append(Topology.affinity()) } },
      onWarning: { _ in warned.set() })
    defer {
      engine.stop()
      loop.stop()
      group.wait()
    }
    let ear = Ear()
    engine.submit(submission(ear, loop, maxNewTokens: 3))
    waitUntil { ear.tokenCount(0) == 3 }
    let first = try #require(here?.first)
    #expect(seen.withLock { $0 }.allSatisfy { $0 == [first] } && !warned.isSet)
    #expect(Topology.affinity() == here)
  }

  @Test("stopping tells the running requests")
  func stopping() throws {
    try withEngine { engine, loop, _, _ in
      let ear = Ear()
      engine.submit(submission(ear, loop, maxNewTokens: 100))
      waitUntil { ear.tokenCount(0) > 0 }
      engine.stop()
      engine.stop()
      let told = Flag()
      loop.post { told.set() }
      waitUntil { told.isSet }
      #expect(ear.refusal == .draining || ear.tokenCount(0) == 100)
    }
  }
}
