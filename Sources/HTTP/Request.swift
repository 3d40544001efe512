// A request as handlers see it, and its head as the parser yields it. Knows no sockets and no routes.

package struct HTTPRequest: Sendable {
  package let method: String
  /// Percent-decoded, always starts with "/" ("*" for a server-wide OPTIONS).
  package let path: String
  /// As sent, without "?" and not decoded.
  package let query: String?
  package let headers: HeaderFields
  package let body: [UInt8]
  /// Numeric, without port.
  package let remoteAddress: String
  package let pathParameters: [String: String]

  package init(
    method: String, path: String, query: String? = nil, headers: HeaderFields = HeaderFields(), body: [UInt8] = [],
    remoteAddress: String = "", pathParameters: [String: String] = [:]
  ) {
    self.method = method
    self.path = path
    self.query = query
    self.headers = headers
    self.body = body
    self.remoteAddress = remoteAddress
    self.pathParameters = pathParameters
  }
}

/// A protocol error, answered through `errorBody`; the connection ends after it.
package struct Rejection: Error, Equatable, Sendable {
  package let status: Int
  package let message: String

  package init(_ status: Int, _ message: String) {
    self.status = status
    self.message = message
  }
}

/// How the length of a request's body is told (RFC 9112 section 6).
package enum BodyFraming: Equatable, Sendable {
  case none
  case length(Int)
  case chunked
}

/// Everything the head of a request says, checked.
package struct RequestHead: Equatable, Sendable {
  package var method: String
  package var target: RequestTarget
  /// 0 or 1: HTTP/1.0 or HTTP/1.1 (a higher minor version counts as 1).
  package var minorVersion: Int
  package var headers: HeaderFields
  package var framing: BodyFraming
  package var isKeepAlive: Bool
  package var expectsContinue: Bool
  /// Bytes of the head on the wire.
  package var byteCount: Int
}
