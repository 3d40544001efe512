// Bytes of response heads and chunks (RFC 9112 sections 4, 6 and 7). Pure: appends to a buffer, knows no connection.

/// How the end of the answer is told.
package enum ResponseFraming: Equatable, Sendable {
  case length(Int)
  case chunked
  /// HTTP/1.0 streams: the end of the connection.
  case untilClose
  /// 204 and 304: no body at all.
  case none
}

package enum ResponseWriter {
  package static let continueHead = Array("HTTP/1.1 100 Continue\r\n\r\n".utf8)
  package static let lastChunk = Array("0\r\n\r\n".utf8)

  /// Fields the server sets itself; a handler's own are left out.
  private static func isReserved(_ name: String) -> Bool {
    let name = name.utf8
    return ASCII.isEqual(name, lowercased: "content-length") || ASCII.isEqual(name, lowercased: "transfer-encoding")
      || ASCII.isEqual(name, lowercased: "connection") || ASCII.isEqual(name, lowercased: "date")
      || ASCII.isEqual(name, lowercased: "server")
      || ASCII.isEqual(name, lowercased: "keep-alive")
  }

  /// Whether every field may be sent as it is: a CR or LF in a value would let its author write fields, or a whole
  /// second answer (response splitting).
  package static func areValid(_ headers: [(String, String)]) -> Bool { headers.allSatisfy { isValid($0.0, $0.1) } }

  private static func isValid(_ name: String, _ value: String) -> Bool {
    !name.isEmpty && name.utf8.allSatisfy(ASCII.isToken) && value.utf8.allSatisfy(ASCII.isFieldValue)
  }

  /// Whether the handler asks for the connection to end after this answer.
  static func asksClose(_ headers: [(String, String)]) -> Bool {
    headers.contains { ASCII.isEqual($0.0.utf8, lowercased: "connection") && ASCII.isEqual($0.1.utf8, lowercased: "close") }
  }

  /// `connection` is the value of the Connection field, if one is to be sent. Invalid fields are left out.
  package static func appendHead(
    to output: inout [UInt8], status: Int, headers: [(String, String)], framing: ResponseFraming, connection: StaticString?, date: [UInt8]
  ) {
    output.append(contentsOf: "HTTP/1.1 ".utf8)
    output.append(contentsOf: String(status).utf8)
    output.append(UInt8(ascii: " "))
    output.append(contentsOf: reason(status).utf8)
    output.append(contentsOf: "\r\nServer: quire\r\nDate: ".utf8)
    output.append(contentsOf: date)
    for (name, value) in headers where !isReserved(name) && isValid(name, value) { append(name, value, to: &output) }
    switch framing {
    case .length(let count): append("Content-Length", String(count), to: &output)
    case .chunked: append("Transfer-Encoding", "chunked", to: &output)
    case .untilClose, .none: break
    }
    if let connection { append("Connection", connection.description, to: &output) }
    output.append(contentsOf: "\r\n\r\n".utf8)
  }

  /// `bytes` must not be empty: an empty chunk ends the body.
  package static func appendChunk(_ bytes: [UInt8], to output: inout [UInt8]) {
    output.append(contentsOf: String(bytes.count, radix: 16).utf8)
    output.append(contentsOf: "\r\n".utf8)
    output.append(contentsOf: bytes)
    output.append(contentsOf: "\r\n".utf8)
  }

  private static func append(_ name: String, _ value: String, to output: inout [UInt8]) {
    output.append(contentsOf: "\r\n".utf8)
    output.append(contentsOf: name.utf8)
    output.append(contentsOf: ": ".utf8)
    output.append(contentsOf: value.utf8)
  }

  private static func reason(_ status: Int) -> String {
    switch status {
    case 200: "OK"
    case 201: "Created"
    case 202: "Accepted"
    case 204: "No Content"
    case 304: "Not Modified"
    case 400: "Bad Request"
    case 401: "Unauthorized"
    case 403: "Forbidden"
    case 404: "Not Found"
    case 405: "Method Not Allowed"
    case 408: "Request Timeout"
    case 409: "Conflict"
    case 411: "Length Required"
    case 413: "Content Too Large"
    case 414: "URI Too Long"
    case 415: "Unsupported Media Type"
    case 417: "Expectation Failed"
    case 422: "Unprocessable Content"
    case 429: "Too Many Requests"
    case 431: "Request Header Fields Too Large"
    case 500: "Internal Server Error"
    case 501: "Not Implemented"
    case 503: "Service Unavailable"
    case 505: "HTTP Version Not Supported"
    default: "Status"
    }
  }
}
