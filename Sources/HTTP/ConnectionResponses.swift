// A connection's answers: from an exchange's calls to bytes in the output, with the framing that the client's
// version and method ask for. Confined to the loop like the rest of Connection.

import CNet

extension Connection {
  func begin(_ parsed: ParsedRequest) {
    let match = core.router.match(method: parsed.head.method, target: parsed.head.target)
    var parameters: [String: String] = [:]
    var pattern: String?
    if case .handler(_, let found, let values) = match { (pattern, parameters) = (found, values) }
    if case .methodNotAllowed(_, let found) = match { pattern = found }
    if case .options(_, let found) = match { pattern = found }
    let request = HTTPRequest(
      method: parsed.head.method, path: parsed.head.target.path, query: parsed.head.target.query, headers: parsed.head.headers,
      body: parsed.body, remoteAddress: remoteAddress, pathParameters: parameters)
    let exchange = Exchange(
      loop: loop, connection: self, request: request, head: parsed.head, routePattern: pattern,
      startNanoseconds: cnet_monotonic_nanoseconds())
    self.exchange = exchange
    core.exchangeStarted()
    switch match {
    case .handler(let handler, _, _): handler(exchange)
    case .options(let allow, _): exchange.respond(HTTPResponse(status: 204, headers: [("Allow", allow)]))
    case .methodNotAllowed(let allow, _):
      var response = core.errorBody(405, "the method \(request.method) is not allowed here")
      response.headers.append(("Allow", allow))
      exchange.respond(response)
    case .unknownMethod: exchange.respond(core.errorBody(501, "unknown method"))
    case .notFound: exchange.respond(core.errorBody(404, "there is nothing at \(request.path)"))
    }
  }

  func respond(_ response: HTTPResponse, to exchange: Exchange) {
    guard self.exchange === exchange else { return }
    // A header that could split the answer: nothing of it is sent.
    let isValid = (200...599).contains(response.status) && ResponseWriter.areValid(response.headers)
    var response = isValid ? response : core.errorBody(500, "the server made an invalid answer")
    let isBodiless = response.status == 204 || response.status == 304
    if isBodiless { response.body = [] }
    compress(&response, for: exchange)
    let isClosing = !state.leavesOpen || ResponseWriter.asksClose(response.headers)
    appendHead(
      of: exchange, status: response.status, headers: response.headers, framing: isBodiless ? .none : .length(response.body.count),
      isClosing: isClosing)
    if exchange.request.method != "HEAD" { append(response.body, of: exchange) }
    finish(exchange, isClosing: isClosing)
  }

  func startStream(status: Int, headers: [(String, String)], of exchange: Exchange) {
    guard self.exchange === exchange else { return }
    guard (200...599).contains(status), status != 204, status != 304, ResponseWriter.areValid(headers) else {
      return respond(core.errorBody(500, "the server made an invalid answer"), to: exchange)
    }
    let framing: ResponseFraming = exchange.head.minorVersion == 0 ? .untilClose : .chunked
    let isClosing = framing == .untilClose || !state.leavesOpen || ResponseWriter.asksClose(headers)
    exchange.stage = .streaming
    appendHead(of: exchange, status: status, headers: headers, framing: framing, isClosing: isClosing)
  }

  func write(_ bytes: [UInt8], of exchange: Exchange) {
    guard self.exchange === exchange, exchange.request.method != "HEAD" else { return }
    if exchange.head.minorVersion == 0 { return append(bytes, of: exchange) }
    let before = output.count
    ResponseWriter.appendChunk(bytes, to: &output)
    exchange.responseBytes += output.count - before
    wantsFlush()
  }

  func endStream(of exchange: Exchange) {
    guard self.exchange === exchange else { return }
    if exchange.head.minorVersion > 0, exchange.request.method != "HEAD" { append(ResponseWriter.lastChunk, of: exchange) }
    finish(exchange, isClosing: exchange.isClosing || !state.leavesOpen)
  }

  /// A protocol error: there is no exchange. The connection ends after it.
  func reject(_ rejection: Rejection) {
    let response = core.errorBody(rejection.status, rejection.message)
    let before = output.count
    ResponseWriter.appendHead(
      to: &output, status: rejection.status, headers: response.headers, framing: .length(response.body.count), connection: "close",
      date: loop.dates.bytes(wallSeconds: cnet_wall_seconds()))
    output.append(contentsOf: response.body)
    wantsFlush()
    core.observer?.requestFinished(
      RequestRecord(
        method: "", routePattern: nil, status: rejection.status, requestBytes: 0, responseBytes: output.count - before,
        durationNanoseconds: 0, isDisconnected: false))
  }

  private func compress(_ response: inout HTTPResponse, for exchange: Exchange) {
    let minimum = core.configuration.gzipMinimumBytes
    guard minimum > 0, response.body.count >= minimum, response.body.count <= ServerCore.maxGzipBytes,
      !response.headers.contains(where: { ASCII.isEqual($0.0.utf8, lowercased: "content-encoding") })
    else { return }
    response.headers.append(("Vary", "Accept-Encoding"))
    guard Gzip.isAccepted(by: exchange.request.headers.list("accept-encoding")), let compressed = Gzip.compress(response.body) else {
      return
    }
    response.body = compressed
    response.headers.append(("Content-Encoding", "gzip"))
  }

  private func appendHead(of exchange: Exchange, status: Int, headers: [(String, String)], framing: ResponseFraming, isClosing: Bool) {
    let connection: StaticString? = isClosing ? "close" : exchange.head.minorVersion == 0 ? "keep-alive" : nil
    let before = output.count
    ResponseWriter.appendHead(
      to: &output, status: status, headers: headers, framing: framing, connection: connection,
      date: loop.dates.bytes(wallSeconds: cnet_wall_seconds()))
    exchange.status = status
    exchange.isClosing = isClosing
    exchange.responseBytes += output.count - before
    wantsFlush()
  }

  private func append(_ bytes: [UInt8], of exchange: Exchange) {
    output.append(contentsOf: bytes)
    exchange.responseBytes += bytes.count
    wantsFlush()
  }

  private func finish(_ exchange: Exchange, isClosing: Bool) {
    self.exchange = nil
    exchange.finished()
    state.exchangeEnded(isClosing: isClosing)
    core.exchangeFinished(exchange, isDisconnected: false)
    resume()
  }
}
