// The whole server in this process, over real sockets on loopback, with a real small model: answers, streams, limits, hang-ups, drain.

import FoundationEssentials
import Glibc
import Logging
import Testing

@testable import Serving

@Suite("Service over HTTP")
struct ServiceTests {
  private func metric(_ service: Service, _ name: String) throws -> Double {
    let text = try TestClient(service).get("/metrics").text
    return try ParsedMetrics(text).values[name] ?? -1
  }

  private static let vllm = "{engine=\"0\",model_name=\"tiny\"}"

  /// Waits for a state that other threads bring about; how long that takes decides nothing.
  private func waitUntil(_ condition: () throws -> Bool) throws {
    for _ in 0..<3000 {
      if try condition() { return }
      usleep(10_000)
    }
    Issue.record("the condition did not come true")
  }

  @Test("streams and whole answers say the same, with usage, and a repeated prompt comes from the cache")
  func streamAndWhole() throws {
    let service = try TinyModel.service()
    defer { service.stop() }
    let client = try TestClient(service)
    let prompt = (0..<40).map { ($0 * 7) % 300 }
    let body = "\"prompt\": \(prompt), \"max_tokens\": 24, \"temperature\": 0, \"ignore_eos\": true"
    let whole = try client.complete("{\(body)}")
    #expect(whole.status == 200 && whole.headers["content-type"] == "application/json")
    let answer = try whole.completion()
    #expect(answer.object == "text_completion" && answer.model == "tiny" && answer.id.hasPrefix("cmpl-"))
    #expect(answer.choices.count == 1 && answer.choices[0].finish_reason == "length" && answer.choices[0].logprobs == nil)
    #expect(answer.usage?.prompt_tokens == 40 && answer.usage?.completion_tokens == 24 && answer.usage?.total_tokens == 64)
    #expect(answer.usage?.prompt_tokens_details.cached_tokens == 0)

    let stream = try client.complete("{\(body), \"stream\": true, \"stream_options\": {\"include_usage\": true}}")
    #expect(stream.status == 200 && stream.headers["content-type"]?.hasPrefix("text/event-stream") == true)
    #expect(stream.text.hasSuffix("data: [DONE]\n\n") && stream.payloads.last == "[DONE]")
    let chunks = try stream.payloads.dropLast().map { try JSONDecoder().decode(DecodedCompletion.self, from: Data($0.utf8)) }
    let streamed = chunks.dropLast().map { $0.choices[0].text }.joined()
    #expect(Array(streamed.utf8) == Array(answer.choices[0].text.utf8))
    #expect(chunks.dropLast().dropLast().allSatisfy { $0.usage == nil && $0.choices.first?.finish_reason == nil })
    #expect(chunks.dropLast().last?.choices.first?.finish_reason == "length")
    #expect(chunks.last?.choices.isEmpty == true && chunks.last?.usage?.completion_tokens == 24)
    #expect(chunks.last?.usage?.prompt_tokens_details.cached_tokens == 32, "two full blocks of the same prompt")
    #expect(Set(chunks.map(\.id)).count == 1)
  }

