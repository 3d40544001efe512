// Everything that can go wrong between a load client and a server. Knows no command line.

/// `description` is one line; text that came from the server is cut.
package enum LoadClientError: Error, Equatable, Sendable, CustomStringConvertible {
  case badURL(String, requirement: String)
  case unknownHost(String, reason: String)
  case cannotConnect(host: String, port: Int, reason: String)
  /// A system call on a connected socket.
  case socket(call: String, reason: String)
  case closedEarly
  /// The server is not speaking HTTP/1.1 as RFC 9112 has it, or beyond this client's limits.
  case protocolViolation(String)
  case status(Int, body: String)
  /// An error event in a running stream.
  case streamError(String)
  case badEvent(String)
  case notDone
  case noTokens
  case noModel

  package var description: String {
    switch self {
    case .badURL(let url, let requirement): "\(url): \(requirement)"
    case .unknownHost(let host, let reason): "host \(host): \(reason)"
    case .cannotConnect(let host, let port, let reason): "cannot connect to \(host) port \(port): \(reason)"
    case .socket(let call, let reason): "\(call): \(reason)"
    case .closedEarly: "the server closed the connection before the end of its answer"
    case .protocolViolation(let what): "the server's answer is not HTTP/1.1 as expected: \(what)"
    case .status(let status, let body): "status \(status): \(Self.excerpt(body))"
    case .streamError(let body): "error in the stream: \(Self.excerpt(body))"
    case .badEvent(let payload): "an event of the stream is no JSON of a completion: \(Self.excerpt(payload))"
    case .notDone: "the stream ended without [DONE]"
    case .noTokens: "the stream held no token"
    case .noModel: "GET /v1/models names no model"
    }
  }

  private static let excerptScalars = 300

  private static func excerpt(_ text: String) -> String {
    let line = text.split(whereSeparator: \.isNewline).joined(separator: " ")
    return line.unicodeScalars.count > excerptScalars ? String(line.unicodeScalars.prefix(excerptScalars)) + "..." : line
  }
}
