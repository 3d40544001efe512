// The HTTP server: listeners, loops, drain and stop. The facade of this target; knows no JSON and no models.

import CNet
import Dispatch
import Synchronization

package final class Server: Sendable {
  private let configuration: ServerConfiguration
  private let router: Router
  private let errorBody: @Sendable (Int, String) -> HTTPResponse
  private let observer: ServerObserver?
  private let running = Locked<Running?>(nil)
  private let loopGroup = DispatchGroup()

  private struct Running {
    let core: ServerCore
    let port: Int
  }

  /// `errorBody` renders every protocol error, 404 and 405 (status, message); it must not fail.
  package init(
    configuration: ServerConfiguration, router: Router, errorBody: @escaping @Sendable (_ status: Int, _ message: String) -> HTTPResponse,
    observer: ServerObserver? = nil
  ) {
    self.configuration = configuration
    self.router = router
    self.errorBody = errorBody
    self.observer = observer
  }

  /// Binds, listens and returns; requests are handled on the loops from now on.
  package func start() throws(ServerError) {
    guard running.withLock({ $0 == nil }) else { throw .alreadyStarted }
    let tls: TLSContext? = if let files = configuration.tls { try TLSContext(files) } else { nil }
    var loops: [EventLoop] = []
    for index in 0..<max(1, configuration.loopCount) { loops.append(try EventLoop(index: index)) }
    let (descriptors, port) = try Socket.listen(host: configuration.host, port: configuration.port, backlog: configuration.backlog)
    let core = ServerCore(
      configuration: configuration, router: router, errorBody: errorBody, observer: observer, tls: tls, loops: loops)
    running.withLock { $0 = Running(core: core, port: port) }
    for loop in loops { loop.start(group: loopGroup) }
    loops.first?.post { core.openListeners(descriptors) }
  }

  /// The port bound; 0 before `start`.
  package var port: Int { running.withLock { $0?.port } ?? 0 }

  package var loops: [EventLoop] { running.withLock { $0?.core.loops } ?? [] }

  package var connectionCount: Int { running.withLock { $0?.core.connectionCount } ?? 0 }

  /// Request bodies held for requests that are not complete or not begun.
  package var bufferedBodyBytes: Int { running.withLock { $0?.core.bufferedBodyBytes.load(ordering: .relaxed) } ?? 0 }

  /// `completion` is called once, on a loop: all connections are closed, by themselves or by the deadline.
  package func drain(deadlineMilliseconds: Int, completion: @escaping @Sendable () -> Void) {
    guard let core = running.withLock({ $0?.core }) else { return completion() }
    core.drain(deadlineMilliseconds: deadlineMilliseconds, completion: completion)
  }

  /// Closes everything at once and, unless called on a loop, waits until the loops have ended.
  package func stop() {
    guard let core = running.withLock({ $0?.core }) else { return }
    let loops = core.loops
    loops.first?.post { core.closeListeners() }
    for loop in loops { loop.stop() }
    if !loops.contains(where: \.isCurrent) { loopGroup.wait() }
  }
}

extension ServerConfiguration {
  func timeoutMilliseconds(of kind: DeadlineKind) -> Int {
    switch kind {
    case .head: headTimeoutMilliseconds
    case .body: bodyTimeoutMilliseconds
    case .idle: idleTimeoutMilliseconds
    case .write: writeTimeoutMilliseconds
    case .linger: lingerTimeoutMilliseconds
    }
  }
}
