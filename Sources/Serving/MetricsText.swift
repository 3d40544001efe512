// Renders the counters as Prometheus text format 0.0.4: vLLM's names and labels, so that its dashboards work unchanged, and our own
// under quire_. Knows the names; Metrics.swift knows what is counted.

import Glibc

/// Text under construction.
struct MetricsText {
  private(set) var bytes: [UInt8] = []

  enum Kind: String { case counter, gauge, histogram }
  typealias Labels = [(name: String, value: String)]

  mutating func family(_ name: String, _ kind: Kind, _ help: String) {
    bytes += "# HELP \(name) \(help)\n# TYPE \(name) \(kind.rawValue)\n".utf8
  }

  mutating func sample(_ name: String, _ labels: Labels = [], _ value: Double) {
    bytes += name.utf8
    if !labels.isEmpty {
      bytes.append(UInt8(ascii: "{"))
      for (index, label) in labels.enumerated() {
        if index > 0 { bytes.append(UInt8(ascii: ",")) }
        bytes += label.name.utf8
        bytes += "=\"".utf8
        bytes += Self.escaped(label.value)
        bytes.append(UInt8(ascii: "\""))
      }
      bytes.append(UInt8(ascii: "}"))
    }
    bytes.append(UInt8(ascii: " "))
    bytes += Self.number(value).utf8
    bytes.append(UInt8(ascii: "\n"))
  }

  mutating func single(_ name: String, _ kind: Kind, _ help: String, _ labels: Labels = [], _ value: Double) {
    family(name, kind, help)
    sample(name, labels, value)
  }

  mutating func histogram(_ name: String, _ help: String, _ labels: Labels, _ histogram: Histogram) {
    family(name, .histogram, help)
    var cumulative: UInt64 = 0
    for (bound, count) in zip(histogram.bounds + [.infinity], histogram.counts) {
      cumulative += count
      sample(name + "_bucket", labels + [("le", bound.isFinite ? "\(bound)" : "+Inf")], Double(cumulative))
    }
    sample(name + "_sum", labels, histogram.sum)
    sample(name + "_count", labels, Double(cumulative))
  }

  /// Backslash, double quote and line feed are escaped; everything else may stand.
  static func escaped(_ value: String) -> [UInt8] {
    var result: [UInt8] = []
    for byte in value.utf8 {
      switch byte {
      case UInt8(ascii: "\\"): result += "\\\\".utf8
      case UInt8(ascii: "\""): result += "\\\"".utf8
      case 0x0A: result += "\\n".utf8
      default: result.append(byte)
      }
    }
    return result
  }

  private static func number(_ value: Double) -> String {
    if let whole = Int64(exactly: value) { return String(whole) }
    if value.isNaN { return "NaN" }
    return value.isInfinite ? (value > 0 ? "+Inf" : "-Inf") : "\(value)"
  }
}

extension Metrics {
  /// The body of GET /metrics.
  package func render(state: String) -> [UInt8] {
    let engine = engine.withLock { $0 }
    let http = http.withLock { $0 }
    var text = MetricsText()
    let labels: MetricsText.Labels = [("engine", "0"), ("model_name", engine.info.name)]
    Self.renderScheduler(engine, labels, &text)
    Self.renderRequests(engine, labels, &text)
    Self.renderCache(engine, &text)
    Self.renderSteps(engine, &text)
    renderProcess(engine, http, state: state, &text)
    return text.bytes
  }

  private static func renderScheduler(_ engine: EngineMetrics, _ labels: MetricsText.Labels, _ text: inout MetricsText) {
    let scheduler = engine.statistics
    let blocks = Double(max(engine.info.blockCount, 1))
    text.single("vllm:num_requests_running", .gauge, "Sequences in model execution batches.", labels, Double(scheduler.running))
    text.single("vllm:num_requests_waiting", .gauge, "Sequences waiting to be processed.", labels, Double(scheduler.waiting))
    text.single(
      "vllm:kv_cache_usage_perc", .gauge, "Latent cache usage. 1 means 100 percent usage.", labels, Double(scheduler.blocksInUse) / blocks)
    text.single(
      "vllm:prefix_cache_queries_total", .counter, "Prefix cache queries, in tokens.", labels, Double(scheduler.prefixQueriesTokens))
    text.single("vllm:prefix_cache_hits_total", .counter, "Prefix cache hits, in tokens.", labels, Double(scheduler.prefixHitTokens))
    text.single("vllm:num_preemptions_total", .counter, "Preemptions of sequences.", labels, Double(scheduler.preemptions))
    text.single("vllm:prompt_tokens_total", .counter, "Prompt tokens processed.", labels, Double(engine.promptTokens))
    text.single("vllm:generation_tokens_total", .counter, "Tokens generated.", labels, Double(engine.generationTokens))
    text.family("vllm:request_success_total", .counter, "Sequences that ended, by reason.")
    for reason in FinishReason.allCases {
      text.sample("vllm:request_success_total", labels + [("finished_reason", reason.rawValue)], Double(engine.finished[reason] ?? 0))
    }
  }

