// The engine's thread: takes messages from the inbox, runs the core's steps, counts, and hands the tokens to the event loops.
// The only place where scheduler, model and sampler live; other threads reach it by messages. Knows no text and no HTTP.

import Engine
import Glibc
import HTTP
import Scheduler

/// Starts its thread in `init`; `stop` ends it.
package final class EngineLoop: @unchecked Sendable {
  private enum Message: Sendable {
    case submit(Submission)
    case finish(Ticket, choice: Int)
    case cancel(Ticket, CancelReason)
    case stop
  }

  private let inbox = Inbox<Message>()
  private let thread = Locked<pthread_t?>(nil)

  /// - Parameters:
  ///   - core: belongs to the engine thread from now on.
  ///   - beforeStep: runs on the engine thread before each step; tests slow the engine down with it.
  ///   - onWarning: hears, on the engine thread, what could not be done and does not matter much.
  ///   - onFailure: hears, on the engine thread, of a forward pass that failed.
  package init(
    core: sending EngineCore, metrics: Metrics, beforeStep: (@Sendable () -> Void)? = nil,
    onWarning: @escaping @Sendable (String) -> Void = { _ in }, onFailure: @escaping @Sendable (String) -> Void = { _ in }
  ) {
    let inbox = inbox
    let handle = startThread(name: "engine", stackBytes: 8 << 20) {
      if let warning = core.adoptThread?() { onWarning(warning) }
      EngineThread(core: core, metrics: metrics, beforeStep: beforeStep, onFailure: onFailure).run(inbox: inbox)
    }
    guard let handle else { preconditionFailure("the system refused the engine thread") }
    thread.withLock { $0 = handle }
  }

  package func submit(_ submission: Submission) { inbox.post(.submit(submission)) }

  /// One choice has come to its end outside the engine: a stop string stands in its text.
  package func finish(_ ticket: Ticket, choice: Int) { inbox.post(.finish(ticket, choice: choice)) }

  /// The request is given up; its blocks are free before the next step. Nothing is delivered any more. Unknown tickets are ignored.
  package func cancel(_ ticket: Ticket, _ reason: CancelReason) { inbox.post(.cancel(ticket, reason)) }

  /// Gives up all requests, ends the thread and waits for it. Not from the engine thread.
  package func stop() {
    guard
      let handle = thread.withLock({ handle -> pthread_t? in
        defer { handle = nil }
        return handle
      })
    else { return }
    inbox.post(.stop)
    pthread_join(handle, nil)
  }

  // MARK: - On the engine thread

  /// Confined to the engine thread.
  private final class EngineThread {
    private struct ActiveRequest {
      let submission: Submission
      var sequences: [SequenceID?]  // by choice; nil: ended
      var openCount: Int
    }

    private let core: EngineCore
    private let metrics: Metrics
    private let beforeStep: (@Sendable () -> Void)?
    private let onFailure: @Sendable (String) -> Void
    private var requests: [Ticket: ActiveRequest] = [:]
    private var owners: [SequenceID: (ticket: Ticket, choice: Int)] = [:]
    private var outbox = Outbox()
    private var gaugesReadAt: UInt64 = 0
    private static let gaugeIntervalNanoseconds: UInt64 = 500_000_000

    init(
      core: EngineCore, metrics: Metrics, beforeStep: (@Sendable () -> Void)?, onFailure: @escaping @Sendable (String) -> Void
    ) {
      self.beforeStep = beforeStep
      self.onFailure = onFailure
      self.core = core
      self.metrics = metrics
    }

    func run(inbox: Inbox<Message>) {
      var messages: [Message] = []
      publishGauges(force: true)
      while true {
        let waits = !core.hasWork
        if waits { core.rest?() }
        inbox.take(into: &messages, waits: waits)
        for message in messages {
          switch message {
          case .submit(let submission): submit(submission)
          case .finish(let ticket, let choice): finish(ticket, choice)
          case .cancel(let ticket, let reason): cancel(ticket, reason)
          case .stop: return stopAll()
          }
        }
        step()
        outbox.flush()
      }
    }

    private func step() {
      var report = StepReport()
      if core.hasWork {
        beforeStep?()
        do throws(EngineError) {
          // Sequences without work to plan would be a scheduler's mistake; sleeping keeps such a mistake from burning a core.
          if try core.step() { report = core.lastStep } else { usleep(1000) }
        } catch {
          // A mistake of ours or memory that the system refused: these requests cannot go on, the server can.
          onFailure("the forward pass failed, all requests are given up: \(error)")
          failAll(APIError(status: 500, message: "The engine failed: \(error)", type: "server_error", code: "engine_failure"))
        }
      }
      let start = Clock.nanoseconds()
      metrics.recordStep(report, core.events, core.statistics)
      publishGauges(force: !core.hasWork)
      for event in core.events { deliver(event) }
      core.clearEvents()
      metrics.recordDelivery(nanoseconds: Clock.nanoseconds() - start)
    }

    private func deliver(_ event: TokenEvent) {
      guard let owner = owners[event.sequence], let submission = requests[owner.ticket]?.submission else { return }
      outbox.add(.token(choice: owner.choice, event), for: submission.receiver, on: submission.loop)
      if event.finish != nil { forget(owner.ticket, owner.choice, event.sequence) }
    }

    private func forget(_ ticket: Ticket, _ choice: Int, _ sequence: SequenceID) {
      owners.removeValue(forKey: sequence)
      requests[ticket]?.sequences[choice] = nil
      requests[ticket]?.openCount -= 1
      if requests[ticket]?.openCount == 0 { requests.removeValue(forKey: ticket) }
    }

    /// All sequences of the request or none.
    private func submit(_ submission: Submission) {
      var added: [SequenceID] = []
      do throws(SchedulerError) {
        for (choice, sequence) in submission.sequences.enumerated() {
          let isLeader = choice % submission.choicesPerPrompt == 0
          let leader = isLeader ? nil : added[choice - choice % submission.choicesPerPrompt]
          added.append(try core.add(sequence, follows: leader, arrivalNanoseconds: submission.arrivalNanoseconds))
        }
      } catch {
        for id in added { core.cancel(id) }
        let refusal = APIError(error)
        metrics.recordRejection(refusal.rejection)
        outbox.add(.refused(refusal), for: submission.receiver, on: submission.loop)
        return
      }
      for (choice, id) in added.enumerated() { owners[id] = (submission.ticket, choice) }
      requests[submission.ticket] = ActiveRequest(submission: submission, sequences: added, openCount: added.count)
    }

    private func finish(_ ticket: Ticket, _ choice: Int) {
      guard let request = requests[ticket], request.sequences.indices.contains(choice), let id = request.sequences[choice] else { return }
      recordEnd(id, request.submission.sequences[choice], .stop)
      core.finish(id)
      forget(ticket, choice, id)
    }

    private func cancel(_ ticket: Ticket, _ reason: CancelReason) {
      guard let request = requests.removeValue(forKey: ticket) else { return }
      for (choice, id) in request.sequences.enumerated() {
        guard let id else { continue }
        recordEnd(id, request.submission.sequences[choice], .abort)
        core.cancel(id)
        owners.removeValue(forKey: id)
      }
      metrics.recordCancellation(reason)
    }

    private func recordEnd(_ id: SequenceID, _ request: GenerationRequest, _ reason: FinishReason) {
      guard let timing = core.timing(of: id), let count = core.generatedCount(of: id) else { return }
      metrics.recordFinish(reason, promptCount: request.promptTokens.count, generatedCount: count, timing: timing)
    }

    private func failAll(_ error: APIError) {
      for (ticket, request) in requests {
        outbox.add(.refused(error), for: request.submission.receiver, on: request.submission.loop)
        cancel(ticket, .failed)
      }
      core.clearEvents()
    }

    private func stopAll() {
      for (ticket, request) in requests {
        outbox.add(.refused(.draining), for: request.submission.receiver, on: request.submission.loop)
        cancel(ticket, .shutdown)
      }
      outbox.flush()
      metrics.recordStep(StepReport(), [], core.statistics)
    }

    private func publishGauges(force: Bool) {
      guard let readGauges = core.readGauges else { return }
      let now = Clock.nanoseconds()
      guard force || now - gaugesReadAt >= Self.gaugeIntervalNanoseconds else { return }
      gaugesReadAt = now
      metrics.recordGauges(readGauges())
    }
  }
}
