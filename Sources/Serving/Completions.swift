// POST /v1/completions: checks that cost nothing on the event loop, JSON and tokenisation on the prepare queue, then back to the loop,
// where a Generation takes over. Knows neither JSON nor tokens itself.

import HTTP

extension Service {
  func completions(_ exchange: Exchange) {
    let arrival = Clock.nanoseconds()
    do throws(APIError) {
      let cacheSalt = try authorize(exchange)
      let ready = try ready()
      try Self.checkContentType(exchange.request)
      guard let share = bodies.take(byteCount: exchange.request.body.count) else { throw .tooManyBodies }
      let isTaken = prepare.submit { [self] in
        prepareCompletion(exchange, share, ready, cacheSalt: cacheSalt, arrivalNanoseconds: arrival)
      }
      guard isTaken else { throw .queueFull(limit: settings.maxPreparingRequests) }
    } catch { refuse(exchange, error) }
  }

  /// On the prepare queue.
  private func prepareCompletion(
    _ exchange: Exchange, _ share: BodyBudget.Share, _ ready: Ready, cacheSalt: UInt64, arrivalNanoseconds: UInt64
  ) {
    let result: Result<CompletionPlan, APIError>
    do throws(APIError) {
      let request = try CompletionRequest.decode(exchange.request.body)
      result = .success(
        try CompletionPlan(request, model: ready.model, maxChoices: settings.maxChoicesPerRequest, cacheSalt: cacheSalt))
    } catch { result = .failure(error) }
    exchange.loop.post { [self] in
      switch result {
      case .failure(let error): refuse(exchange, error)
      case .success(let plan):
        metrics.recordParameters(maxTokens: plan.sequences.first?.maxNewTokens ?? 0, choices: plan.request.choicesPerPrompt)
        Generation(exchange, share, plan, engine: ready.engine).submit(arrivalNanoseconds: arrivalNanoseconds)
      }
    }
  }

  /// A web page in some browser can post text/plain anywhere without asking; JSON it cannot. So a declared type must be JSON.
  static func checkContentType(_ request: HTTPRequest) throws(APIError) {
    guard let type = request.headers["content-type"] else { return }
    let essence = type.prefix { $0 != ";" }.lowercased().filter { $0 != " " && $0 != "\t" }
    guard essence == "application/json" || essence.hasSuffix("+json") else {
      throw .protocolError(status: 415, message: "The body must be JSON: send `Content-Type: application/json`.")
    }
  }
}
