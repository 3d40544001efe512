// Percentiles by rank, and the figures made of samples.

import Testing

@testable import LoadClient

@Suite("Percentiles and summaries")
struct PercentilesTests {
  @Test("ranks count from 0 and are cut to the last")
  func ranks() {
    let hundred = Percentiles((0..<100).reversed().map(Double.init))
    #expect(hundred[0] == 0 && hundred[50] == 50 && hundred[90] == 90 && hundred[99] == 99 && hundred[100] == 99)
    #expect(hundred[-3] == 0 && hundred[250] == 99 && hundred.largest == 99)
    let two = Percentiles([7, 3])
    #expect(two[0] == 3 && two[49] == 3 && two[50] == 7 && two[99] == 7)
    #expect(Percentiles([4])[1] == 4 && Percentiles([4])[99] == 4)
  }

  @Test("no values, no percentile")
  func empty() {
    #expect(Percentiles([])[50] == nil && Percentiles([]).largest == nil)
  }

  @Test("rates over the run, time to the first token, gaps within a stream only")
  func summary() {
    let million: UInt64 = 1_000_000
    let usual = CompletionSample(
      start: 100 * million,
      stream: StreamRecord(
        tokenTimes: [110, 112, 115].map { $0 * million }, promptTokens: 9, cachedPromptTokens: 4, completionTokens: 3), end: 116 * million)
    // A server without usage that sends two tokens at once is seen with one time each; one with usage may merge them in one event.
    let merged = CompletionSample(
      start: 200 * million, stream: StreamRecord(tokenTimes: [240 * million], promptTokens: nil, completionTokens: 5), end: 241 * million)
    let summary = LoadSummary([usual, merged], sentPromptTokens: 7, seconds: 2)
    #expect(summary.outputTokens == 8 && summary.promptTokens == 16 && summary.cachedPromptTokens == 4)
    #expect(summary.outputTokensPerSecond == 4 && summary.promptTokensPerSecond == 8)
    #expect(summary.timeToFirstToken.p50 == 40 && summary.timeToFirstToken.max == 40)
    #expect(summary.gap.p50 == 3 && summary.gap.max == 3)
    #expect(summary.endToEnd.p50 == 41)
  }

  @Test("nothing answered: zeros and no latencies")
  func nothing() {
    let summary = LoadSummary([], sentPromptTokens: 7, seconds: 1)
    #expect(summary.outputTokens == 0 && summary.outputTokensPerSecond == 0)
    #expect(summary.timeToFirstToken.p50 == nil && summary.gap.max == nil && summary.endToEnd.p50 == nil)
  }
}
