// The flags of `quire bench --http`, and which others they exclude. Knows no server.

import ArgumentParser
import LoadClient

struct HTTPBenchOptions: ParsableArguments {
  @Flag(name: .customLong("http"), help: "Drive a server over TCP and report what its clients see.")
  var isOn = false

  @Option(help: ArgumentHelp("Server to drive, OpenAI completions; without it one is started here.", valueName: "http://host:port"))
  var url: String?

  @Option(help: ArgumentHelp("Clients at once. (default: 1,4,16)", valueName: "n,n"))
  var concurrency: String?

  @Option(help: ArgumentHelp("Requests in all, per row. (default: 4 per client)", valueName: "n"))
  var requests: String?

  /// Clients and server have a descriptor each in this process, and the usual limit is 1024.
  private static let maxConcurrency = 256
  private static let maxRequests = 1_000_000
  private static let defaultRequestsPerClient = 4

  /// Refuses combinations in which a flag would have no effect.
  func isWanted(by bench: Bench) throws -> Bool {
    guard isOn else {
      for (flag, value) in [("--url", url), ("--concurrency", concurrency), ("--requests", requests)] where value != nil {
        throw InputFailure("\(flag) needs --http")
      }
      return false
    }
    let others = [
      ("--depth", bench.depth != "0"), ("--batch", bench.batch != "1"), ("--repeat", bench.repetitions != 3), ("--stages", bench.stages),
    ]
    for (flag, isGiven) in others where isGiven { throw InputFailure("\(flag) does not go with --http") }
    if url != nil, let flag = bench.model.firstGivenFlag {
      throw InputFailure("\(flag) does not go with --url: the server there has its own model and settings")
    }
    return true
  }

  func concurrencies() throws -> [Int] { try numberList(concurrency ?? "1,4,16", flag: "--concurrency", in: 1...Self.maxConcurrency) }

  /// For one row.
  func requests(concurrency: Int) throws -> Int {
    guard let requests else { return Self.defaultRequestsPerClient * concurrency }
    let numbers = try numberList(requests, flag: "--requests", in: 1...Self.maxRequests)
    guard numbers.count == 1, let number = numbers.first else { throw InputFailure("--requests \(requests): one number") }
    guard number >= concurrency else {
      throw InputFailure("--requests \(number) leaves some of \(concurrency) clients (--concurrency) without any")
    }
    return number
  }

  func serverURL() throws -> ServerURL? {
    guard let url else { return nil }
    do throws(LoadClientError) { return try ServerURL(url) } catch { throw InputFailure("--url \(error)") }
  }
}

extension ModelOptions {
  /// nil: all are at their defaults.
  var firstGivenFlag: String? {
    let flags = [
      ("--model", model), ("--threads", threads), ("--pin-threads", pinThreads.map { "\($0)" }),
      ("--numa-interleave", numaInterleave.map { "\($0)" }), ("--compute", compute), ("--cache-type", cacheType),
      ("--cache-tokens", cacheTokens), ("--block-tokens", blockTokens), ("--max-batch-tokens", maxBatchTokens),
      ("--max-sequences", maxSequences),
    ]
    return flags.first { $0.1 != nil }?.0
  }
}
