// Scenarios: admission, chunked prefill beside decode, prefix cache, followers, cancellation, limits. All through Simulation, so every
// step is also checked against the model.

import Scheduler
import Testing

func makeSimulation(
  blockTokens: Int = 4, blocks: Int = 64, budget: Int = 16, sequences: Int = 8, waiting: Int = 64, context: Int = 1000,
  caching: Bool = true, chunk: Int = 16, hashMask: UInt64 = .max
) -> Simulation {
  Simulation(
    SchedulerConfiguration(
      blockTokens: blockTokens, blockCount: blocks, maxBatchTokens: budget, maxSequences: sequences, maxWaiting: waiting,
      maxContextTokens: context, prefixCaching: caching, maxPrefillChunkTokens: chunk), hashMask: hashMask)
}

func request(
  _ tokens: [Int32], new: Int = 4, priority: Int = 0, salt: UInt64 = 0, follows: SequenceID? = nil
) -> SequenceRequest {
  SequenceRequest(promptTokens: tokens, maxNewTokens: new, priority: priority, cacheSalt: salt, follows: follows)
}

func text(_ number: Int32, _ count: Int) -> [Int32] { (0..<Int32(count)).map { number * 1000 + $0 } }

extension Simulation {
  mutating func added(_ request: SequenceRequest) throws -> SequenceID { try #require(add(request)) }
  /// Tokens planned for each sequence in the last plan, as (sequence, start, count).
  var planned: [SequenceID: Range<Int>] {
    Dictionary(uniqueKeysWithValues: batch.entries.map { ($0.sequence, $0.startPosition..<$0.startPosition + $0.tokens.count) })
  }
  func expectNoProblems() { #expect(problems.isEmpty, "\(problems.prefix(3))") }
}

@Suite struct SchedulerTests {
  @Test func aSequenceRunsFromPromptToItsLastToken() throws {
    var simulation = makeSimulation()
    let id = try simulation.added(request(text(1, 6), new: 3))
    simulation.step()
    #expect(simulation.planned == [id: 0..<6] && simulation.batch.entries[0].isPrefill && simulation.batch.admitted == [id])
    simulation.step()
    #expect(simulation.planned == [id: 6..<7] && !simulation.batch.entries[0].isPrefill && simulation.batch.admitted == [])
    simulation.step()
    #expect(simulation.scheduler.generatedCount(of: id) == 3 && simulation.scheduler.isIdle)
    #expect(simulation.scheduler.tokens(of: id)?.count == 9)
    // Its last token gave the blocks back; two of the eight computed positions' blocks are full and stay cached.
    #expect(simulation.scheduler.statistics.blocksInUse == 0 && simulation.scheduler.statistics.blocksCached == 2)
    simulation.finish(id)
    simulation.drain()
    simulation.expectNoProblems()
  }

  @Test func promptIsCutIntoChunksBesideADecodeAndTheBudgetIsMetExactly() throws {
    var simulation = makeSimulation(budget: 8, chunk: 5)
    let stream = try simulation.added(request(text(1, 2), new: 20))
    simulation.step()
    let long = try simulation.added(request(text(2, 17), new: 2))
    let other = try simulation.added(request(text(3, 9), new: 2))
    simulation.step()
    #expect(simulation.planned == [stream: 2..<3, long: 0..<5, other: 0..<2])
    simulation.step()  // 7 left after the decode: half for the first prompt, the rest in order, what is left over back to the first
    #expect(simulation.planned == [stream: 3..<4, long: 5..<9, other: 2..<5])
    #expect(simulation.batch.tokens.count == 8)
    var steps = 0
    while simulation.known[long].map({ !$0.promptDone }) == true {
      simulation.step()
      #expect(simulation.planned[stream]?.count == 1, "the stream stalled")
      steps += 1
    }
    #expect(steps == 2)
    simulation.drain()
    simulation.expectNoProblems()
  }

  @Test func twoLongPromptsBothProgressAndAShortOneGetsPast() throws {
    var simulation = makeSimulation(budget: 8, chunk: 8)
    let first = try simulation.added(request(text(1, 60)))
    simulation.step()
    #expect(simulation.planned == [first: 0..<8], "alone it takes all")
    let short = try simulation.added(request(text(3, 3), new: 1))
    let second = try simulation.added(request(text(2, 60)))
    simulation.step()
    #expect(simulation.planned == [first: 8..<12, short: 0..<3, second: 0..<1])
    simulation.step()
    #expect(simulation.planned == [first: 12..<16, second: 1..<5])
    simulation.drain()
    simulation.expectNoProblems()
  }

  @Test func logitsAreWantedOnlyForTheLastToken() throws {
    var simulation = makeSimulation(budget: 4, chunk: 4)
    let id = try simulation.added(request(text(1, 9)))
    for expected in [0, 0, 1] {
      simulation.plan()
      #expect(simulation.batch.logitsRowCount == expected)
      #expect(simulation.batch.entries[0].logitsRows.isEmpty == (expected == 0))
      simulation.commit()
    }
    #expect(simulation.scheduler.generatedCount(of: id) == 1)
    simulation.expectNoProblems()
  }

  // MARK: - Refusals

  @Test func whatCanNeverRunIsRefused() throws {
    var scheduler = Scheduler(SchedulerConfiguration(blockTokens: 4, blockCount: 3, maxWaiting: 2, maxContextTokens: 20))
    #expect(throws: SchedulerError.emptyPrompt) { _ = try scheduler.add(request([])) }
    #expect(throws: SchedulerError.promptTooLong(tokens: 21, limit: 20)) { _ = try scheduler.add(request(text(1, 20), new: 1)) }
    #expect(throws: SchedulerError.promptTooLong(tokens: .max, limit: 20)) { _ = try scheduler.add(request([1], new: .max)) }
    #expect(throws: SchedulerError.poolTooSmall(tokensNeeded: 13, tokensAvailable: 12)) {
      _ = try scheduler.add(request(text(1, 10), new: 4))
    }
    _ = try scheduler.add(request(text(1, 10), new: 3))  // the last token needs no position
    _ = try scheduler.add(request([1], new: .min, priority: .min))
    #expect(throws: SchedulerError.queueFull(limit: 2)) { _ = try scheduler.add(request([1])) }
    #expect(scheduler.checkInvariants() == [])
  }

  @Test func hostileConfigurationsAreClamped() throws {
    for value in [Int.min, -1, 0] {
      var scheduler = Scheduler(
        SchedulerConfiguration(
          blockTokens: value, blockCount: value, maxBatchTokens: value, maxSequences: value, maxWaiting: value, maxContextTokens: 3,
          maxPrefillChunkTokens: value, prefillTokensBesideDecodes: value))
      var batch = Batch()
      let id = try scheduler.add(request([1], new: 1))
      scheduler.plan(into: &batch)
      scheduler.commit(batch, sampledTokens: [1])
      #expect(scheduler.generatedCount(of: id) == 1)
    }
    let large = SchedulerConfiguration(
      blockTokens: .max, blockCount: .max, maxBatchTokens: .max, maxSequences: .max, maxWaiting: .max, maxContextTokens: .max,
      maxPrefillChunkTokens: .max
    ).clamped()
    #expect(!large.blockTokens.multipliedReportingOverflow(by: large.blockCount).overflow && large.maxSequences <= large.maxBatchTokens)
  }

  /// Streams wait for the whole step: beside them prompts get few tokens, more as there are more streams, and all where there is none.
  @Test func promptsLeaveStreamsSmooth() throws {
    var scheduler = Scheduler(
      SchedulerConfiguration(
        blockTokens: 4, blockCount: 1000, maxBatchTokens: 64, maxSequences: 16, maxContextTokens: 1000, maxPrefillChunkTokens: 64,
        prefillTokensBesideDecodes: 20))
    var batch = Batch()
    func step() -> Int {
      scheduler.plan(into: &batch)
      scheduler.commit(batch, sampledTokens: [Int32](repeating: 5, count: batch.logitsRowCount))
      return batch.tokens.count
    }
    func tokens(_ seed: Int32, _ count: Int) -> [Int32] { (0..<Int32(count)).map { seed &* 1000 &+ $0 } }
    _ = try scheduler.add(request(tokens(1, 200), new: 50))
    #expect((0..<4).map { _ in step() } == [64, 64, 64, 8], "nobody waits: the whole step")
    _ = try scheduler.add(request(tokens(2, 100), new: 50))
    #expect((0..<5).map { _ in step() } == [21, 21, 21, 21, 21], "one stream: 20 beside it")
    for other in 3..<6 { _ = try scheduler.add(request(tokens(Int32(other), 30), new: 50)) }
    #expect(step() == 22, "two streams: 20 is more than 6 for each")
    while batch.entries.contains(where: \.isPrefill) { _ = step() }
    for other in 6..<8 { _ = try scheduler.add(request([Int32(other)], new: 50)) }
    while batch.entries.count < 7 { _ = step() }
    _ = try scheduler.add(request(tokens(9, 300), new: 2))
    #expect(step() == 7 + 42, "seven streams: 6 for each")
    #expect(scheduler.checkInvariants() == [])
  }

  // MARK: - Prefix cache

  @Test func aRepeatedPromptIsServedFromTheCacheExceptItsLastToken() throws {
    var simulation = makeSimulation()
    for (count, hit) in [(12, 8), (13, 12), (3, 0), (11, 8), (5, 4)] {
      var simulation = makeSimulation()
      let first = try simulation.added(request(text(1, count), new: 1))
      simulation.step()
      simulation.finish(first)
      let second = try simulation.added(request(text(1, count), new: 1))
      #expect(simulation.scheduler.cachedPromptTokens(of: second) == 0)
      simulation.step()
      #expect(simulation.planned == [second: hit..<count])
      #expect(simulation.scheduler.cachedPromptTokens(of: second) == hit && simulation.scheduler.cachedPromptTokens(of: first) == nil)
      let statistics = simulation.scheduler.statistics
      #expect(statistics.prefixQueriesTokens == 2 * count && statistics.prefixHitTokens == hit)
      simulation.drain()
      simulation.expectNoProblems()
    }
    // Generated tokens are cached as prompt tokens are: a second turn of a conversation finds the first answer.
    let first = try simulation.added(request(text(1, 5), new: 8))
    for _ in 0..<8 { simulation.step() }
    let history = try #require(simulation.scheduler.tokens(of: first))
    simulation.finish(first)
    let second = try simulation.added(request(history + [5, 6, 7], new: 1))
    simulation.step()
    #expect(simulation.scheduler.cachedPromptTokens(of: second) == 12)
    simulation.expectNoProblems()
  }

  @Test func blocksOfTheSameStepAreNotHitButThenHeldOnce() throws {
    var simulation = makeSimulation(budget: 64, chunk: 32)
    let first = try simulation.added(request(text(1, 9), new: 5))
    let second = try simulation.added(request(text(1, 9), new: 5))
    simulation.step()
    #expect(simulation.planned == [first: 0..<9, second: 0..<9])
    // Twins are joined at the commit: two shared full blocks and one block each for position 8.
    #expect(simulation.scheduler.statistics.blocksInUse == 4)
    simulation.drain()
    simulation.expectNoProblems()
  }

  @Test func differentSaltsShareNothing() throws {
    var simulation = makeSimulation()
    let first = try simulation.added(request(text(1, 12), new: 6, salt: 1))
    simulation.step()
    let second = try simulation.added(request(text(1, 12), new: 6, salt: 2))
    let third = try simulation.added(request(text(1, 12), new: 6, salt: 1))
    simulation.step()
    #expect(simulation.planned[second] == 0..<12 && simulation.scheduler.cachedPromptTokens(of: third) == 8)
    #expect(simulation.known[first] != nil)
    simulation.drain()
    simulation.expectNoProblems()
  }

  @Test(arguments: [UInt64(0), 1, .max])
  func collidingHashesNeverShareAForeignBlock(mask: UInt64) throws {
    var simulation = makeSimulation(budget: 200, chunk: 50, hashMask: mask)
    var ids: [SequenceID] = []
    for number in 0..<4 as Range<Int32> { ids.append(try simulation.added(request(text(number, 9), new: 6, salt: UInt64(number % 2)))) }
    simulation.step()
    for id in ids { #expect(simulation.planned[id] == 0..<9) }
    let again = try simulation.added(request(text(2, 9), new: 1))
    let mixture = try simulation.added(request(text(2, 4) + text(3, 8).suffix(4) + [1], new: 1))  // blocks 1 of another chain
    simulation.step()
    #expect(simulation.scheduler.cachedPromptTokens(of: again) == 8 && simulation.scheduler.cachedPromptTokens(of: mixture) == 4)
    simulation.drain()
    simulation.expectNoProblems()
  }

  @Test func theLeastRecentlyUsedPrefixIsEvictedTailFirst() throws {
    var simulation = makeSimulation(blocks: 6)
    for number in [1, 2, 1] as [Int32] {  // text 2 is now the less recently used one
      let id = try simulation.added(request(text(number, 13), new: 1))
      simulation.step()
      simulation.finish(id)
    }
    func cached(_ number: Int32) throws -> Int? {
      var copy = simulation
      let id = try copy.added(request(text(number, 13), new: 1))
      copy.plan()
      return copy.scheduler.cachedPromptTokens(of: id)
    }
    #expect(try cached(1) == 12)
    #expect(try cached(2) == 8, "3 + 3 full blocks in 6, of which one had to hold position 12: the tail of text 2 went")
    let id = try simulation.added(request(text(3, 5), new: 1))  // takes two blocks
    simulation.step()
    simulation.finish(id)
    #expect(try cached(1) == 12)
    #expect(try cached(2) == 4)
    simulation.expectNoProblems()
  }

  @Test func withoutPrefixCachingNothingIsKept() throws {
    var simulation = makeSimulation(caching: false)
    let first = try simulation.added(request(text(1, 12), new: 2))
    simulation.step()
    let second = try simulation.added(request(text(1, 12), new: 2))
    simulation.step()
    #expect(simulation.planned[second] == 0..<12 && simulation.scheduler.generatedCount(of: first) == 2)
    simulation.drain()
    #expect(simulation.scheduler.statistics.blocksFree == 64)
    simulation.expectNoProblems()
  }

  // MARK: - Followers

  @Test func followersShareTheLeadersPrefill() throws {
    var simulation = makeSimulation(budget: 8, chunk: 8)
    let leader = try simulation.added(request(text(1, 17), new: 6))
    let followers = try (0..<3).map { _ in try simulation.added(request(text(1, 17), new: 6, follows: leader)) }
    for expected in [0..<8, 8..<16, 16..<17] {
      simulation.step()
      #expect(simulation.planned == [leader: expected])
    }
    simulation.step()
    for id in followers { #expect(simulation.planned[id] == 16..<17 && simulation.scheduler.cachedPromptTokens(of: id) == 16) }
    #expect(simulation.scheduler.statistics.blocksInUse == 4 + 4, "four shared, one each")
    simulation.drain()
    simulation.expectNoProblems()
  }

  @Test(arguments: 0..<4)
  func followersOutliveTheirLeader(stage: Int) throws {
    var simulation = makeSimulation(budget: 4, sequences: 2, chunk: 4)
    let leader = try simulation.added(request(text(1, 12), new: 2))
    let follower = try simulation.added(request(text(1, 12), new: 2, follows: leader))
    let grandchild = try simulation.added(request(text(1, 12), new: 2, follows: follower))
    let doomed = try simulation.added(request(text(1, 12), new: 2, follows: leader))
    let late = try simulation.added(request(text(2, 3), new: 1))
    simulation.cancel(doomed)
    if stage > 0 { simulation.step() }
    if stage > 1 { simulation.plan() }
    simulation.cancel(leader)
    if stage > 2 { simulation.commit() }
    simulation.plan()
    #expect(simulation.planned[follower] != nil && simulation.planned[grandchild] == nil)
    simulation.commit()
    #expect(simulation.known[late] != nil)
    simulation.drain()
    simulation.expectNoProblems()
  }

  @Test func followingAnUnknownOrFinishedSequenceIsNoHindrance() throws {
    var simulation = makeSimulation()
    let ghost = try simulation.added(request(text(1, 3), follows: SequenceID(rawValue: .max)))
    simulation.step()
    let late = try simulation.added(request(text(1, 3), follows: ghost))
    simulation.step()
    #expect(simulation.planned.keys.sorted() == [ghost, late])
    simulation.drain()
    simulation.expectNoProblems()
  }

  // MARK: - Cancellation, and plans that come to nothing

  /// Waiting, prefilling, decoding, complete; before the plan, between plan and commit, after the commit.
  @Test(arguments: 0..<6, [false, true])
  func cancelAtEveryStage(steps: Int, afterPlan: Bool) throws {
    var simulation = makeSimulation(blockTokens: 2, budget: 3, chunk: 3)
    let other = try simulation.added(request(text(1, 7), new: 5))
    let id = try simulation.added(request(text(1, 7), new: 2))
    for _ in 0..<steps { simulation.step() }
    if afterPlan { simulation.plan() }
    simulation.cancel(id)
    if afterPlan { simulation.commit() }
    simulation.cancel(id)
    simulation.step()
    #expect(simulation.planned[id] == nil)
    simulation.drain()
    #expect(simulation.scheduler.statistics.blocksInUse == 0 && simulation.known[other] == nil)
    simulation.expectNoProblems()
  }

  @Test func aSlotUsedAgainIsAnotherSequence() throws {
    var simulation = makeSimulation()
    let old = try simulation.added(request(text(1, 3)))
    simulation.plan()
    simulation.cancel(old)
    let new = try simulation.added(request(text(2, 5)))
    #expect(new != old && new > old)
    simulation.commit()  // the row of the old one is not the new one's token
    #expect(simulation.scheduler.generatedCount(of: new) == 0 && simulation.scheduler.generatedCount(of: old) == nil)
    simulation.cancel(old)
    #expect(simulation.scheduler.generatedCount(of: new) == 0)
    simulation.drain()
    simulation.expectNoProblems()
  }

  @Test func onlyTheLatestPlanIsCommittedAndOnlyOnce() throws {
    var scheduler = Scheduler(SchedulerConfiguration(blockTokens: 2, blockCount: 8, maxContextTokens: 16))
    let id = try scheduler.add(request(text(1, 3), new: 9))
    var (old, new) = (Batch(), Batch())
    scheduler.plan(into: &old)
    scheduler.plan(into: &new)
    #expect(old.entries == new.entries)
    scheduler.commit(old, sampledTokens: [1])
    #expect(scheduler.generatedCount(of: id) == 0)
    scheduler.commit(new, sampledTokens: [])  // too few tokens: as if it had not run
    #expect(scheduler.generatedCount(of: id) == 0 && scheduler.checkInvariants() == [])
    scheduler.plan(into: &new)
    scheduler.commit(new, sampledTokens: [1])
    scheduler.commit(new, sampledTokens: [1])
    #expect(scheduler.generatedCount(of: id) == 1 && scheduler.checkInvariants() == [])
  }
}
