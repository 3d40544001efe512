// Who gives way when blocks run out, who comes first, and that all of them arrive.

import Scheduler
import Testing

@Suite struct PreemptionTests {
  @Test func theYoungestOfTheWorstPriorityGivesWayAndComesBackFirst() throws {
    var simulation = makeSimulation(blockTokens: 2, blocks: 15, budget: 16, chunk: 16)
    let worst = try simulation.added(request(text(1, 2), new: 12, priority: 5))
    let best = try simulation.added(request(text(2, 2), new: 12, priority: -1))
    let older = try simulation.added(request(text(3, 2), new: 12))
    let younger = try simulation.added(request(text(4, 2), new: 12))
    simulation.step()
    #expect(simulation.batch.admitted == [best, older, younger, worst])
    var late: SequenceID?
    var preempted: [SequenceID] = []
    var returned: [SequenceID] = []
    while !simulation.scheduler.isIdle, simulation.problems.isEmpty {
      let running = Set(simulation.known.filter { $0.value.isRunning }.keys)
      simulation.step()
      preempted += simulation.batch.preempted
      returned += simulation.batch.entries.map(\.sequence).filter { !running.contains($0) }
      if late == nil, !preempted.isEmpty { late = try simulation.added(request(text(5, 2), new: 12, priority: 5)) }
    }
    #expect(returned == [younger, worst, late], "each to the front of its priority")
    #expect(preempted.prefix(2) == [worst, younger])
    #expect(!preempted.contains(best) && !preempted.contains(older))
    simulation.drain()
    simulation.expectNoProblems()
  }

  @Test func aPreemptedSequenceFindsItsBlocksAgain() throws {
    var simulation = makeSimulation(blockTokens: 2, blocks: 8, budget: 16, chunk: 16)
    let first = try simulation.added(request(text(1, 6), new: 5))
    let second = try simulation.added(request(text(2, 6), new: 5))
    var restarts: [Int] = []
    var wasPreempted = false
    while !simulation.scheduler.isIdle, simulation.problems.isEmpty {
      simulation.step()
      if wasPreempted, let range = simulation.planned[second] {
        restarts.append(range.lowerBound)
        wasPreempted = false
      }
      if simulation.batch.preempted == [second] { wasPreempted = true }
      if simulation.known[first]?.isComplete == true { simulation.finish(first) }
    }
    #expect(restarts.count == 1 && restarts.allSatisfy { $0 >= 4 }, "\(restarts)")
    #expect(simulation.scheduler.cachedPromptTokens(of: second) == 0, "recomputing is not a prompt served from the cache")
    #expect(simulation.scheduler.statistics.prefixHitTokens == 0)
    simulation.drain()
    simulation.expectNoProblems()
  }

  /// A decode is granted its token before an older prompt finds no block and preempts it: the prompt may use that token.
  @Test func whatAPreemptedSequenceWasGrantedGoesToOthers() throws {
    var fullSteps = 0
    for blocks in 10..<22 {
      for length in 2 * blocks - 8...2 * blocks - 4 {
        var simulation = makeSimulation(blockTokens: 2, blocks: blocks, budget: 3, chunk: 3)
        let old = try simulation.added(request(text(1, length), new: 2))
        let young = try simulation.added(request(text(2, 1), new: 2 * blocks - 2))
        while !simulation.scheduler.isIdle, simulation.problems.isEmpty {
          let before = simulation.known[young]
          simulation.step()
          guard simulation.batch.preempted == [young], let before, before.computed % 2 == 1 else { continue }
          // It needed no block for its next token, so it had been granted it.
          if let range = simulation.planned[old], range.upperBound < length {
            #expect(range.count == 3)
            fullSteps += 1
          }
        }
        simulation.drain()
        simulation.expectNoProblems()
      }
    }
    #expect(fullSteps > 0)
  }

  /// A sequence is not admitted only to be thrown out again: after a preemption it comes back when others have gone.
  @Test func noThrashing() throws {
    var simulation = makeSimulation(blockTokens: 2, blocks: 16, budget: 64, chunk: 64)
    for number in 0..<12 as Range<Int32> { _ = try simulation.added(request(text(number, 4), new: 20)) }
    var steps = 0
    while !simulation.scheduler.isIdle, simulation.problems.isEmpty {
      simulation.step()
      for id in simulation.order where simulation.known[id]?.isComplete == true { simulation.finish(id) }
      steps += 1
    }
    #expect(simulation.preemptions > 0)
    #expect(simulation.preemptions <= 3 * 12, "\(simulation.preemptions) preemptions")
    // 23 positions for each of 12, in a pool of 32: the work done twice stays small beside the work.
    #expect(simulation.tokensComputed < 2 * 12 * 23, "\(simulation.tokensComputed) tokens computed in \(steps) steps")
    simulation.drain()
    simulation.expectNoProblems()
  }

