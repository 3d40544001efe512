// The way out of the engine thread: events grouped by the event loop that must hear them, one post (one wake) per loop and step.
// Knows nothing of what the events mean to a client.

import HTTP

/// What a request hears from the engine; delivered on the request's event loop, in order.
package enum GenerationEvent: Sendable {
  /// `choice` counts from 0 over all sequences of the request.
  case token(choice: Int, TokenEvent)
  /// The whole request ended without an answer. Nothing follows.
  case refused(APIError)
}

/// Confined to the engine thread.
struct Outbox {
  typealias Receiver = @Sendable (GenerationEvent) -> Void

  private struct Delivery: Sendable {
    let receiver: Receiver
    let event: GenerationEvent
  }
  private struct Lane {
    let loop: EventLoop
    var deliveries: [Delivery] = []
  }

  private var lanes: [Lane] = []  // a handful: one per event loop

  mutating func add(_ event: GenerationEvent, for receiver: @escaping Receiver, on loop: EventLoop) {
    let delivery = Delivery(receiver: receiver, event: event)
    if let index = lanes.firstIndex(where: { $0.loop === loop }) {
      lanes[index].deliveries.append(delivery)
    } else {
      lanes.append(Lane(loop: loop, deliveries: [delivery]))
    }
  }

  /// Hands everything over. Events of one request stay in order: a request has one loop, and a loop runs posts in order.
  mutating func flush() {
    for index in lanes.indices where !lanes[index].deliveries.isEmpty {
      let deliveries = lanes[index].deliveries
      lanes[index].deliveries = []
      lanes[index].loop.post { @Sendable in
        for delivery in deliveries { delivery.receiver(delivery.event) }
      }
    }
  }
}
