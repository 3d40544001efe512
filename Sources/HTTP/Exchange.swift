// One request's way back. A token that other threads may hold and pass on, but use only on its loop (post to it).
// Knows no bytes on the wire: Connection frames them.

/// Confined to `loop`; asserted in debug.
package final class Exchange: @unchecked Sendable {
  enum Stage { case waiting, streaming, ended, disconnected }

  package let loop: EventLoop
  package let request: HTTPRequest
  let head: RequestHead
  let routePattern: String?
  let startNanoseconds: UInt64
  var stage = Stage.waiting
  var status: Int?
  var responseBytes = 0
  var isClosing = false
  private var connection: Connection?  // until the exchange is over
  private var isDisconnectTold = false

  init(
    loop: EventLoop, connection: Connection, request: HTTPRequest, head: RequestHead, routePattern: String?, startNanoseconds: UInt64
  ) {
    self.loop = loop
    self.connection = connection
    self.request = request
    self.head = head
    self.routePattern = routePattern
    self.startNanoseconds = startNanoseconds
  }

  /// Called at most once: the client went away (or read too slowly) before the answer was complete. Set too late, it is
  /// called at once.
  package var onDisconnect: (() -> Void)? {
    didSet {
      loop.assertCurrent()
      tellDisconnect()
      // Nothing will come any more: do not keep what the closure holds.
      if stage == .ended || isDisconnectTold { onDisconnect = nil }
    }
  }

  /// Whether the client has gone before the answer was complete.
  package var isDisconnected: Bool { stage == .disconnected }

  /// The whole answer. A second answer to one request is ignored, as is any after a disconnect.
  package func respond(_ response: HTTPResponse) {
    loop.assertCurrent()
    guard stage == .waiting else { return }
    connection?.respond(response, to: self)
  }

  package func startStream(status: Int, headers: [(String, String)]) {
    loop.assertCurrent()
    guard stage == .waiting else { return }
    connection?.startStream(status: status, headers: headers, of: self)
  }

  /// One chunk; sent at the end of the loop's turn, together with all others of the turn.
  package func write(_ bytes: [UInt8]) {
    loop.assertCurrent()
    guard stage == .streaming, !bytes.isEmpty else { return }
    connection?.write(bytes, of: self)
  }

  package func end() {
    loop.assertCurrent()
    guard stage == .streaming else { return }
    connection?.endStream(of: self)
  }

  func finished() {
    stage = .ended
    connection = nil
    onDisconnect = nil
  }

  func disconnected() {
    stage = .disconnected
    connection = nil
    tellDisconnect()
  }

  private func tellDisconnect() {
    guard stage == .disconnected, !isDisconnectTold, let onDisconnect else { return }
    isDisconnectTold = true
    onDisconnect()
    self.onDisconnect = nil  // it may hold what it has to cancel
  }
}
