// One completion request from submission to the last byte: tells the engine what to run, turns its tokens into text, and writes a
// stream or one answer. Everything happens on the request's event loop. Knows no scheduler and no weights.

import HTTP

/// Confined to `exchange.loop`.
package final class Generation: @unchecked Sendable {
  private struct Choice {
    var text: ChoiceText
    var answer = FinishedChoice()
    /// Not sent yet: the echoed prompt goes out with the first text.
    var echo: [UInt8] = []
    var isFinished = false
  }

  private let exchange: Exchange
  private let share: BodyBudget.Share
  private let plan: CompletionPlan
  private let engine: EngineLoop
  private let ticket = Ticket.next()
  private let answer: CompletionText
  private var choices: [Choice]
  private var openCount: Int
  private var usage = Usage()
  private var hasStarted = false

  /// On the exchange's loop.
  package init(_ exchange: Exchange, _ share: BodyBudget.Share, _ plan: CompletionPlan, engine: EngineLoop) {
    self.exchange = exchange
    self.share = share
    self.plan = plan
    self.engine = engine
    let request = plan.request
    answer = CompletionText(
      id: Self.newID(), model: plan.model.name, createdUnixSeconds: Clock.unixSeconds(), includesUsage: request.includeUsage,
      wantsLogProbabilities: request.logProbabilities != nil)
    choices = plan.sequences.indices.map { index in
      let echo = plan.echoes.isEmpty ? [] : plan.echoes[index / request.choicesPerPrompt]
      let scalars = echo.count { $0 & 0xC0 != 0x80 }
      return Choice(
        text: ChoiceText(model: plan.model, sampling: request.sampling, tokensAsIDs: request.tokensAsIDs, scalarOffset: scalars), echo: echo
      )
    }
    openCount = choices.count
    usage.promptTokens = plan.promptTokenCount
  }

  /// Hands the sequences to the engine. From here on the exchange belongs to this object.
  package func submit(arrivalNanoseconds: UInt64) {
    guard !exchange.isDisconnected else { return }
    engine.submit(
      Submission(
        ticket: ticket, sequences: plan.sequences, choicesPerPrompt: plan.request.choicesPerPrompt, arrivalNanoseconds: arrivalNanoseconds,
        loop: exchange.loop, receiver: { [self] event in receive(event) }))
    exchange.onDisconnect = { [engine, ticket] in engine.cancel(ticket, .disconnected) }
  }

  private func receive(_ event: GenerationEvent) {
    switch event {
    case .refused(let error): refuse(error)
    case .token(let index, let token): receive(token, choice: index)
    }
  }

  private func receive(_ event: TokenEvent, choice index: Int) {
    // After a stop string tokens may still be on their way.
    guard !exchange.isDisconnected, choices.indices.contains(index), !choices[index].isFinished else { return }
    usage.completionTokens += 1
    if event.generatedCount == 1, index % plan.request.choicesPerPrompt == 0 { usage.cachedPromptTokens += event.cachedPromptTokens }
    var delta = choices[index].text.append(event)
    if delta.isStopString, event.finish == nil { engine.finish(ticket, choice: index) }
    if !choices[index].echo.isEmpty {
      delta.text = choices[index].echo + delta.text
      choices[index].echo = []
    }
    if delta.finish != nil {
      choices[index].isFinished = true
      openCount -= 1
    }
    if plan.request.stream { write(delta, choice: index) } else { collect(delta, choice: index) }
  }

  // MARK: - A stream

  private func write(_ delta: TextDelta, choice index: Int) {
    startStream()
    // One event per token, as vLLM: a token in the middle of a character or of a possible stop string gives an empty text. Clients
    // that measure the time between tokens count events.
    exchange.write(
      SSE.data(answer.chunk(choice: index, text: delta.text, logProbabilities: delta.logProbabilities, finish: delta.finish)))
    guard openCount == 0 else { return }
    if plan.request.includeUsage { exchange.write(SSE.data(answer.usageChunk(usage))) }
    exchange.write(Self.done)
    exchange.end()
  }

  private func startStream() {
    guard !hasStarted else { return }
    hasStarted = true
    exchange.startStream(
      status: 200,
      headers: [
        ("Content-Type", "text/event-stream; charset=utf-8"), ("Cache-Control", "no-cache"),
        ("X-Accel-Buffering", "no"),  // nginx would collect the stream otherwise
      ])
  }

  private static let done = SSE.data(Array("[DONE]".utf8))

  // MARK: - One answer

  private func collect(_ delta: TextDelta, choice index: Int) {
    choices[index].answer.text += delta.text
    choices[index].answer.logProbabilities += delta.logProbabilities
    choices[index].answer.finish = delta.finish
    guard openCount == 0 else { return }
    exchange.respond(.bytes(200, answer.body(choices.map(\.answer), usage), contentType: "application/json"))
  }

  /// Before the first token a plain error; in a running stream an error event, as vLLM and OpenAI send it, and the end of the stream
  /// without `[DONE]`.
  private func refuse(_ error: APIError) {
    guard hasStarted else { return exchange.respond(HTTPResponse(error)) }
    exchange.write(SSE.data(Array(error.body.dropLast())))
    exchange.end()
  }

  private static func newID() -> String {
    let digits = Array("0123456789abcdefghijklmnopqrstuvwxyz".utf8)
    let random = (0..<24).map { _ in digits[Int.random(in: 0..<digits.count)] }
    return "cmpl-" + String(decoding: random, as: UTF8.self)
  }
}

extension HTTPResponse {
  package init(_ error: APIError) { self.init(status: error.status, headers: error.headers, body: error.body) }
}
