// A request on its way to the engine: its sequences, and where their tokens are to be delivered. Knows no text.

import HTTP

/// Names a request between the threads; given by `EngineLoop.submit`'s caller through `Ticket.next`.
package struct Ticket: Hashable, Sendable {
  private let number: UInt64
  private static let last = Locked<UInt64>(0)

  package static func next() -> Ticket {
    Ticket(
      number: last.withLock {
        $0 += 1
        return $0
      })
  }
}

package struct Submission: Sendable {
  package let ticket: Ticket
  /// Choices of one prompt lie together; each prompt has `choicesPerPrompt` of them.
  package let sequences: [GenerationRequest]
  package let choicesPerPrompt: Int
  package let arrivalNanoseconds: UInt64
  package let loop: EventLoop
  /// Called on `loop`.
  package let receiver: @Sendable (GenerationEvent) -> Void

  package init(
    ticket: Ticket, sequences: [GenerationRequest], choicesPerPrompt: Int, arrivalNanoseconds: UInt64, loop: EventLoop,
    receiver: @escaping @Sendable (GenerationEvent) -> Void
  ) {
    self.ticket = ticket
    self.sequences = sequences
    self.choicesPerPrompt = max(choicesPerPrompt, 1)
    self.arrivalNanoseconds = arrivalNanoseconds
    self.loop = loop
    self.receiver = receiver
  }
}

/// Why a request was given up, for `quire_requests_cancelled_total{reason}`.
package enum CancelReason: String, Sendable, CaseIterable {
  case disconnected
  case shutdown
  case failed
}
