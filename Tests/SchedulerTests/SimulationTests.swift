// Random and exhaustive runs of the scheduler against the model in Simulation.swift; all invariants are checked after every operation.
// QUIRE_SOAK=1 raises the random run to more than 10^6 operations (use `-c release`).

import FoundationEssentials
import Scheduler
import Testing

private let isSoak = ProcessInfo.processInfo.environment["QUIRE_SOAK"] == "1"

@Suite struct SimulationTests {
  /// One scheduler's life: random sizes, some hundred random operations, then drained.
  private func episode(_ generator: inout SeededGenerator, operations: Int) -> Simulation {
    let blockTokens = Bool.random(using: &generator) ? Int.random(in: 1...4, using: &generator) : Int.random(in: 1...32, using: &generator)
    let blockCount =
      Int.random(in: 0..<4, using: &generator) == 0 ? Int.random(in: 1...6, using: &generator) : Int.random(in: 7...48, using: &generator)
    let budget = Int.random(in: 1...64, using: &generator)
    let configuration = SchedulerConfiguration(
      blockTokens: blockTokens, blockCount: blockCount, maxBatchTokens: budget,
      maxSequences: Int.random(in: 2...10, using: &generator), maxWaiting: Int.random(in: 1...16, using: &generator),
      maxContextTokens: Bool.random(using: &generator) ? 150 : Int.random(in: 2...150, using: &generator),
      prefixCaching: Int.random(in: 0..<8, using: &generator) > 0,
      maxPrefillChunkTokens: Int.random(in: 1...budget, using: &generator),
      prefillTokensBesideDecodes: Bool.random(using: &generator) ? .max : Int.random(in: 1...budget, using: &generator))
    let mask = [UInt64.max, .max, .max, 0, 1, 0x700].randomElement(using: &generator) ?? .max
    var simulation = Simulation(configuration, hashSeed: generator.next(), hashMask: mask)
    while simulation.operations < operations, simulation.problems.isEmpty { operate(&simulation, &generator) }
    simulation.drain()
    return simulation
  }

  private func operate(_ simulation: inout Simulation, _ generator: inout SeededGenerator) {
    switch Int.random(in: 0..<100, using: &generator) {
    case 0..<22: simulation.add(request(simulation, &generator), sampleSeed: UInt64.random(in: 0..<3, using: &generator))
    case 22..<25:
      guard let id = simulation.order.randomElement(using: &generator) else { return }
      if Bool.random(using: &generator) { simulation.cancel(id) } else { simulation.finish(id) }
    case 25..<26: simulation.cancel(SequenceID(rawValue: generator.next() >> UInt64.random(in: 0..<64, using: &generator)))
    case 26..<32: simulation.plan()  // perhaps over one that was never committed
    case 32..<40: simulation.commit()
    default: simulation.step()
    }
    for id in simulation.order where simulation.known[id]?.isComplete == true {
      if Int.random(in: 0..<4, using: &generator) > 0 { simulation.finish(id) }
    }
  }

  /// Prompts are prefixes of a few texts, sometimes with one token changed: most share blocks with earlier ones, full or in part.
  private func request(_ simulation: Simulation, _ generator: inout SeededGenerator) -> SequenceRequest {
    let capacity = simulation.configuration.blockCount * simulation.configuration.blockTokens
    let most = min(capacity, simulation.configuration.maxContextTokens) + (Int.random(in: 0..<20, using: &generator) == 0 ? 9 : 0)
    // Half of them short, with much to generate: these grow while they run, and so push each other out.
    let longest = Bool.random(using: &generator) ? max(1, most) : max(1, most / 8)
    let count = Int.random(in: 0..<40, using: &generator) == 0 ? 0 : Int.random(in: 1...longest, using: &generator)
    let text = UInt64.random(in: 0..<3, using: &generator)
    var tokens = (0..<count).map { Int32(truncatingIfNeeded: mixed(text << 32 | UInt64($0)) % 3) }
    if count > 0, Int.random(in: 0..<3, using: &generator) == 0 { tokens[Int.random(in: 0..<count, using: &generator)] = 7 }
    return SequenceRequest(
      promptTokens: tokens, maxNewTokens: Int.random(in: -1...max(1, most - count), using: &generator),
      priority: Int.random(in: 0..<3, using: &generator) - 1, cacheSalt: UInt64.random(in: 0..<2, using: &generator),
      follows: Int.random(in: 0..<3, using: &generator) == 0 ? simulation.order.randomElement(using: &generator) : nil)
  }

  @Test(arguments: 0..<4)
  func randomOperations(lane: Int) {
    let wanted = isSoak ? 400_000 : 15_000
    var operations = 0
    var (preemptions, hits, tokens) = (0, 0, 0)
    var seed = UInt64(lane) << 32
    while operations < wanted {
      var generator = SeededGenerator(seed)
      let simulation = episode(&generator, operations: 500)
      #expect(simulation.problems.isEmpty, "seed \(seed): \(simulation.problems.prefix(5))")
      guard simulation.problems.isEmpty else { return }
      operations += simulation.operations
      preemptions += simulation.preemptions
      hits += simulation.scheduler.statistics.prefixHitTokens
      tokens += simulation.tokensComputed
      seed += 1
    }
    // The run must have met what it is there for.
    #expect(preemptions > wanted / 300)
    #expect(hits > wanted / 50)
    if isSoak { print("lane \(lane): \(operations) operations, \(preemptions) preemptions, \(hits) hit tokens, \(tokens) computed tokens") }
  }

  /// Every sequence of operations up to a depth, from an alphabet that meets all phases, in pools of 1 to 3 blocks of 1 or 2 tokens.
  @Test(arguments: [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)])
  func everyShortHistory(blockCount: Int, blockTokens: Int) {
    let configuration = SchedulerConfiguration(
      blockTokens: blockTokens, blockCount: blockCount, maxBatchTokens: 3, maxSequences: 2, maxWaiting: 2, maxContextTokens: 6,
      maxPrefillChunkTokens: 2)
    var visited = 0
    explore(Simulation(configuration), depth: isSoak ? 7 : 4, &visited)
    #expect(visited > 500)
  }

  private func explore(_ simulation: Simulation, depth: Int, _ visited: inout Int) {
    visited += 1
    guard depth > 0 else {
      var end = simulation
      end.drain()
      #expect(end.problems.isEmpty)
      return
    }
    for operation in 0..<7 {
      var next = simulation
      switch operation {
      case 0: next.add(SequenceRequest(promptTokens: [1], maxNewTokens: 2))
      case 1: next.add(SequenceRequest(promptTokens: [1, 2], maxNewTokens: 1, priority: 1))
      case 2: next.add(SequenceRequest(promptTokens: [1, 2], maxNewTokens: 2, follows: next.order.last))
      case 3: next.plan()
      case 4: if next.isPlanned { next.commit() } else { next.step() }
      case 5: if let id = next.order.first { next.cancel(id) } else { continue }
      default: if next.order.count > 1, let id = next.order.last { next.finish(id) } else { continue }
      }
      #expect(next.problems.isEmpty, "operation \(operation)")
      if next.problems.isEmpty { explore(next, depth: depth - 1, &visited) }
    }
  }
}
