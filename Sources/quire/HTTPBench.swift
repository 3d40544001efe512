// `quire bench --http`: starts a server in this process, or takes the one at --url, and has LoadClient drive it over TCP.
// Knows what to run and how to print it; LoadClient does the measuring.

import ArgumentParser
import HTTP
import LoadClient
import Logging
import Serving

struct HTTPBench {
  private struct Load {
    let prompt: Int
    let generate: Int
    let concurrency: Int
    let requests: Int
  }

  /// A server that answers, and what to ask it for.
  private struct Target {
    let url: ServerURL
    let model: String
    let tokenIDs: Range<Int>
    let title: String
    let reportedMachine: BenchMachine
    let reportedModel: BenchModel
  }

  private let bench: Bench
  private let loads: [Load]

  /// Reads the flags; starts nothing yet.
  init(_ bench: Bench) throws {
    self.bench = bench
    let prompts = try numberList(bench.prompt, flag: "--prompt", in: 1...1 << 20)
    let generates = try numberList(bench.generate, flag: "--generate", in: 1...1 << 20)
    let rows = try bench.http.concurrencies().map { ($0, try bench.http.requests(concurrency: $0)) }
    loads = prompts.flatMap { prompt in
      generates.flatMap { generate in
        rows.map { Load(prompt: prompt, generate: generate, concurrency: $0.0, requests: $0.1) }
      }
    }
  }

  func run() throws {
    let results: [HTTPBenchResult]
    if let url = try bench.http.serverURL() {
      let probe: ServerProbe
      do throws(LoadClientError) { probe = try ServerProbe(url) } catch { throw InputFailure("--url \(bench.http.url ?? ""): \(error)") }
      results = try measure(
        Target(
          url: url, model: probe.model, tokenIDs: probe.tokenIDs, title: "\(probe.model) at \(bench.http.url ?? "")",
          reportedMachine: BenchMachine(), reportedModel: BenchModel(name: probe.model, url: bench.http.url ?? "")))
    } else {
      results = try measureOwnServer()
    }
    // The figures of a run with failures are printed, but a script must not take them for good.
    if results.contains(where: { $0.failures > 0 }) { throw ExitCode(1) }
  }

  private func measureOwnServer() throws -> [HTTPBenchResult] {
    let settings = try settings()
    let loaded = try loadModel(settings)
    let longest = loads.map { $0.prompt + $0.generate }.max() ?? 0
    guard longest <= loaded.served.maxContextTokens else {
      throw InputFailure("prompt and generated tokens together exceed the context of \(loaded.served.maxContextTokens) tokens")
    }
    let (service, host) = try start(settings)
    defer { service.stop() }
    let options = loaded.transformer.options
    let target = Target(
      url: ServerURL(host: host, port: service.port), model: loaded.served.name, tokenIDs: 0..<loaded.served.vocabularySize,
      title: "\(loaded.served.name), \(options.threads) threads, \(loaded.transformer.kernelName), \(options.compute), "
        + "cache \(options.cacheType), clients and server in one process",
      reportedMachine: BenchMachine(loaded, limits: nil), reportedModel: BenchModel(loaded))
    service.install(loaded)
    return try measure(target)
  }

  /// The settings of `quire serve`, wide enough that it is the engine that limits and not a queue.
  private func settings() throws -> ServerSettings {
    let clients = loads.map(\.concurrency).max() ?? 1
    var settings = ServerSettings()
    settings.host = "127.0.0.1"
    settings.port = 0
    settings.maxSequences = max(settings.maxSequences, clients)
    settings.maxPreparingRequests = max(settings.maxPreparingRequests, clients)
    try bench.model.apply(to: &settings)
    let longest = (loads.map { $0.prompt + $0.generate }.max() ?? 0) + 2 * settings.blockTokens + 1
    if settings.cacheTokens == 0 { settings.cacheTokens = longest * clients }
    return try settings.checked()
  }

  private func start(_ settings: ServerSettings) throws -> (Service, host: String) {
    let logger = Logger(label: "quire") { _ in SwiftLogNoOpLogHandler() }
    let service: Service
    do throws(SettingsError) { service = try Service(settings: settings, version: BuildInformation.version, logger: logger) } catch {
      throw InputFailure("\(error)")
    }
    do throws(ServerError) { try service.start() } catch { throw InputFailure("\(error)") }
    return (service, settings.host)
  }

  private func measure(_ target: Target) throws -> [HTTPBenchResult] {
    warmUp(target)
    let total = loads.reduce(0) { $0 + $1.requests }
    let progress = Progress("quire: requests")
    progress.update(done: 0, total: total, unit: .steps)
    var done = 0
    var results: [HTTPBenchResult] = []
    for load in loads {
      let plan = LoadPlan(
        url: target.url, model: target.model, tokenIDs: target.tokenIDs, promptTokens: load.prompt, maxTokens: load.generate,
        concurrency: load.concurrency, requests: load.requests)
      let result = LoadRun.run(plan) { progress.update(done: done + $0, total: total, unit: .steps) }
      done += load.requests
      results.append(HTTPBenchResult(plan, result))
    }
    progress.finish()
    if bench.json {
      try BenchReport(machine: target.reportedMachine, model: target.reportedModel, http: results).print()
    } else {
      printTable(target.title, results)
    }
    return results
  }

  /// One request before the clock runs: a server's first prompt pays for pages that are touched for the first time. Should it fail, so
  /// will the measured ones, and those say why.
  private func warmUp(_ target: Target) {
    guard let load = loads.first else { return }
    _ = LoadRun.run(
      LoadPlan(
        url: target.url, model: target.model, tokenIDs: target.tokenIDs, promptTokens: load.prompt, maxTokens: min(load.generate, 2),
        concurrency: 1, requests: 1))
  }

  private func printTable(_ title: String, _ results: [HTTPBenchResult]) {
    Terminal.print(title)
    Terminal.print("                                      tokens/s       first token, ms          gap between tokens, ms      whole, ms")
    Terminal.print("clients requests fail prompt  gen  output   prompt     p50     p90     p99    p50    p90    p99     max        p50")
    for r in results {
      let first = r.timeToFirstTokenMilliseconds
      let gap = r.gapMilliseconds
      let columns = [
        right("\(r.concurrency)", 7), right("\(r.requests)", 8), right("\(r.failures)", 4), right("\(r.promptTokens)", 6),
        right("\(r.generatedTokens)", 4), right(tenths(r.outputTokensPerSecond), 7), right(tenths(r.promptTokensPerSecond), 8),
        right(tenths(first.p50), 7), right(tenths(first.p90), 7), right(tenths(first.p99), 7), right(tenths(gap.p50), 6),
        right(tenths(gap.p90), 6), right(tenths(gap.p99), 6), right(tenths(gap.max), 7), right(tenths(r.endToEndMilliseconds.p50), 10),
      ]
      Terminal.print(columns.joined(separator: " "))
      if let error = r.firstError { Terminal.print("        first failure: \(error)") }
    }
    let cached = results.reduce(0) { $0 + $1.totalCachedPromptTokens }
    if cached > 0 { Terminal.print("\(cached) prompt tokens came from the server's prefix cache") }
  }

  /// One digit behind the point; a dash where nothing was measured.
  private func tenths(_ value: Double?) -> String { value.map { "\(($0 * 10).rounded() / 10)" } ?? "-" }
}