  private static func renderRequests(_ engine: EngineMetrics, _ labels: MetricsText.Labels, _ text: inout MetricsText) {
    let histograms: [(String, String, Histogram)] = [
      ("request_prompt_tokens", "Prompt tokens of a sequence.", engine.requestPromptTokens),
      ("request_generation_tokens", "Tokens generated for a sequence.", engine.requestGenerationTokens),
      ("iteration_tokens_total", "Tokens computed in one engine step.", engine.iterationTokens),
      ("request_max_num_generation_tokens", "Most tokens that a sequence was allowed to generate.", engine.requestMaxTokens),
      ("request_params_max_tokens", "The max_tokens parameter.", engine.requestMaxTokens),
      ("request_params_n", "The n parameter.", engine.requestChoices),
      ("time_to_first_token_seconds", "From a request's arrival to its first token.", engine.timeToFirstToken),
      ("inter_token_latency_seconds", "Between two tokens of a sequence.", engine.interTokenLatency),
      ("time_per_output_token_seconds", "Between two tokens of a sequence (older name).", engine.interTokenLatency),
      ("request_time_per_output_token_seconds", "Mean time per token after the first, by sequence.", engine.timePerOutputToken),
      ("e2e_request_latency_seconds", "From a request's arrival to a sequence's last token.", engine.endToEnd),
      ("request_queue_time_seconds", "Time a sequence waited before it was first scheduled.", engine.queueTime),
      ("request_inference_time_seconds", "From the first schedule to the last token.", engine.inferenceTime),
      ("request_prefill_time_seconds", "From the first schedule to the first token.", engine.prefillTime),
      ("request_decode_time_seconds", "From the first token to the last.", engine.decodeTime),
    ]
    for (name, help, histogram) in histograms { text.histogram("vllm:" + name, help, labels, histogram) }
  }

  private static func renderCache(_ engine: EngineMetrics, _ text: inout MetricsText) {
    let info = engine.info
    let scheduler = engine.statistics
    let free = info.blockCount - scheduler.blocksInUse - scheduler.blocksCached
    let states = [("used", scheduler.blocksInUse), ("cached", scheduler.blocksCached), ("free", max(free, 0))]
    text.family("vllm:cache_config_info", .gauge, "The latent cache's configuration.")
    text.sample(
      "vllm:cache_config_info",
      [
        ("block_size", "\(info.blockTokens)"), ("cache_dtype", info.cacheType), ("engine", "0"), ("num_gpu_blocks", "\(info.blockCount)"),
      ], 1)
    text.family("quire_latent_cache_blocks", .gauge, "Blocks of the latent cache: used by sequences, cached prefixes, free.")
    for (state, count) in states { text.sample("quire_latent_cache_blocks", [("state", state)], Double(count)) }
    text.family("quire_latent_cache_bytes", .gauge, "Bytes of the latent cache by the state of their blocks.")
    for (state, count) in states {
      let bytes = Double(count) * Double(info.blockTokens) * Double(info.cacheBytesPerToken)
      text.sample("quire_latent_cache_bytes", [("state", state)], bytes)
    }
    text.single("quire_latent_cache_bytes_per_token", .gauge, "Bytes one token takes in all layers.", [], Double(info.cacheBytesPerToken))
    text.single("quire_weights_bytes", .gauge, "Bytes of the model's weights in memory.", [], Double(info.weightsBytes))
  }

