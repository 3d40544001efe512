// A row of `quire bench --http`, as JSON has it. Knows no measuring.

import LoadClient

/// One row: a load and what its clients saw. Latencies in milliseconds.
struct HTTPBenchResult: Encodable {
  struct Latency: Encodable {
    let p50: Double?
    let p90: Double?
    let p99: Double?
    let max: Double?

    init(_ latency: LoadSummary.Latency) {
      (p50, p90, p99, max) = (latency.p50, latency.p90, latency.p99, latency.max)
    }
  }
  let concurrency: Int
  /// Tokens of each request.
  let promptTokens: Int
  let generatedTokens: Int
  let requests: Int
  let failures: Int
  let firstError: String?
  let seconds: Double
  /// Of all completed requests.
  let totalOutputTokens: Int
  let totalPromptTokens: Int
  let totalCachedPromptTokens: Int
  let outputTokensPerSecond: Double
  let promptTokensPerSecond: Double
  let timeToFirstTokenMilliseconds: Latency
  let gapMilliseconds: Latency
  let endToEndMilliseconds: Latency

  init(_ plan: LoadPlan, _ result: LoadResult) {
    let summary = LoadSummary(result.samples, sentPromptTokens: plan.promptTokens, seconds: result.seconds)
    concurrency = plan.concurrency
    promptTokens = plan.promptTokens
    generatedTokens = plan.maxTokens
    requests = plan.requests
    failures = result.failures
    firstError = result.firstError?.description
    seconds = result.seconds
    totalOutputTokens = summary.outputTokens
    totalPromptTokens = summary.promptTokens
    totalCachedPromptTokens = summary.cachedPromptTokens
    outputTokensPerSecond = summary.outputTokensPerSecond
    promptTokensPerSecond = summary.promptTokensPerSecond
    timeToFirstTokenMilliseconds = Latency(summary.timeToFirstToken)
    gapMilliseconds = Latency(summary.gap)
    endToEndMilliseconds = Latency(summary.endToEnd)
  }
}