  @Test func sixtyFourClientsThroughAPoolForSix() throws {
    var simulation = makeSimulation(blockTokens: 4, blocks: 6 * 12, budget: 64, sequences: 32, chunk: 32)
    var lengths: [SequenceID: Int] = [:]
    for number in 0..<64 as Range<Int32> {
      let shared = number % 3 == 0 ? text(99, 8) : text(number, 8)
      lengths[try simulation.added(request(shared + [number], new: 20 + Int(number % 20)))] = 20 + Int(number % 20)
    }
    while !simulation.scheduler.isIdle, simulation.problems.isEmpty {
      simulation.step()
      for id in simulation.order where simulation.known[id]?.isComplete == true {
        #expect(simulation.scheduler.generatedCount(of: id) == lengths[id])
        simulation.finish(id)
      }
    }
    #expect(simulation.preemptions > 0 && simulation.known.isEmpty)
    simulation.drain()
    simulation.expectNoProblems()
  }

  @Test(arguments: [1, 2, 5, 32])
  func aPoolOfOneBlockServesOneAfterTheOther(blockTokens: Int) throws {
    var simulation = makeSimulation(blockTokens: blockTokens, blocks: 1, budget: 4, chunk: 2)
    for number in 0..<5 as Range<Int32> {
      let prompt = max(1, blockTokens / 2)
      _ = try simulation.added(request(text(number % 2, prompt), new: blockTokens - prompt + 1))
    }
    simulation.drain()
    #expect(simulation.preemptions == 0)
    simulation.expectNoProblems()
  }

  // MARK: - Order

  @Test func prioritiesFirstThenArrival() throws {
    var simulation = makeSimulation(sequences: 1)
    let priorities = [3, 0, -2, 0, 3, -2]
    let ids = try priorities.map { try simulation.added(request(text(1, 2), new: 2, priority: $0)) }
    var admitted: [SequenceID] = []
    while !simulation.scheduler.isIdle, simulation.problems.isEmpty {
      simulation.step()
      admitted += simulation.batch.admitted
    }
    #expect(admitted == [2, 5, 1, 3, 0, 4].map { ids[$0] })
    simulation.drain()
    simulation.expectNoProblems()
  }

  /// A large prompt at the head of the queue is not passed by small ones that would fit: they keep coming, and it still gets its turn.
  @Test func aStreamOfSmallOnesDoesNotStarveALargeOne() throws {
    var simulation = makeSimulation(blockTokens: 2, blocks: 10, budget: 16, chunk: 16)
    for number in 0..<4 as Range<Int32> { _ = try simulation.added(request(text(number, 2), new: 3)) }
    simulation.step()
    let large = try simulation.added(request(text(50, 18), new: 2))
    var steps = 0
    while simulation.known[large]?.wasAdmitted == false, steps < 50, simulation.problems.isEmpty {
      _ = try simulation.added(request(text(100 + Int32(steps), 2), new: 3))
      simulation.step()
      for id in simulation.order where simulation.known[id]?.isComplete == true { simulation.finish(id) }
      steps += 1
    }
    #expect(steps < 10, "admitted after \(steps) steps")
    simulation.drain()
    simulation.expectNoProblems()
  }

  /// What priority means: the worse one waits while better ones keep arriving, and runs when they stop.
  @Test func aWorsePriorityWaitsAsLongAsBetterOnesArrive() throws {
    var simulation = makeSimulation(sequences: 1)
    let patient = try simulation.added(request(text(1, 2), new: 2, priority: 1))
    for number in 0..<30 as Range<Int32> {
      _ = try simulation.added(request(text(number, 2), new: 2))
      simulation.step()
      simulation.step()
      for id in simulation.order where simulation.known[id]?.isComplete == true { simulation.finish(id) }
      #expect(simulation.known[patient]?.wasAdmitted == false)
    }
    simulation.step()
    #expect(simulation.planned[patient] != nil)
    simulation.drain()
    simulation.expectNoProblems()
  }

  // MARK: - Size

  /// A queue of 100,000: with work per step or per cancel in proportion to it, this would take hours.
  @Test func aLongQueueCostsNothingPerStep() throws {
    var scheduler = Scheduler(
      SchedulerConfiguration(blockTokens: 4, blockCount: 16, maxSequences: 4, maxWaiting: 200_000, maxContextTokens: 64))
    var generator = SeededGenerator(1)
    var ids: [SequenceID] = []
    let leader = try scheduler.add(request([1, 2], new: 30))
    for number in 0..<100_000 {
      ids.append(try scheduler.add(request([1, 2, 3], new: 30, priority: number % 3, follows: number % 5 == 0 ? leader : nil)))
    }
    ids.shuffle(using: &generator)
    var batch = Batch()
    for place in ids.indices {
      if place % 10 == 0 {
        scheduler.plan(into: &batch)
        scheduler.commit(batch, sampledTokens: Array(repeating: 1, count: batch.logitsRowCount))
      }
      scheduler.cancel(ids[place])
    }
    scheduler.cancel(leader)
    #expect(scheduler.isIdle && scheduler.statistics.blocksInUse == 0 && scheduler.statistics.waiting == 0)
  }
}