  private static func renderSteps(_ engine: EngineMetrics, _ text: inout MetricsText) {
    let phases = engine.phases
    text.single("quire_steps_total", .counter, "Engine steps.", [], Double(engine.steps))
    text.family("quire_step_seconds_total", .counter, "Time of the engine's steps by phase.")
    let all = [
      ("plan", phases.plan), ("forward", phases.forward), ("sample", phases.sample), ("commit", phases.commit), ("deliver", phases.deliver),
    ]
    for (phase, nanoseconds) in all { text.sample("quire_step_seconds_total", [("phase", phase)], Double(nanoseconds) * 1e-9) }
    text.family("quire_forward_seconds_total", .counter, "Time of the forward pass by part.")
    for (part, nanoseconds) in engine.gauges.phaseNanoseconds {
      text.sample("quire_forward_seconds_total", [("part", part)], Double(nanoseconds) * 1e-9)
    }
    if let imbalance = engine.gauges.expertLoadImbalance {
      text.single(
        "quire_expert_load_imbalance_ratio", .gauge, "Busiest expert's tokens over the mean of its layer, worst layer; 1 is even.", [],
        imbalance)
    }
    text.family("quire_requests_cancelled_total", .counter, "Requests given up before their end, by reason.")
    for reason in CancelReason.allCases {
      text.sample("quire_requests_cancelled_total", [("reason", reason.rawValue)], Double(engine.cancellations[reason] ?? 0))
    }
    text.family("quire_requests_rejected_total", .counter, "Requests answered with an error, by reason.")
    for (reason, count) in engine.rejections.sorted(by: { $0.key < $1.key }) {
      text.sample("quire_requests_rejected_total", [("reason", reason)], Double(count))
    }
  }

  private func renderProcess(_ engine: EngineMetrics, _ http: HTTPMetrics, state: String, _ text: inout MetricsText) {
    text.family("quire_http_requests_total", .counter, "HTTP requests by method, route and status code.")
    let keys = http.requests.keys.sorted { ($0.path, $0.method, $0.code) < ($1.path, $1.method, $1.code) }
    for key in keys {
      text.sample(
        "quire_http_requests_total", [("method", key.method), ("path", key.path), ("code", "\(key.code)")],
        Double(http.requests[key] ?? 0))
    }
    text.single("quire_http_connections", .gauge, "Open connections.", [], Double(http.openConnections))
    text.single("quire_http_request_bytes_total", .counter, "Bytes of requests.", [], Double(http.requestBytes))
    text.single("quire_http_response_bytes_total", .counter, "Bytes of answers.", [], Double(http.responseBytes))
    text.family("quire_state_info", .gauge, "What the server is doing: loading, ready or draining.")
    text.sample("quire_state_info", [("state", state)], 1)
    let info = engine.info
    text.single(
      "quire_build_info", .gauge, "Version and mode of this process.",
      [("version", version), ("kernels", info.kernels), ("compute", info.compute), ("cache_type", info.cacheType)], 1)
    text.single("process_start_time_seconds", .gauge, "Start of the process, in seconds since 1970.", [], Double(startUnixSeconds))
    guard let usage = ProcessUsage.current() else { return }
    text.single("process_resident_memory_bytes", .gauge, "Resident memory.", [], Double(usage.residentBytes))
    text.single("process_virtual_memory_bytes", .gauge, "Virtual memory.", [], Double(usage.virtualBytes))
    text.single("process_cpu_seconds_total", .counter, "User and system time.", [], usage.processorSeconds)
  }
}

/// What the kernel says about this process.
struct ProcessUsage {
  let residentBytes: Int
  let virtualBytes: Int
  let processorSeconds: Double

  static func current() -> ProcessUsage? {
    guard let file = fopen("/proc/self/statm", "r") else { return nil }
    defer { fclose(file) }
    var buffer = [UInt8](repeating: 0, count: 256)
    let count = fread(&buffer, 1, buffer.count, file)
    let fields = String(decoding: buffer.prefix(count), as: UTF8.self).split(separator: " ").compactMap { Int($0) }
    guard fields.count > 1 else { return nil }
    let page = Int(sysconf(Int32(_SC_PAGESIZE)))
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) * 1e-6 }
    return ProcessUsage(
      residentBytes: fields[1] &* page, virtualBytes: fields[0] &* page, processorSeconds: seconds(usage.ru_utime) + seconds(usage.ru_stime)
    )
  }
}
