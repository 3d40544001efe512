// What the server is told at its start, what it tells back (observer), and its errors. Knows no config file.

package struct TLSFiles: Sendable, Equatable {
  /// PEM, the chain after the certificate.
  package var certificatePath: String
  package var keyPath: String

  package init(certificatePath: String, keyPath: String) {
    self.certificatePath = certificatePath
    self.keyPath = keyPath
  }
}

package struct ServerConfiguration: Sendable {
  /// "0.0.0.0", "::" (both families), "localhost" (both loopback addresses), a name or an address.
  package var host = "127.0.0.1"
  /// 0: any free port.
  package var port = 0
  package var loopCount = 2
  package var backlog = 1024
  /// More clients wait in the kernel's backlog.
  package var maxConnections = 4096
  package var maxHeadBytes = 16_384
  /// Part of the head; longer targets get 414.
  package var maxTargetBytes = 8_192
  package var maxHeaderFields = 100
  package var maxBodyBytes = 8_388_608
  /// Request bodies of all connections together, before their handlers have them; beyond it uploads get 503, so that
  /// many clients at once cannot exhaust the memory.
  package var maxBufferedBodyBytes = 268_435_456
  /// From the first byte of a head (from the accept for the first one) to its end.
  package var headTimeoutMilliseconds = 10_000
  /// From the end of the head to the end of the body.
  package var bodyTimeoutMilliseconds = 60_000
  /// Between two requests.
  package var idleTimeoutMilliseconds = 75_000
  /// For each 64 KiB of output (or what is left) that a client takes.
  package var writeTimeoutMilliseconds = 30_000
  /// After a protocol error the rest of the request is read and dropped for so long, so that the answer is not lost.
  package var lingerTimeoutMilliseconds = 2_000
  /// The slow reader of a stream is disconnected beyond this.
  package var maxPendingOutputBytes = 1_048_576
  /// Requests parsed ahead of the one that is being answered.
  package var maxPipelinedRequests = 16
  /// Answers from this size on are compressed when the client takes gzip; 0 switches gzip off.
  package var gzipMinimumBytes = 1_024
  package var tls: TLSFiles?

  package init() {}

  var parserLimits: ParserLimits {
    var limits = ParserLimits()
    limits.maxHeadBytes = maxHeadBytes
    limits.maxTargetBytes = maxTargetBytes
    limits.maxHeaderFields = maxHeaderFields
    limits.maxBodyBytes = maxBodyBytes
    return limits
  }
}

/// One finished exchange (or one refused request: then `method` is empty).
package struct RequestRecord: Sendable {
  package var method: String
  /// The route as it was added; nil when no route matched.
  package var routePattern: String?
  /// 499 when the client left before an answer started.
  package var status: Int
  package var requestBytes: Int
  package var responseBytes: Int
  package var durationNanoseconds: UInt64
  /// The client left (or was too slow) before the answer was complete.
  package var isDisconnected: Bool
}

/// Called on the loops.
package struct ServerObserver: Sendable {
  package var connectionOpened: @Sendable () -> Void
  package var connectionClosed: @Sendable () -> Void
  package var requestFinished: @Sendable (RequestRecord) -> Void

  package init(
    connectionOpened: @escaping @Sendable () -> Void = {}, connectionClosed: @escaping @Sendable () -> Void = {},
    requestFinished: @escaping @Sendable (RequestRecord) -> Void = { _ in }
  ) {
    self.connectionOpened = connectionOpened
    self.connectionClosed = connectionClosed
    self.requestFinished = requestFinished
  }
}

package enum ServerError: Error, Equatable, Sendable, CustomStringConvertible {
  case addressInUse(host: String, port: Int)
  case permissionDenied(host: String, port: Int)
  case badAddress(host: String, reason: String)
  case tls(String)
  case system(call: String, errno: Int32)
  case alreadyStarted

  package var description: String {
    switch self {
    case .addressInUse(let host, let port): "address \(host) port \(port) is in use by another process"
    case .permissionDenied(let host, let port): "no permission to listen on \(host) port \(port)"
    case .badAddress(let host, let reason): "cannot listen on \"\(host)\": \(reason)"
    case .tls(let reason): reason
    case .system(let call, let code): "\(call) failed: \(Socket.describe(code))"
    case .alreadyStarted: "the server was started before"
    }
  }
}
