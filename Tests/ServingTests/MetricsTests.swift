// The text of /metrics: parsed as Prometheus would, names as vLLM's, counters that only grow.

@testable import HTTP
import FoundationEssentials
import Glibc
import Scheduler
import Testing

@testable import Serving

/// A reader of the text format 0.0.4, strict about what promtool's parser is strict about.
struct ParsedMetrics {
  struct Failure: Error { let line: String }
  private(set) var values: [String: Double] = [:]
  private(set) var types: [String: String] = [:]

  init(_ text: String) throws {
    var family = ""
    guard text.hasSuffix("\n") else { throw Failure(line: "no line feed at the end") }
    for line in text.split(separator: "\n").map(String.init) {
      if line.hasPrefix("# HELP ") { continue }
      if line.hasPrefix("# TYPE ") {
        let words = line.split(separator: " ")
        guard words.count == 4, types[String(words[2])] == nil else { throw Failure(line: line) }
        family = String(words[2])
        types[family] = String(words[3])
        continue
      }
      guard let space = line.lastIndex(of: " "), let value = Double(line[line.index(after: space)...].replacing("+Inf", with: "inf")) else {
        throw Failure(line: line)
      }
      let series = String(line[..<space])
      let name = String(series.prefix { $0 != "{" })
      let isPart = types[family] == "histogram" && ["_bucket", "_sum", "_count"].contains { name == family + $0 }
      guard name == family || isPart, values[series] == nil else { throw Failure(line: line) }
      values[series] = value
    }
  }
}

@Suite("Metrics")
struct MetricsTests {
  private func metrics() -> Metrics {
    let metrics = Metrics(version: "1.2.3")
    var info = ModelInfo()
    info.name = "a\"b\\c\nd"
    info.maxContextTokens = 1000
    info.blockCount = 10
    info.blockTokens = 16
    info.cacheBytesPerToken = 100
    metrics.install(info)
    return metrics
  }

  private func parse(_ metrics: Metrics) throws -> ParsedMetrics {
    try ParsedMetrics(String(decoding: metrics.render(state: "ready"), as: UTF8.self))
  }

  private let labels = #"{engine="0",model_name="a\"b\\c\nd""#

