// Which path is answered by what, who may ask, and the answers that need no engine: models, health, metrics, version.
// Completions are in Completions.swift. Knows no sockets.

import HTTP

extension Service {
  func router() -> Router {
    var router = Router()
    router.add("POST", "/v1/completions") { [self] in completions($0) }
    router.add("GET", "/v1/models") { [self] in answerModels($0) }
    router.add("GET", "/v1/models/{id...}") { [self] in answerModel($0) }
    router.add("GET", "/health") { [self] exchange in exchange.respond(status(200, phase.rawValue)) }
    router.add("GET", "/ready") { [self] in answerReady($0) }
    router.add("GET", "/metrics") { [self] in answerMetrics($0) }
    router.add("GET", "/version") { [self] in answerVersion($0) }
    return router
  }

  /// The salt of the client's API key.
  func authorize(_ exchange: Exchange) throws(APIError) -> UInt64 {
    switch apiKeys.check(exchange.request.headers.values(of: "authorization")) {
    case .allowed(let cacheSalt): return cacheSalt
    case .refused: throw .unauthorized
    }
  }

  func refuse(_ exchange: Exchange, _ error: APIError) {
    metrics.recordRejection(error.rejection)
    exchange.respond(HTTPResponse(error))
  }

  private func answerReady(_ exchange: Exchange) {
    do throws(APIError) {
      _ = try ready()
      exchange.respond(status(200, Phase.ready.rawValue))
    } catch {
      exchange.respond(HTTPResponse(error))
    }
  }

  private func answerMetrics(_ exchange: Exchange) {
    do throws(APIError) {
      if settings.protectMetrics { _ = try authorize(exchange) }
      let body = metrics.render(state: phase.rawValue)
      exchange.respond(.bytes(200, body, contentType: "text/plain; version=0.0.4; charset=utf-8"))
    } catch { refuse(exchange, error) }
  }

  private func answerVersion(_ exchange: Exchange) {
    var text = JSONText()
    text.raw("{\"version\":")
    text.string(metrics.version)
    text.raw("}\n")
    exchange.respond(json(text))
  }

  private func answerModels(_ exchange: Exchange) {
    do throws(APIError) {
      _ = try authorize(exchange)
      var text = JSONText()
      text.raw("{\"object\":\"list\",\"data\":[")
      append(try ready().model, to: &text)
      text.raw("]}\n")
      exchange.respond(json(text))
    } catch { refuse(exchange, error) }
  }

  private func answerModel(_ exchange: Exchange) {
    do throws(APIError) {
      _ = try authorize(exchange)
      let model = try ready().model
      let name = exchange.request.pathParameters["id"] ?? ""
      guard name.utf8.elementsEqual(model.name.utf8) else { throw .modelNotFound(name) }
      var text = JSONText()
      append(model, to: &text)
      text.raw("\n")
      exchange.respond(json(text))
    } catch { refuse(exchange, error) }
  }

  private func append(_ model: ServedModel, to text: inout JSONText) {
    text.raw("{\"id\":")
    text.string(model.name)
    text.raw(",\"object\":\"model\",\"created\":")
    text.integer(model.createdUnixSeconds)
    text.raw(",\"owned_by\":\"quire\",\"root\":")
    text.string(model.name)
    text.raw(",\"parent\":null,\"max_model_len\":")
    text.integer(model.maxContextTokens)
    text.raw("}")
  }

  private func status(_ code: Int, _ status: String) -> HTTPResponse {
    var text = JSONText()
    text.raw("{\"status\":")
    text.string(status)
    text.raw("}\n")
    return .bytes(code, text.bytes, contentType: "application/json")
  }

  private func json(_ text: JSONText) -> HTTPResponse { .bytes(200, text.bytes, contentType: "application/json") }
}
