// A streamed completion as a client sees it: server-sent events in, arrival times of tokens and the usage out.
// Knows no sockets and no clock: the caller says when bytes arrived.

import FoundationEssentials

/// What one finished stream held. Times are monotonic nanoseconds.
package struct StreamRecord: Equatable, Sendable {
  /// One per token; more tokens than times if the server sent several in one event.
  package var tokenTimes: [UInt64] = []
  package var promptTokens: Int?
  package var cachedPromptTokens = 0
  package var completionTokens = 0
}

package struct CompletionStream {
  package static let maxEventBytes = 1 << 22

  private var line: [UInt8] = []
  private var tokenTimes: [UInt64] = []
  private var usage: Event.Usage?
  private var isDone = false

  package init() {}

  /// Body bytes that arrived together, and when.
  package mutating func feed(_ bytes: [UInt8], at nanoseconds: UInt64) throws(LoadClientError) {
    var rest = bytes[...]
    while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
      line += rest[..<end]
      rest = rest[(end + 1)...]
      if line.last == UInt8(ascii: "\r") { line.removeLast() }
      try readLine(at: nanoseconds)
      line.removeAll(keepingCapacity: true)
    }
    line += rest
    guard line.count <= Self.maxEventBytes else { throw .badEvent("longer than \(Self.maxEventBytes) bytes") }
  }

  /// At the end of the answer. A chunk is a token unless the usage counts fewer: some servers send the finish reason alone, last.
  package func finish() throws(LoadClientError) -> StreamRecord {
    guard isDone else { throw .notDone }
    let completionTokens = usage?.completion_tokens ?? tokenTimes.count
    guard completionTokens > 0, !tokenTimes.isEmpty else { throw .noTokens }
    return StreamRecord(
      tokenTimes: Array(tokenTimes.prefix(completionTokens)), promptTokens: usage?.prompt_tokens,
      cachedPromptTokens: usage?.prompt_tokens_details?.cached_tokens ?? 0, completionTokens: completionTokens)
  }

  /// Every server here sends an event as one `data:` line; comments and other fields are passed over.
  private mutating func readLine(at nanoseconds: UInt64) throws(LoadClientError) {
    guard line.starts(with: Self.dataField) else { return }
    let payload = line.dropFirst(Self.dataField.count).drop { $0 == UInt8(ascii: " ") }
    if payload.elementsEqual(Self.done) {
      isDone = true
      return
    }
    guard let event = try? JSONDecoder().decode(Event.self, from: Data(payload)) else {
      throw .badEvent(String(decoding: payload, as: UTF8.self))
    }
    if event.error != nil { throw .streamError(String(decoding: payload, as: UTF8.self)) }
    if let counted = event.usage {
      guard counted.isPlausible else { throw .badEvent(String(decoding: payload, as: UTF8.self)) }
      usage = counted
    }
    if event.choices?.isEmpty == false { tokenTimes.append(nanoseconds) }
  }

  private static let dataField = Array("data:".utf8)
  private static let done = Array("[DONE]".utf8)

  /// The members that are read; their names are the API's.
  private struct Event: Decodable {
    struct Anything: Decodable { init(from decoder: any Decoder) {} }
    struct Usage: Decodable {
      struct Details: Decodable { let cached_tokens: Int? }
      let prompt_tokens: Int
      let completion_tokens: Int
      let prompt_tokens_details: Details?

      /// Beyond these counts a sum over many requests could overflow.
      var isPlausible: Bool {
        let range = 0...1 << 40
        return range.contains(prompt_tokens) && range.contains(completion_tokens)
          && range.contains(prompt_tokens_details?.cached_tokens ?? 0)
      }
    }
    let choices: [Anything]?
    let usage: Usage?
    let error: Anything?
  }
}
