// Everything a client can be told to be wrong, in OpenAI's error shape. The one place where errors of the other modules become
// HTTP statuses. Knows no sockets; the body is rendered here, the router and the handlers send it.

import Scheduler

/// An answer that is an error: `{"error":{"message","type","param","code"}}` with its status.
package struct APIError: Error, Equatable, Sendable {
  package var status: Int
  package var message: String
  package var type: String
  package var param: String?
  package var code: String?
  package var retryAfterSeconds: Int?
  /// Why a request was turned away, for `quire_requests_rejected_total{reason}`.
  package var rejection: String

  package init(
    status: Int, message: String, type: String, param: String? = nil, code: String? = nil, retryAfterSeconds: Int? = nil,
    rejection: String = "invalid"
  ) {
    self.status = status
    self.message = message
    self.type = type
    self.param = param
    self.code = code
    self.retryAfterSeconds = retryAfterSeconds
    self.rejection = rejection
  }

  /// A parameter that cannot be served as it is.
  package static func invalid(_ param: String?, _ message: String, code: String? = nil) -> APIError {
    APIError(status: 400, message: message, type: "invalid_request_error", param: param, code: code)
  }

  /// A known parameter whose effect is not built yet; refused, because ignoring it would give another answer than asked for.
  package static func unsupported(_ param: String, _ detail: String = "") -> APIError {
    invalid(param, "`\(param)` is not supported yet\(detail).", code: "unsupported_parameter")
  }

  package static func contextLengthExceeded(tokens: Int, limit: Int, param: String = "prompt") -> APIError {
    APIError(
      status: 400,
      message: "This server's context holds \(limit) tokens, but \(tokens) were asked for (prompt and generated tokens together).",
      type: "invalid_request_error", param: param, code: "context_length_exceeded", rejection: "too_long")
  }

  package static func modelNotFound(_ name: String) -> APIError {
    APIError(
      status: 404, message: "The model `\(name)` does not exist here; GET /v1/models lists what is served.",
      type: "invalid_request_error", param: "model", code: "model_not_found", rejection: "model_not_found")
  }

  package static let unauthorized = APIError(
    status: 401, message: "A valid API key is needed: send `Authorization: Bearer KEY`.", type: "invalid_request_error",
    code: "invalid_api_key", rejection: "unauthorized")

  package static func queueFull(limit: Int) -> APIError {
    APIError(
      status: 429, message: "As many requests wait as this server lets wait (\(limit)); try again later.",
      type: "rate_limit_error", code: "queue_full", retryAfterSeconds: 1, rejection: "queue_full")
  }

  package static let tooManyBodies = APIError(
    status: 429, message: "Too many large requests are waiting; try again later.", type: "rate_limit_error", code: "queue_full",
    retryAfterSeconds: 1, rejection: "bodies_full")

  package static let loading = APIError(
    status: 503, message: "The model is still being loaded; try again later.", type: "service_unavailable", code: "loading",
    retryAfterSeconds: 2, rejection: "loading")

  package static let draining = APIError(
    status: 503, message: "The server is shutting down and takes no new requests.", type: "service_unavailable", code: "draining",
    retryAfterSeconds: 5, rejection: "draining")

  /// A protocol error of the HTTP layer: bad request line, unknown path, too large a body and so on.
  package static func protocolError(status: Int, message: String) -> APIError {
    let code: String? =
      switch status {
      case 404: "not_found"
      case 405: "method_not_allowed"
      case 408: "request_timeout"
      case 413: "body_too_large"
      case 415: "unsupported_media_type"
      default: nil
      }
    let type = status >= 500 ? "server_error" : "invalid_request_error"
    return APIError(status: status, message: message, type: type, code: code, rejection: "protocol")
  }

  /// What the scheduler refuses, as the client sees it.
  package init(_ error: SchedulerError) {
    switch error {
    case .queueFull(let limit): self = .queueFull(limit: limit)
    case .emptyPrompt: self = .invalid("prompt", "`prompt` must hold at least one token.")
    case .promptTooLong(let tokens, let limit): self = .contextLengthExceeded(tokens: tokens, limit: limit)
    case .poolTooSmall(let needed, let available): self = .contextLengthExceeded(tokens: needed, limit: available)
    }
  }

  /// Header fields that belong to the status.
  package var headers: [(String, String)] {
    var fields = [("Content-Type", "application/json")]
    if let retryAfterSeconds { fields.append(("Retry-After", String(retryAfterSeconds))) }
    if status == 401 { fields.append(("WWW-Authenticate", "Bearer realm=\"quire\"")) }
    return fields
  }

  package var body: [UInt8] {
    var text = JSONText()
    text.raw("{\"error\":{\"message\":")
    text.string(message)
    text.raw(",\"type\":")
    text.string(type)
    text.raw(",\"param\":")
    text.optionalString(param)
    text.raw(",\"code\":")
    text.optionalString(code)
    text.raw("}}\n")
    return text.bytes
  }
}
