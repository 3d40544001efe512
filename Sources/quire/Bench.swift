// `quire bench`: prompt and generation speed of the real scheduler and engine, at given depths and batch sizes.
// Knows what to run and how to print it; BenchRun.swift does the measuring. HTTPBench.swift is the other half, `--http`.

import ArgumentParser
import Engine
import Glibc
import Serving

struct Bench: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Measure prompt (prefill) and generation (decode) tokens per second.",
    discussion: """
      Every pair of --depth and --batch is measured: the prefill of --prompt tokens on top of --depth cached tokens in each of \
      --batch sequences, then the decoding of --generate tokens in each. Values are medians of --repeat runs.

      With --http a server is driven over TCP instead, by --concurrency clients that stream completions of random prompts: one \
      started here with the model, or the one at --url. Reported are rates, time to first token and gaps between tokens.
      """)

  @OptionGroup var model: ModelOptions

  @Option(help: ArgumentHelp("Prompt tokens per sequence; 0: no prefill figure.", valueName: "n"))
  var prompt: String = "512"

  @Option(help: ArgumentHelp("Tokens to generate per sequence; 0: no decode figure.", valueName: "n"))
  var generate: String = "64"

  @Option(help: ArgumentHelp("Tokens already in the cache.", valueName: "n,n"))
  var depth: String = "0"

  @Option(help: ArgumentHelp("Sequences at once.", valueName: "n,n"))
  var batch: String = "1"

  @Option(name: .customLong("repeat"), help: ArgumentHelp("Runs of each figure; the median counts.", valueName: "n"))
  var repetitions: Int = 3

  @Flag(help: "Print one JSON object instead of a table.")
  var json = false

  @Flag(help: "Also print where the time of each figure went: a roofline table.")
  var stages = false

  @OptionGroup(title: "Over HTTP") var http: HTTPBenchOptions

  func run() throws {
    if try http.isWanted(by: self) { return try HTTPBench(self).run() }
    let prompts = try numberList(prompt, flag: "--prompt", in: 0...1 << 20)
    let generates = try numberList(generate, flag: "--generate", in: 0...1 << 20)
    let depths = try numberList(depth, flag: "--depth", in: 0...1 << 20)
    let batches = try numberList(batch, flag: "--batch", in: 1...4096)
    guard (1...1000).contains(repetitions) else { throw InputFailure("--repeat \(repetitions): a number from 1 to 1000") }

    var settings = ServerSettings()
    settings.maxSequences = max(settings.maxSequences, batches.max() ?? 1)
    try model.apply(to: &settings)
    let longest = (prompts.max() ?? 0) + (generates.max() ?? 0) + (depths.max() ?? 0) + 2 * settings.blockTokens + 1
    if settings.cacheTokens == 0 { settings.cacheTokens = longest * (batches.max() ?? 1) }
    let loaded = try loadModel(try settings.checked())
    guard longest - 2 * settings.blockTokens <= loaded.served.maxContextTokens else {
      throw InputFailure("depth, prompt and generated tokens together exceed the context of \(loaded.served.maxContextTokens) tokens")
    }

    let run = BenchRun(loaded)
    var results: [BenchResult] = []
    let cases = depths.flatMap { depth in
      batches.flatMap { batch in prompts.flatMap { prompt in generates.map { (depth, batch, prompt, $0) } } }
    }
    let progress = Progress("quire: measuring")
    for (index, (depth, batch, prompt, generate)) in cases.enumerated() {
      progress.update(done: index, total: cases.count, unit: .steps)
      do {
        results += try run.measure(depth: depth, batch: batch, prompt: prompt, generate: generate, repetitions: repetitions)
      } catch { throw InputFailure("depth \(depth), batch \(batch): \(error)") }
    }
    progress.finish()
    let limits = json || stages ? loaded.transformer.measureLimits() : nil
    if let limits { results = results.map { $0.against(limits) } }
    if json { return try printJSON(loaded, results, limits) }
    printTable(loaded, results)
    if let limits { RooflineTable(limits: limits).print(results) }
  }

  private func printTable(_ loaded: LoadedModel, _ results: [BenchResult]) {
    let options = loaded.transformer.options
    Terminal.print(
      "\(loaded.served.name), \(options.threads) threads, \(loaded.transformer.kernelName), \(options.compute), cache \(options.cacheType)")
    Terminal.print("kind       prompt  generate     depth  batch    tokens/s   spread")
    for r in results {
      let columns = [
        left(r.kind, 8), right("\(r.promptTokens)", 8), right("\(r.generatedTokens)", 9), right("\(r.depth)", 9), right("\(r.batch)", 6),
        right("\(rounded(r.tokensPerSecond))", 11), right("\(Int((r.spread * 100).rounded())) %", 8),
      ]
      Terminal.print(columns.joined(separator: " "))
    }
  }

  private func printJSON(_ loaded: LoadedModel, _ results: [BenchResult], _ limits: MachineLimits?) throws {
    try BenchReport(machine: BenchMachine(loaded, limits: limits), model: BenchModel(loaded), results: results).print()
  }
}
