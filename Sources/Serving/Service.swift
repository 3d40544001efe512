// The server as a whole: settings, HTTP server, model and engine thread, and the states loading -> ready -> draining.
// `quire serve` makes one, starts it, loads a model, installs it, and drains it on SIGTERM. Knows no command line.

import Dispatch
import HTTP
import Logging

package final class Service: Sendable {
  package enum Phase: String, Sendable { case loading, ready, draining }

  /// What a request needs once a model is there.
  struct Ready: Sendable {
    let model: ServedModel
    let engine: EngineLoop
  }

  private struct State: Sendable {
    var phase = Phase.loading
    var ready: Ready?
  }

  package let settings: ServerSettings
  package let metrics: Metrics
  let apiKeys: APIKeys
  let prepare: PrepareQueue
  let bodies: BodyBudget
  let logger: Logger
  private let state = Locked(State())
  private let server = Locked<Server?>(nil)

  /// Reads the API keys; binds nothing yet.
  package init(settings: ServerSettings, version: String, logger: Logger) throws(SettingsError) {
    try settings.checkTogether()
    self.settings = settings
    self.logger = logger
    apiKeys = if let path = settings.apiKeyFile { try APIKeys(file: path) } else { .none }
    metrics = Metrics(version: version, modelName: settings.modelName ?? "")
    bodies = BodyBudget(limitBytes: settings.maxBufferedBodyBytes)
    prepare = PrepareQueue(width: settings.prepareThreads, limit: settings.maxPreparingRequests)
  }

  /// Binds and answers from now on; completions get 503 until a model is installed.
  package func start() throws(ServerError) {
    let server = Server(
      configuration: settings.httpConfiguration, router: router(),
      errorBody: { [metrics] status, message in
        metrics.recordRejection("protocol")
        return HTTPResponse(.protocolError(status: status, message: message))
      }, observer: observer())
    try server.start()
    self.server.withLock { $0 = server }
  }

  /// The port bound; 0 before `start`.
  package var port: Int { server.withLock { $0?.port } ?? 0 }

  /// Starts the engine's thread: /ready says 200 from now on. Once.
  package func install(_ loaded: sending LoadedModel, beforeStep: (@Sendable () -> Void)? = nil) {
    let model = loaded.served
    metrics.install(loaded.info)
    for warning in loaded.transformer.warnings { logger.warning("\(warning)") }
    let engine = EngineLoop(
      core: loaded.makeCore(), metrics: metrics, beforeStep: beforeStep, onWarning: { [logger] in logger.warning("\($0)") },
      onFailure: { [logger] in logger.error("\($0)") })
    state.withLock { state in
      state.ready = Ready(model: model, engine: engine)
      if state.phase == .loading { state.phase = .ready }
    }
  }

  package var phase: Phase { state.withLock { $0.phase } }

  /// The model and its engine, or why there is none to ask.
  func ready() throws(APIError) -> Ready {
    let state = state.withLock { $0 }
    if state.phase == .draining { throw .draining }
    guard let ready = state.ready else { throw .loading }
    return ready
  }

  /// Running requests finish, new ones get 503; then everything is stopped and `completion` is called, on some thread. The settings'
  /// deadline ends what has not finished.
  package func drain(completion: @escaping @Sendable () -> Void) {
    state.withLock { $0.phase = .draining }
    let end: @Sendable () -> Void = { [self] in
      // Not on a loop: stopping waits for the loops and the engine's thread.
      DispatchQueue.global().async { [self] in
        stop()
        completion()
      }
    }
    guard let server = server.withLock({ $0 }) else { return end() }
    server.drain(deadlineMilliseconds: settings.drainTimeoutMilliseconds, completion: end)
  }

  /// Ends everything at once. Not on a loop.
  package func stop() {
    state.withLock { $0.phase = .draining }
    let engine = state.withLock { $0.ready?.engine }
    engine?.stop()
    server.withLock { $0 }?.stop()
  }

  /// A line per request at debug level; never anything that a client wrote but its method and route.
  private func observer() -> ServerObserver {
    var observer = metrics.observer
    let count = observer.requestFinished
    let logger = logger
    observer.requestFinished = { record in
      count(record)
      logger.debug(
        "\(record.method.isEmpty ? "-" : record.method) \(record.routePattern ?? "-") \(record.status)",
        metadata: [
          "ms": "\(record.durationNanoseconds / 1_000_000)", "in": "\(record.requestBytes)", "out": "\(record.responseBytes)",
          "disconnected": "\(record.isDisconnected)",
        ])
    }
    return observer
  }
}

extension ServerSettings {
  var httpConfiguration: ServerConfiguration {
    var configuration = ServerConfiguration()
    configuration.host = host
    configuration.port = port
    configuration.loopCount = ioLoops
    configuration.backlog = listenBacklog
    configuration.maxConnections = maxConnections
    configuration.maxHeadBytes = maxHeadBytes
    configuration.maxTargetBytes = min(configuration.maxTargetBytes, maxHeadBytes)
    configuration.maxHeaderFields = maxHeaderFields
    configuration.maxBodyBytes = maxBodyBytes
    configuration.maxBufferedBodyBytes = maxBufferedBodyBytes
    configuration.maxPipelinedRequests = maxPipelinedRequests
    configuration.maxPendingOutputBytes = maxPendingOutputBytes
    configuration.gzipMinimumBytes = gzipMinimumBytes
    configuration.headTimeoutMilliseconds = headTimeoutMilliseconds
    configuration.bodyTimeoutMilliseconds = bodyTimeoutMilliseconds
    configuration.idleTimeoutMilliseconds = idleTimeoutMilliseconds
    configuration.writeTimeoutMilliseconds = writeTimeoutMilliseconds
    if let tlsCertificate, let tlsKey { configuration.tls = TLSFiles(certificatePath: tlsCertificate, keyPath: tlsKey) }
    return configuration
  }
}
