// One client of a completion server: asks, streams, and notes when tokens came. Keeps its connection from one request to the next.
// Knows the API's names, nothing of load or statistics.

import FoundationEssentials
import Glibc

/// One request as its client saw it. Times are monotonic nanoseconds.
package struct CompletionSample: Equatable, Sendable {
  /// Just before the first byte was sent, on an open connection.
  package var start: UInt64
  package var stream: StreamRecord
  /// When the answer had ended.
  package var end: UInt64

  package init(start: UInt64, stream: StreamRecord, end: UInt64) {
    self.start = start
    self.stream = stream
    self.end = end
  }
}

/// What `GET /v1/models` says of the first model.
package struct ListedModel: Equatable, Sendable {
  package let id: String
  /// llama-server tells it; most do not.
  package let vocabularySize: Int?
}

/// Confined to one thread.
package final class CompletionClient {
  /// An answer that is no stream may have this many bytes; more of an error is of no use.
  private static let maxAnswerBytes = 1 << 20

  private let url: ServerURL
  private var connection: ClientConnection?

  package init(_ url: ServerURL) { self.url = url }

  package func firstModel() throws(LoadClientError) -> ListedModel {
    var answer: [UInt8] = []
    _ = try exchange(path: "/v1/models", body: nil) { (status, bytes) throws(LoadClientError) in
      if answer.count < Self.maxAnswerBytes { answer += bytes }
    }
    guard let list = try? JSONDecoder().decode(ModelList.self, from: Data(answer)), let model = list.data.first else { throw .noModel }
    return ListedModel(id: model.id, vocabularySize: model.meta?.n_vocab)
  }

  /// Streams one greedy completion of `maxTokens` tokens, end-of-sequence tokens ignored.
  package func complete(model: String, prompt: [Int], maxTokens: Int) throws(LoadClientError) -> CompletionSample {
    var stream = CompletionStream()
    let body = RequestBody(model: model, prompt: prompt, max_tokens: maxTokens)
    guard let bytes = try? JSONEncoder().encode(body) else { throw .noModel }
    let (start, end) = try exchange(path: "/v1/completions", body: Array(bytes)) { (status, bytes) throws(LoadClientError) in
      try stream.feed(bytes, at: Self.monotonicNanoseconds())
    }
    return CompletionSample(start: start, stream: try stream.finish(), end: end)
  }

  /// `onBody` hears only bodies of status 200; any other status is thrown with its body.
  private func exchange(
    path: String, body: [UInt8]?, onBody: (Int, [UInt8]) throws(LoadClientError) -> Void
  ) throws(LoadClientError) -> (start: UInt64, end: UInt64) {
    let request = ClientConnection.request(url, path: path, body: body)
    while true {
      let connection = if let connection { connection } else { try ClientConnection(url) }
      // Kept only if this answer comes to a good end.
      self.connection = nil
      var parser = AnswerParser()
      var refusal: [UInt8] = []
      let start = Self.monotonicNanoseconds()
      do throws(LoadClientError) {
        try connection.exchange(request, parser: &parser) { (status, bytes) throws(LoadClientError) in
          if status == 200 { return try onBody(status, bytes) }
          if refusal.count < Self.maxAnswerBytes { refusal += bytes }
        }
      } catch {
        // The server may close an idle connection while the next request is on its way (RFC 9112, 9.5): one more try on a new one.
        if connection.isReused, parser.isUntouched { continue }
        throw error
      }
      let end = Self.monotonicNanoseconds()
      if parser.keepsAlive { self.connection = connection }
      guard parser.status == 200 else { throw .status(parser.status, body: String(decoding: refusal, as: UTF8.self)) }
      return (start, end)
    }
  }

  package static func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(truncatingIfNeeded: time.tv_sec) &* 1_000_000_000 &+ UInt64(truncatingIfNeeded: time.tv_nsec)
  }

  private struct RequestBody: Encodable {
    struct StreamOptions: Encodable { let include_usage = true }
    let model: String
    let prompt: [Int]
    let max_tokens: Int
    let temperature = 0
    let stream = true
    let stream_options = StreamOptions()
    let ignore_eos = true
    /// llama-server's name; others ignore it. Random prompts share nothing anyway.
    let cache_prompt = false
  }

  private struct ModelList: Decodable {
    struct Model: Decodable {
      struct Meta: Decodable { let n_vocab: Int? }
      let id: String
      let meta: Meta?
    }
    let data: [Model]
  }
}