  @Test("log-probabilities in the legacy shape, as text and as ids")
  func logProbabilities() throws {
    let service = try TinyModel.service()
    defer { service.stop() }
    let client = try TestClient(service)
    let body = #"{"prompt": [5, 9, 30], "max_tokens": 12, "temperature": 0, "ignore_eos": true, "logprobs": 3"#
    let plain = try client.complete(body + "}").completion()
    let values = try #require(plain.choices.first?.logprobs)
    #expect(
      values.tokens.count == 12 && values.token_logprobs.count == 12 && values.top_logprobs.count == 12 && values.text_offset.count == 12)
    #expect(values.text_offset.first == 0 && zip(values.text_offset, values.text_offset.dropFirst()).allSatisfy { $0 <= $1 })
    #expect(values.top_logprobs.allSatisfy { (1...4).contains($0.count) })
    let ids = try client.complete(body + #", "return_tokens_as_token_ids": true}"#).completion()
    let byID = try #require(ids.choices.first?.logprobs)
    #expect(byID.tokens.allSatisfy { $0.hasPrefix("token_id:") } && byID.token_logprobs == values.token_logprobs)
    for (index, token) in byID.tokens.enumerated() {
      #expect(byID.top_logprobs[index].count == 3 && byID.top_logprobs[index][token] == byID.token_logprobs[index])
      #expect(byID.top_logprobs[index].values.max() == byID.token_logprobs[index], "greedy takes the most probable")
    }
    // A stream carries the same entries, chunk by chunk.
    let stream = try client.complete(body + #", "stream": true}"#)
    let chunks = try stream.payloads.dropLast().map { try JSONDecoder().decode(DecodedCompletion.self, from: Data($0.utf8)) }
    let streamed = chunks.compactMap { $0.choices.first?.logprobs }
    #expect(streamed.flatMap(\.tokens) == values.tokens && streamed.flatMap(\.text_offset) == values.text_offset)
    #expect(streamed.flatMap(\.token_logprobs) == values.token_logprobs)
  }

  @Test("n choices share one prefill, differ by seed, and can be asked for again one by one")
  func choices() throws {
    let service = try TinyModel.service()
    defer { service.stop() }
    let client = try TestClient(service)
    let prompt = (0..<48).map { ($0 * 11) % 300 }
    func body(_ n: Int, _ seed: Int, _ more: String = "") -> String {
      "{\"prompt\": \(prompt), \"max_tokens\": 10, \"temperature\": 1.5, \"ignore_eos\": true, \"n\": \(n), \"seed\": \(seed)\(more)}"
    }
    let three = try client.complete(body(3, 7)).completion()
    #expect(three.choices.map(\.index) == [0, 1, 2] && Set(three.choices.map(\.text)).count == 3)
    #expect(three.usage?.prompt_tokens == 48 && three.usage?.completion_tokens == 30)
    for (index, choice) in three.choices.enumerated() {
      let alone = try client.complete(body(1, 7 + index)).completion()
      #expect(alone.choices[0].text.utf8.elementsEqual(choice.text.utf8))
    }
    // Two followers of the first request, two of the stream: each took the prompt's full blocks from their leader.
    let stream = try client.complete(body(3, 7, ", \"stream\": true"))
    var texts = ["", "", ""]
    for payload in stream.payloads.dropLast() {
      let chunk = try JSONDecoder().decode(DecodedCompletion.self, from: Data(payload.utf8))
      for choice in chunk.choices { texts[choice.index] += choice.text }
    }
    #expect(zip(texts, three.choices).allSatisfy { $0.utf8.elementsEqual($1.text.utf8) })
    #expect(try metric(service, "vllm:prefix_cache_hits_total\(Self.vllm)") >= 4 * 32)
  }

  @Test("several prompts, echo, a stop string that never leaks, and one that ends the stream")
  func stops() throws {
    let service = try TinyModel.service()
    defer { service.stop() }
    let client = try TestClient(service)
    let base = #""max_tokens": 60, "temperature": 0, "ignore_eos": true"#
    let full = try client.complete("{\"prompt\": \"to be\", \(base)}").completion().choices[0].text
    let scalars = Array(full.unicodeScalars)
    var stop = String.UnicodeScalarView()
    stop.append(contentsOf: scalars[scalars.count / 2..<scalars.count / 2 + 2])
    let quoted = String(decoding: try JSONEncoder().encode([String(stop)]), as: UTF8.self)
    let range = Array(full.utf8).firstRange(of: Array(String(stop).utf8))
    let expected = String(decoding: Array(full.utf8)[..<(range?.lowerBound ?? 0)], as: UTF8.self)
    let stopped = try client.complete("{\"prompt\": \"to be\", \(base), \"stop\": \(quoted)}").completion()
    #expect(stopped.choices[0].text.utf8.elementsEqual(expected.utf8) && stopped.choices[0].finish_reason == "stop")
    #expect((stopped.usage?.completion_tokens ?? 99) < 60)
    let stream = try client.complete("{\"prompt\": \"to be\", \(base), \"stop\": \(quoted), \"stream\": true}")
    let chunks = try stream.payloads.dropLast().map { try JSONDecoder().decode(DecodedCompletion.self, from: Data($0.utf8)) }
    #expect(chunks.map { $0.choices[0].text }.joined().utf8.elementsEqual(expected.utf8) && chunks.last?.choices[0].finish_reason == "stop")
    let many = try client.complete("{\"prompt\": [\"to be\", \"or not\"], \(base), \"echo\": true}").completion()
    #expect(many.choices.count == 2 && many.choices[0].text.utf8.elementsEqual(("to be" + full).utf8))
    #expect(many.choices[1].text.hasPrefix("or not"))
    try waitUntil { try metric(service, "vllm:kv_cache_usage_perc\(Self.vllm)") == 0 }
    // The engine may have run ahead of the text to the full length before it heard of the stop string.
    func ended(_ reason: String) throws -> Double {
      try metric(service, "vllm:request_success_total{engine=\"0\",model_name=\"tiny\",finished_reason=\"\(reason)\"}")
    }
    #expect(try ended("stop") + ended("length") == 5)
    #expect(try ended("abort") == 0)
  }

  @Test("a client that hangs up is cancelled and its blocks are free")
  func disconnect() throws {
    let service = try TinyModel.service(pace: Pace()) { $0.cacheTokens = 16384 }
    defer { service.stop() }
    let clients = try (0..<4).map { n in
      let client = try TestClient(service)
      let stream = n % 2 == 0 ? "true" : "false"
      try client.sendCompletion("{\"prompt\": [\(n), 5], \"max_tokens\": 1900, \"n\": 2, \"ignore_eos\": true, \"stream\": \(stream)}")
      return client
    }
    _ = try clients[0].answer { _ in false }
    _ = try clients[2].answer { _ in false }
    try waitUntil { try metric(service, "vllm:num_requests_running\(Self.vllm)") == 8 }
    for client in clients { client.hangUp() }
    try waitUntil { try metric(service, "quire_requests_cancelled_total{reason=\"disconnected\"}") == 4 }
    try waitUntil { try metric(service, "vllm:num_requests_running\(Self.vllm)") == 0 }
    try waitUntil { try metric(service, "quire_latent_cache_blocks{state=\"used\"}") == 0 }
    #expect(try metric(service, "vllm:request_success_total{engine=\"0\",model_name=\"tiny\",finished_reason=\"abort\"}") == 8)
    #expect(try TestClient(service).complete(#"{"prompt": "x", "max_tokens": 2}"#).status == 200)
  }

  @Test("a full queue is 429 with Retry-After, for the whole request")
  func queueFull() throws {
    let service = try TinyModel.service(pace: Pace()) {
      $0.maxSequences = 1
      $0.maxWaitingSequences = 2
    }
    defer { service.stop() }
    let long = #"{"prompt": [5, 6], "max_tokens": 4000, "ignore_eos": true, "stream": true}"#
    let first = try TestClient(service)
    try first.sendCompletion(long)
    try waitUntil { try metric(service, "vllm:num_requests_running\(Self.vllm)") == 1 }
    let three = try TestClient(service).complete(#"{"prompt": [5, 6], "n": 3}"#)
    #expect(three.status == 429 && three.headers["retry-after"] != nil)
    #expect(try three.errorBody().code == "queue_full")
    #expect(try metric(service, "vllm:num_requests_waiting\(Self.vllm)") == 0, "all choices of a request or none")
    #expect(try metric(service, "quire_requests_rejected_total{reason=\"queue_full\"}") == 1)
  }

  @Test("API keys: 401 with WWW-Authenticate, open health and metrics, protected metrics on demand")
  func keys() throws {
    let path = "/tmp/quire-service-keys-\(getpid())-\(UInt32.random(in: 0 ... .max))"
    let file = fopen(path, "w")
    fputs("secret-a\nsecret-b\n", file)
    fclose(file)
    defer { unlink(path) }
    let service = try TinyModel.service { $0.apiKeyFile = path }
    defer { service.stop() }
    let client = try TestClient(service)
    let refused = try client.complete(#"{"prompt": "x"}"#)
    #expect(refused.status == 401 && refused.headers["www-authenticate"]?.hasPrefix("Bearer") == true)
    #expect(try refused.errorBody().code == "invalid_api_key")
    #expect(try client.get("/v1/models").status == 401)
    for path in ["/health", "/ready", "/metrics"] { #expect(try client.get(path).status == 200) }
    let json = "Content-Type: application/json"
    let prompt = (0..<40).map { ($0 * 3) % 300 }
    let body = "{\"prompt\": \(prompt), \"max_tokens\": 2}"
    func cached(_ key: String) throws -> Int? {
      try client.complete(body, [json, "Authorization: Bearer \(key)"]).completion().usage?.prompt_tokens_details.cached_tokens
    }
    #expect(try cached("secret-a") == 0)
    #expect(try cached("secret-a") == 32)
    #expect(try cached("secret-b") == 0, "one key's cache is invisible to another")
    let closed = try TinyModel.service {
      $0.apiKeyFile = path
      $0.protectMetrics = true
    }
    defer { closed.stop() }
    #expect(try TestClient(closed).get("/metrics").status == 401)
    #expect(try TestClient(closed).get("/metrics", "Authorization: Bearer secret-b").status == 200)
  }

  @Test("every error has OpenAI's shape")
  func errors() throws {
    let service = try TinyModel.service()
    defer { service.stop() }
    let client = try TestClient(service)
    #expect(try client.get("/nowhere").status == 404)
    #expect(try client.get("/nowhere").errorBody().type == "invalid_request_error")
    let method = try client.get("/v1/completions")
    #expect(method.status == 405 && method.headers["allow"]?.contains("POST") == true)
    #expect(try method.errorBody().code == "method_not_allowed")
    let media = try client.complete(#"{"prompt": "x"}"#, ["Content-Type: text/plain"])
    #expect(try media.status == 415 && media.errorBody().code == "unsupported_media_type")
    #expect(try client.complete(#"{"prompt": "x", "max_tokens": 1}"#, []).status == 200, "no type at all is fine")
    let json = try client.complete("{")
    #expect(try json.status == 400 && json.errorBody().param == nil)
    let model = try client.complete(#"{"prompt": "x", "model": "other"}"#)
    #expect(try model.status == 404 && model.errorBody().code == "model_not_found")
    let long = try client.complete(#"{"prompt": "x", "max_tokens": 100000}"#)
    #expect(try long.status == 400 && long.errorBody().code == "context_length_exceeded")
    for odd in [
      #""temperature": 1e-300"#, #""temperature": 2, "top_p": 1e-300"#, #""top_k": 2147483647, "min_p": 1"#,
      #""seed": -9223372036854775808"#,
    ] {
      #expect(try client.complete("{\"prompt\": [5], \"max_tokens\": 3, \(odd)}").status == 200)
    }
    let large = try TestClient(service)
    try large.send("POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 999999999\r\n\r\n")
    let tooLarge = try large.answer()
    #expect(try tooLarge.status == 413 && tooLarge.errorBody().code == "body_too_large")
  }

  @Test("models, version, and the state before a model is there")
  func small() throws {
    let service = try TinyModel.service()
    defer { service.stop() }
    let client = try TestClient(service)
    #expect(try client.get("/v1/models").text.contains("\"id\":\"tiny\",\"object\":\"model\""))
    #expect(try client.get("/v1/models/tiny").text.contains("\"max_model_len\":4096"))
    #expect(try client.get("/v1/models/a/b").status == 404)
    #expect(try client.get("/version").text == "{\"version\":\"test\"}\n")
    #expect(try client.get("/metrics").headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8")
    let loading = try Service(
      settings: TinyModel.settings, version: "test", logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() })
    try loading.start()
    defer { loading.stop() }
    let early = try TestClient(loading)
    #expect(try early.get("/health").status == 200)
    #expect(try early.get("/ready").status == 503)
    let refused = try early.complete(#"{"prompt": "x"}"#)
    #expect(try refused.status == 503 && refused.headers["retry-after"] != nil && refused.errorBody().code == "loading")
    #expect(try early.get("/metrics").status == 200)
  }

  @Test("drain: running streams finish, new requests get 503, then everything ends")
  func drain() throws {
    let pace = Pace()
    let service = try TinyModel.service(pace: pace) { $0.cacheTokens = 65536 }
    let clients = try (0..<4).map { n in
      let client = try TestClient(service)
      try client.sendCompletion("{\"prompt\": [\(n), 5], \"max_tokens\": 1500, \"ignore_eos\": true, \"stream\": true}")
      return client
    }
    try waitUntil { try metric(service, "vllm:num_requests_running\(Self.vllm)") == 4 }
    let ended = Flag()
    service.drain { ended.set() }
    let late = try TestClient(service).complete(#"{"prompt": "x"}"#)
    #expect(try late.status == 503 && late.headers["retry-after"] != nil && late.errorBody().code == "draining")
    #expect(try TestClient(service).get("/ready").status == 503)
    pace.release()
    for client in clients {
      let payloads = try client.answer().payloads
      #expect(payloads.last == "[DONE]" && payloads.dropLast().last?.contains("\"finish_reason\":\"length\"") == true)
    }
    try waitUntil { ended.isSet }
    #expect(throws: ClientFailure.self) { try TestClient(service).get("/health") }
  }

  @Test("many clients at once through a small pool: every text is right")
  func storm() throws {
    let pace = Pace()  // until requests have met in the pool
    let service = try TinyModel.service(pace: pace) {
      $0.cacheTokens = 160
      $0.blockTokens = 8
      $0.maxSequences = 16
    }
    defer { service.stop() }
    let bodies = (0..<4).map { n in
      let prompt = (0..<20).map { ($0 * 7 + n * 41) % 300 }
      return "{\"prompt\": \(prompt), \"max_tokens\": 20, \"temperature\": 0, \"ignore_eos\": true, \"stream\": \(n % 2 == 1)}"
    }
    @Sendable func text(_ client: TestClient, _ body: String) throws -> String {
      let answer = try client.complete(body)
      guard answer.headers["content-type"]?.hasPrefix("text/event-stream") == true else { return try answer.completion().choices[0].text }
      return try answer.payloads.dropLast().map {
        try JSONDecoder().decode(DecodedCompletion.self, from: Data($0.utf8)).choices[0].text
      }.joined()
    }
    let client = try TestClient(service)
    let expected = try bodies.map { try text(client, $0) }
    let wrong = Flag()
    runThreads(12) { worker in
      guard let client = try? TestClient(service) else { return wrong.set() }
      for turn in 0..<8 {
        let which = (worker + turn) % bodies.count
        let got = try? text(client, bodies[which])
        if got.map({ $0.utf8.elementsEqual(expected[which].utf8) }) != true { wrong.set() }
        if let count = try? metric(service, "vllm:num_preemptions_total\(Self.vllm)"), count > 0 { pace.release() }
      }
    }
    #expect(!wrong.isSet)
    #expect(try metric(service, "vllm:num_preemptions_total\(Self.vllm)") > 0)
    #expect(try metric(service, "vllm:num_requests_running\(Self.vllm)") == 0)
    #expect(try metric(service, "vllm:kv_cache_usage_perc\(Self.vllm)") == 0)
  }
}
