// A whole answer, as handlers give it. Knows no framing and no connection.

package struct HTTPResponse: Sendable {
  package var status: Int
  package var headers: [(String, String)]
  package var body: [UInt8]

  package init(status: Int, headers: [(String, String)] = [], body: [UInt8] = []) {
    self.status = status
    self.headers = headers
    self.body = body
  }

  package static func text(_ status: Int, _ text: String, contentType: String = "text/plain; charset=utf-8") -> HTTPResponse {
    bytes(status, Array(text.utf8), contentType: contentType)
  }

  package static func bytes(_ status: Int, _ body: [UInt8], contentType: String) -> HTTPResponse {
    HTTPResponse(status: status, headers: [("Content-Type", contentType)], body: body)
  }
}
