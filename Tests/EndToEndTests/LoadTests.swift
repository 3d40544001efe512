// Many clients through a small pool (must-hold 5), a long prompt beside a running stream (6), the idle process (9).
// Counts decide, never times. QUIRE_SOAK=SECONDS makes the storm as long as the issue asks for.

import Dispatch
import FoundationEssentials
import Glibc
import Synchronization
import Testing

@Suite("Load", .serialized)
struct LoadTests {
  private let model = "\(Fixtures.tiny)/v2lite-bf16"

  private var stormSeconds: Double { getenv("QUIRE_SOAK").flatMap { Double(String(cString: $0)) } ?? 4 }

  @Test("64 clients through a pool for 6: every request completes with the right text")
  func storm() throws {
    // A request holds up to 48 + 32 tokens: five blocks of 16. Six of them fit.
    let server = try ServerProcess.serve([
      "--model", model, "--compute", "exact", "--cache-type", "f32", "--cache-tokens", "480", "--block-tokens", "16",
      "--max-sequences", "32",
    ])
    defer { server.kill() }
    let prompts = (0..<8).map { n in (0..<48).map { ($0 * 7 + n * 41) % 300 } }
    let bodies = prompts.map {
      #"{"prompt": \#($0), "max_tokens": 32, "temperature": 0, "ignore_eos": true, "logprobs": 0, "return_tokens_as_token_ids": true}"#
    }
    let expected = try bodies.map { try Client(port: server.port).post("/v1/completions", $0).json(Completion.self).tokenIDs() }

    let before = server.residentBytes
    let completed = Atomic<Int>(0)
    let failed = Atomic<Int>(0)
    let end = DispatchTime.now() + stormSeconds
    let port = server.port
    DispatchQueue.concurrentPerform(iterations: 64, threads: 64) { worker in
      var turn = worker
      repeat {  // once at least, however late this thread began
        let which = turn % bodies.count
        let answer = try? Client(port: port).post("/v1/completions", bodies[which]).json(Completion.self)
        let right = answer?.tokenIDs() == expected[which]
        _ = right ? completed.add(1, ordering: .relaxed) : failed.add(1, ordering: .relaxed)
        turn += 1
      } while DispatchTime.now() < end
    }
    let metrics = try Metrics(server)
    let (right, wrong) = (completed.load(ordering: .relaxed), failed.load(ordering: .relaxed))
    #expect(wrong == 0)
    #expect(right >= 64)
    #expect(metrics["vllm:num_preemptions_total"] > 0)
    #expect(metrics["vllm:num_requests_running"] == 0)
    #expect(metrics["vllm:kv_cache_usage_perc"] == 0)
    let growth = server.residentBytes - before
    print(
      "storm: \(right) requests, \(metrics["vllm:num_preemptions_total"]) preemptions, memory +\(growth) B")
    #expect(growth < 48 << 20)
  }

  @Test("a stream keeps receiving tokens while a long prompt prefills")
  func longPromptBesideStream() throws {
    let chunkTokens = 128
    let server = try ServerProcess.serve([
      "--model", model, "--cache-tokens", "28672", "--max-batch-tokens", "\(chunkTokens)",
    ])
    defer { server.kill() }
    let stream = try Client(port: server.port)
    try stream.sendPost(
      "/v1/completions", #"{"prompt": [5, 6, 7], "max_tokens": 16000, "temperature": 0, "ignore_eos": true, "stream": true}"#)
    let port = server.port
    let prompt = (0..<8000).map { ($0 * 13 + 5) % 300 }
    let done = Atomic<Bool>(false)
    let prefilling = DispatchSemaphore(value: 0)
    var tokensBefore = 0
    var tokensDuring = 0
    DispatchQueue(label: "long prompt").async {
      prefilling.wait()
      _ = try? Client(port: port).post("/v1/completions", #"{"prompt": \#(prompt), "max_tokens": 1, "ignore_eos": true}"#)
      done.store(true, ordering: .releasing)
      prefilling.signal()
    }
    _ = try stream.readAnswer { chunk in
      let tokens = String(decoding: chunk, as: UTF8.self).split(separator: "\n\n").count
      if tokensBefore < 4 {
        tokensBefore += tokens
        if tokensBefore >= 4 { prefilling.signal() }
      } else {
        tokensDuring += tokens
      }
      return !done.load(ordering: .acquiring)
    }
    // 8,000 tokens take at least 62 steps of 128, and each of those steps carries a token of the stream.
    let isDone = done.load(ordering: .acquiring)
    #expect(isDone)
    #expect(tokensDuring >= 60, "only \(tokensDuring) tokens reached the client during the prefill")
  }

  @Test("an idle server sleeps")
  func idle() throws {
    let server = try ServerProcess.serve(["--model", model, "--cache-tokens", "1024"])
    defer { server.kill() }
    _ = try Client(port: server.port).post("/v1/completions", #"{"prompt": "warm", "max_tokens": 4}"#)
    // What the request left to do, among it memory made ready for the next one, may take long where other tests compute. And Dispatch's
    // threads end after 5 s without work, by code that was not in memory before: wait until nothing came for longer than that.
    var memory = -1
    for _ in 0..<8 where memory != server.residentBytes {
      memory = server.residentBytes
      sleep(6)
    }
    let (time, turns) = (server.processorSeconds, server.timesSlept)
    sleep(4)
    let (used, woken) = (server.processorSeconds - time, server.timesSlept - turns)
    #expect(woken <= 20, "\(woken) wake-ups in 4 s")
    // 0.5 % of a core for 4 s is 0.02 s: two clock ticks.
    #expect(used <= 0.02, "\(used) s of processor time in 4 s")
    #expect(server.residentBytes <= memory + 65536)
  }
}

extension DispatchQueue {
  /// Like `concurrentPerform`, with one real thread per iteration: blocking clients would starve a pool as wide as the machine.
  static func concurrentPerform(iterations: Int, threads: Int, _ body: @escaping @Sendable (Int) -> Void) {
    let group = DispatchGroup()
    for n in 0..<iterations {
      DispatchQueue(label: "client-\(n)").async(group: group) { body(n) }
    }
    group.wait()
  }
}