  @Test("names and types are those of vLLM's dashboard, present from the start")
  func names() throws {
    let parsed = try parse(metrics())
    let gauges = ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"]
    let counters = [
      "prompt_tokens_total", "generation_tokens_total", "request_success_total", "num_preemptions_total", "prefix_cache_queries_total",
      "prefix_cache_hits_total",
    ]
    let histograms = [
      "time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds",
      "request_prefill_time_seconds", "request_decode_time_seconds", "request_prompt_tokens", "request_generation_tokens",
      "iteration_tokens_total",
    ]
    for name in gauges { #expect(parsed.types["vllm:" + name] == "gauge" && parsed.values["vllm:\(name)\(labels)}"] == 0) }
    for name in counters { #expect(parsed.types["vllm:" + name] == "counter") }
    for name in histograms {
      #expect(parsed.types["vllm:" + name] == "histogram")
      #expect(parsed.values["vllm:\(name)_bucket\(labels),le=\"+Inf\"}"] == 0)
      #expect(parsed.values["vllm:\(name)_count\(labels)}"] == 0 && parsed.values["vllm:\(name)_sum\(labels)}"] == 0)
    }
    for reason in ["stop", "length", "abort"] {
      #expect(parsed.values["vllm:request_success_total\(labels),finished_reason=\"\(reason)\"}"] == 0)
    }
    #expect(parsed.values["vllm:time_to_first_token_seconds_bucket\(labels),le=\"0.001\"}"] == 0)
    #expect(parsed.values["vllm:request_prompt_tokens_bucket\(labels),le=\"1000.0\"}"] == 0)
    #expect(parsed.values["vllm:request_prompt_tokens_bucket\(labels),le=\"2000.0\"}"] == nil)
    #expect(parsed.values["quire_latent_cache_blocks{state=\"free\"}"] == 10)
    #expect((parsed.values["process_resident_memory_bytes"] ?? 0) > 1_000_000)
  }

  @Test("a sequence's life lands in the right places")
  func sequence() throws {
    let metrics = metrics()
    let statistics = Scheduler(SchedulerConfiguration(blockCount: 10, maxContextTokens: 100)).statistics
    let second: UInt64 = 1_000_000_000
    var timing = SequenceTiming(
      arrival: second, firstScheduled: 2 * second, firstToken: 4 * second, previousToken: 4 * second, lastToken: 4 * second)
    var report = StepReport()
    report.entryCount = 1
    report.tokenCount = 30
    metrics.recordStep(report, [.test(5, count: 1, timing: timing)], statistics)
    timing.lastToken = 5 * second
    report.tokenCount = 1
    metrics.recordStep(report, [.test(6, count: 2, finish: .length, timing: timing)], statistics)
    metrics.recordFinish(.abort, promptCount: 3, generatedCount: 0, timing: SequenceTiming(arrival: second))
    metrics.recordRejection("queue_full")
    metrics.recordCancellation(.disconnected)
    let values = try parse(metrics).values
    func value(_ name: String) -> Double? { values["vllm:\(name)\(labels)}"] }
    #expect(value("prompt_tokens_total") == 3 && value("generation_tokens_total") == 2)
    #expect(value("time_to_first_token_seconds_sum") == 3 && value("inter_token_latency_seconds_sum") == 1)
    #expect(value("request_queue_time_seconds_sum") == 1 && value("request_prefill_time_seconds_sum") == 2)
    #expect(value("request_decode_time_seconds_sum") == 1 && value("e2e_request_latency_seconds_count") == 2)
    #expect(value("iteration_tokens_total_sum") == 31 && value("iteration_tokens_total_count") == 2)
    #expect(values["vllm:iteration_tokens_total_bucket\(labels),le=\"1.0\"}"] == 1)
    #expect(values["vllm:request_success_total\(labels),finished_reason=\"length\"}"] == 1)
    #expect(values["vllm:request_success_total\(labels),finished_reason=\"abort\"}"] == 1)
    #expect(values["quire_requests_rejected_total{reason=\"queue_full\"}"] == 1)
    #expect(values["quire_requests_cancelled_total{reason=\"disconnected\"}"] == 1)
  }

  @Test("histograms: cumulative, and every value in exactly one bucket")
  func histograms() {
    var random = SeededRandom(5)
    var histogram = Histogram(bounds: Histogram.timeToFirstToken)
    var observed: [Double] = []
    for _ in 0..<2000 {
      let value = pow(10, Double.random(in: -4...4, using: &random))
      observed.append(value)
      histogram.observe(value)
    }
    histogram.observe(.nan)
    histogram.observe(.infinity)
    #expect(histogram.total == 2000)
    for (index, bound) in histogram.bounds.enumerated() {
      #expect(histogram.counts[...index].reduce(0, +) == UInt64(observed.count { $0 <= bound }))
    }
    #expect(Histogram.oneTwoFive(upTo: 100) == [1, 2, 5, 10, 20, 50, 100])
    #expect(Histogram.oneTwoFive(upTo: 0) == [1])
  }

  @Test("HTTP requests by route; what a client makes up never becomes a label")
  func http() throws {
    let metrics = metrics()
    let observer = metrics.observer
    observer.connectionOpened()
    for (method, route) in [("GET", "/health"), ("GET", "/health"), ("BREW\"", nil), ("", nil)] as [(String, String?)] {
      observer.requestFinished(
        .init(
          method: method, routePattern: route, status: 200, requestBytes: 10, responseBytes: 20, durationNanoseconds: 5,
          isDisconnected: false))
    }
    let values = try parse(metrics).values
    #expect(values["quire_http_requests_total{method=\"GET\",path=\"/health\",code=\"200\"}"] == 2)
    #expect(values["quire_http_requests_total{method=\"other\",path=\"other\",code=\"200\"}"] == 2)
    #expect(values["quire_http_connections"] == 1 && values["quire_http_response_bytes_total"] == 80)
  }

  /// vLLM's names themselves break two of promtool's style rules; those two, on those names, are all it may say.
  @Test("promtool has nothing else to say", .enabled(if: access("/usr/bin/promtool", X_OK) == 0))
  func promtool() throws {
    let path = "/tmp/quire-metrics-\(getpid())"
    defer { for suffix in ["", ".out"] { unlink(path + suffix) } }
    let metrics = metrics()
    metrics.recordRejection("x")
    metrics.recordGauges(
      {
        var gauges = EngineGauges()
        gauges.expertLoadImbalance = 1.5
        gauges.phaseNanoseconds = [("attention", 5)]
        return gauges
      }())
    metrics.observer.requestFinished(
      .init(method: "GET", routePattern: "/", status: 200, requestBytes: 1, responseBytes: 1, durationNanoseconds: 1, isDisconnected: false)
    )
    let body = metrics.render(state: "ready")
    let file = fopen(path, "w")
    fwrite(body, 1, body.count, file)
    fclose(file)
    let status = system("/usr/bin/promtool check metrics < \(path) > \(path).out 2>&1")
    #expect([0, 3].contains((status >> 8) & 0xFF), "promtool could not parse the text")
    let output = String(decoding: FileManager.default.contents(atPath: path + ".out") ?? Data(), as: UTF8.self)
    let complaints = output.split(separator: "\n").filter {
      !($0.hasPrefix("vllm:") && $0.hasSuffix("metric names should not contain ':'"))
        && $0 != "vllm:iteration_tokens_total non-counter metrics should not have \"_total\" suffix"
    }
    #expect(complaints.isEmpty, "\(complaints)")
  }
}
