// From the samples of a load run to the figures that people compare: rates, time to first token, gaps between tokens.
// Pure arithmetic: knows no threads and no output format.

package struct LoadSummary: Equatable, Sendable {
  /// Milliseconds; nil where nothing was measured.
  package struct Latency: Equatable, Sendable, Encodable {
    package var p50: Double?
    package var p90: Double?
    package var p99: Double?
    package var max: Double?

    init(milliseconds: [Double]) {
      let percentiles = Percentiles(milliseconds)
      p50 = percentiles[50]
      p90 = percentiles[90]
      p99 = percentiles[99]
      max = percentiles.largest
    }
  }

  /// Of completed requests, as the server's usage counts them (else one per event; prompts by what was sent).
  package private(set) var outputTokens = 0
  package private(set) var promptTokens = 0
  /// Prompt tokens that the server took from a cache: 0 if the load is what it is meant to be.
  package private(set) var cachedPromptTokens = 0
  /// Over the whole run, from the start of the clients to the end of the last.
  package let outputTokensPerSecond: Double
  package let promptTokensPerSecond: Double
  /// From just before a request is sent to its first token.
  package let timeToFirstToken: Latency
  /// Between tokens of one stream, all gaps of all streams together. Tokens that arrive together have a gap of 0.
  package let gap: Latency
  /// From just before a request is sent to the end of its answer.
  package let endToEnd: Latency

  /// - Parameters:
  ///   - sentPromptTokens: of each request, for servers that send no usage.
  ///   - seconds: the whole run.
  package init(_ samples: [CompletionSample], sentPromptTokens: Int, seconds: Double) {
    var first: [Double] = []
    var gaps: [Double] = []
    var whole: [Double] = []
    for sample in samples {
      let times = sample.stream.tokenTimes
      outputTokens += sample.stream.completionTokens
      promptTokens += sample.stream.promptTokens ?? sentPromptTokens
      cachedPromptTokens += sample.stream.cachedPromptTokens
      if let time = times.first { first.append(Self.milliseconds(sample.start, time)) }
      gaps += zip(times, times.dropFirst()).map { Self.milliseconds($0, $1) }
      whole.append(Self.milliseconds(sample.start, sample.end))
    }
    outputTokensPerSecond = seconds > 0 ? Double(outputTokens) / seconds : 0
    promptTokensPerSecond = seconds > 0 ? Double(promptTokens) / seconds : 0
    timeToFirstToken = Latency(milliseconds: first)
    gap = Latency(milliseconds: gaps)
    endToEnd = Latency(milliseconds: whole)
  }

  private static func milliseconds(_ start: UInt64, _ end: UInt64) -> Double { end > start ? Double(end - start) * 1e-6 : 0 }
}
