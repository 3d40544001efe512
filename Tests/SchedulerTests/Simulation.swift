// A model of everything around the scheduler, for tests: callers that add and cancel, and an engine whose "latent" at a position is a hash
// of the whole history up to it, read and written through the block tables. A stale, evicted, foreign or overwritten block shows as a
// wrong hash; a mixed-up position as a wrong token. It does not know how the scheduler decides, only what it promised.

import Scheduler

/// splitmix64: the same numbers on every machine.
struct SeededGenerator: RandomNumberGenerator {
  var state: UInt64
  init(_ seed: UInt64) { state = seed }
  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    return mixed(state)
  }
}

func mixed(_ value: UInt64) -> UInt64 {
  var z = value
  z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
  z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
  return z ^ z >> 31
}

struct Simulation {
  private final class Log { var problems: [String] = [] }

  struct Known {
    var priority: Int
    var sampleSeed: UInt64
    var promptCount: Int
    var maxNewTokens: Int
    var leader: SequenceID?
    var history: [Int32]
    var latents: [UInt64]  // [history.count]: hash of the salt and history[0...position]
    var isRunning = false
    var wasAdmitted = false
    var computed = 0
    var promptDone = false

    var isComplete: Bool { history.count - promptCount >= maxNewTokens }
    func precedes(_ id: SequenceID, _ other: Known, _ otherID: SequenceID) -> Bool {
      (priority, id.rawValue) < (other.priority, otherID.rawValue)
    }
  }

  var scheduler: Scheduler
  let configuration: SchedulerConfiguration
  var batch = Batch()
  var isPlanned = false
  var known: [SequenceID: Known] = [:]
  var order: [SequenceID] = []  // of arrival; those still known
  var cache: [UInt64]  // [blockCount, blockTokens]
  /// Shared by copies: a problem in one branch of an exhaustive search stops all.
  private let log = Log()
  var operations = 0
  var preemptions = 0
  var tokensComputed = 0

  init(_ configuration: SchedulerConfiguration, hashSeed: UInt64 = 1, hashMask: UInt64 = .max) {
    scheduler = Scheduler(configuration, hashSeed: hashSeed, hashMask: hashMask)
    self.configuration = scheduler.configuration
    cache = Array(repeating: 0, count: self.configuration.blockCount * self.configuration.blockTokens)
  }

  var problems: [String] { log.problems }

  func check(_ condition: Bool, _ message: @autoclosure () -> String) {
    if !condition { log.problems.append("after \(operations) operations: \(message())") }
  }

  mutating func endOperation() {
    operations += 1
    for violation in scheduler.checkInvariants() { check(false, violation) }
    let statistics = scheduler.statistics
    let blocks = statistics.blocksInUse + statistics.blocksCached + statistics.blocksFree
    check(blocks == configuration.blockCount, "\(blocks) blocks of \(configuration.blockCount)")
    let complete = known.values.count { $0.isComplete }
    check(statistics.running + statistics.waiting + complete == known.count, "\(statistics) for \(known.count) sequences")
    check(statistics.preemptions == preemptions, "\(statistics.preemptions) preemptions counted, \(preemptions) seen")
  }

  // MARK: - Callers

  @discardableResult
  mutating func add(_ request: SequenceRequest, sampleSeed: UInt64 = 0) -> SequenceID? {
    defer { endOperation() }
    do {
      let id = try scheduler.add(request)
      var sequence = Known(
        priority: request.priority, sampleSeed: sampleSeed, promptCount: request.promptTokens.count,
        maxNewTokens: max(1, request.maxNewTokens), leader: request.follows, history: [], latents: [])
      for token in request.promptTokens { append(token, to: &sequence, salt: request.cacheSalt) }
      check(order.last.map { $0 < id } ?? true, "ids do not grow")
      known[id] = sequence
      order.append(id)
      return id
    } catch .queueFull(let limit) {
      check(scheduler.statistics.waiting >= limit, "refused with room in the queue")
    } catch .poolTooSmall(let needed, let available) {
      check(needed > available, "refused \(needed) positions of \(available)")
    } catch {
      check(
        request.promptTokens.isEmpty || request.promptTokens.count + max(1, request.maxNewTokens) > configuration.maxContextTokens,
        "\(error)")
    }
    return nil
  }

  private func append(_ token: Int32, to sequence: inout Known, salt: UInt64 = 0) {
    sequence.latents.append(latent(after: sequence.latents.last ?? mixed(salt &+ 77), token: token))
    sequence.history.append(token)
  }

  private func latent(after previous: UInt64, token: Int32) -> UInt64 {
    mixed(previous ^ UInt64(UInt32(bitPattern: token)) &* 0xFF51_AFD7_ED55_8CCD)
  }

  mutating func cancel(_ id: SequenceID) {
    scheduler.cancel(id)
    forget(id)
  }

  mutating func finish(_ id: SequenceID) {
    scheduler.finish(id)
    forget(id)
  }

  private mutating func forget(_ id: SequenceID) {
    known[id] = nil
    order.removeAll { $0 == id }
    check(scheduler.generatedCount(of: id) == nil, "a cancelled sequence is still known")
    endOperation()
  }

  // MARK: - Steps

  mutating func plan() {
    let before = known.filter { $0.value.isRunning }
    let wasIdle = scheduler.isIdle
    scheduler.plan(into: &batch)
    isPlanned = true
    preemptions += batch.preempted.count
    for id in batch.preempted {
      check(known[id]?.isRunning == true, "preempted a sequence that did not run")
      known[id]?.isRunning = false
      known[id]?.computed = 0
    }
    check(Set(batch.preempted).count == batch.preempted.count, "preempted twice in one plan")
    checkEntries()
    checkOrder(ranBefore: before)
    check(batch.isEmpty == wasIdle, "empty batch: \(batch.isEmpty), idle: \(wasIdle)")
    endOperation()
  }

  private mutating func checkEntries() {
    var rows = 0
    var tokens = 0
    var blocks = 0
    var writers: [Int32: SequenceID] = [:]
    for entry in batch.entries {
      check(entry.tokens.lowerBound == tokens && entry.blockTable.lowerBound == blocks && !entry.tokens.isEmpty, "gap in the batch")
      tokens = entry.tokens.upperBound
      blocks = entry.blockTable.upperBound
      rows += entry.logitsRows.count
      guard var sequence = known[entry.sequence] else { return check(false, "unknown sequence planned") }
      let end = entry.startPosition + entry.tokens.count
      guard end <= sequence.history.count else { return check(false, "planned beyond the known tokens") }
      check(!batch.preempted.contains(entry.sequence), "preempted and planned in one step")
      check(Array(batch.tokens[entry.tokens]) == Array(sequence.history[entry.startPosition..<end]), "wrong tokens")
      if sequence.isRunning {
        check(entry.startPosition == sequence.computed, "starts at \(entry.startPosition), computed \(sequence.computed)")
      } else {
        check(entry.startPosition % configuration.blockTokens == 0, "a hit of a part of a block")
        check(configuration.prefixCaching || entry.startPosition == 0, "a hit without a cache")
        check(batch.admitted.contains(entry.sequence) != sequence.wasAdmitted, "first admission reported wrongly")
        check(batch.preempted.isEmpty, "admitted in a step that preempted")
        if let leader = sequence.leader.flatMap({ known[$0] }) { check(leader.promptDone, "a follower came before its leader's prompt") }
      }
      sequence.isRunning = true
      sequence.wasAdmitted = true
      sequence.computed = entry.startPosition
      known[entry.sequence] = sequence
      let isLast = end == sequence.history.count
      check(entry.logitsRows == (isLast ? entry.tokens.count - 1..<entry.tokens.count : 0..<0), "wrong logits rows")
      check(entry.isPrefill == (entry.tokens.count > 1 || !isLast || entry.startPosition < sequence.promptCount), "prefill or decode")
      check(entry.tokens.count <= chunkLimit, "chunk of \(entry.tokens.count)")
      check(entry.blockTable.count == (end + configuration.blockTokens - 1) / configuration.blockTokens, "wrong table length")
      let table = batch.blockTable[entry.blockTable]
      for block in table.dropFirst(entry.startPosition / configuration.blockTokens) {
        check(writers.updateValue(entry.sequence, forKey: block) == nil, "two sequences write block \(block)")
      }
    }
    for entry in batch.entries {
      for block in batch.blockTable[entry.blockTable] {
        check(writers[block] ?? entry.sequence == entry.sequence, "block \(block) is read and written in one step")
      }
    }
    check(rows == batch.logitsRowCount && tokens == batch.tokens.count && blocks == batch.blockTable.count, "wrong totals")
    check(batch.tokens.count <= configuration.maxBatchTokens, "over budget: \(batch.tokens.count)")
    check(batch.entries.count <= configuration.maxSequences, "too many sequences")
    check(Set(batch.entries.map(\.sequence)).count == batch.entries.count, "a sequence planned twice")
  }

  /// Longest piece of a prompt in this step: the whole budget where no decode waits for the step.
  private var chunkLimit: Int {
    let hasDecode = batch.entries.contains { entry in
      entry.tokens.count == 1 && entry.tokens.count + entry.startPosition == known[entry.sequence]?.history.count
    }
    return hasDecode ? max(1, configuration.maxPrefillChunkTokens) : configuration.maxBatchTokens
  }

  /// Prompt tokens that the step may compute beside its decodes, and those it did compute. A decode that was granted and then preempted in
  /// the same step leaves a token's room.
  private func promptTokens(ranBefore: [SequenceID: Known]) -> (most: Int, computed: Int) {
    let decodes = batch.entries.count { entry in
      ranBefore[entry.sequence] != nil && entry.tokens.count == 1
        && entry.tokens.count + entry.startPosition == known[entry.sequence]?.history.count
    }
    let room = configuration.maxBatchTokens - decodes
    let preempted = batch.preempted.count
    guard decodes > 0 else { return (room, batch.tokens.count) }
    let cut = max(configuration.prefillTokensBesideDecodes, 6 * (decodes + preempted))
    return (min(room, cut + preempted), batch.tokens.count - decodes)
  }

  /// The promises on who runs: preemption order, admission order, decodes first, progress of the first, nothing left undone.
  private mutating func checkOrder(ranBefore: [SequenceID: Known]) {
    let planned = Dictionary(uniqueKeysWithValues: batch.entries.map { ($0.sequence, $0.tokens.count) })
    let prompts = promptTokens(ranBefore: ranBefore)
    check(prompts.computed <= prompts.most, "\(prompts.computed) prompt tokens beside decodes")
    for id in batch.preempted {
      guard let victim = known[id] else { continue }
      for (other, sequence) in ranBefore where !batch.preempted.contains(other) {
        check(sequence.precedes(other, victim, id), "preempted \(id.rawValue), spared \(other.rawValue)")
      }
    }
    for id in order {
      guard let sequence = known[id], !sequence.isComplete else { continue }
      if sequence.isRunning, sequence.history.count - sequence.computed == 1 { check(planned[id] == 1, "a decode got no token") }
      let wanted = min(sequence.history.count - sequence.computed, chunkLimit)
      if sequence.isRunning, let granted = planned[id], granted < wanted, batch.preempted.isEmpty, prompts.computed < prompts.most {
        let statistics = scheduler.statistics
        check(statistics.blocksFree + statistics.blocksCached == 0, "budget and blocks left, but a prompt got \(granted) of \(wanted)")
      }
      // Whoever was admitted in this step, nobody who could have been was passed.
      guard !sequence.isRunning, sequence.leader.flatMap({ known[$0] })?.promptDone ?? true else { continue }
      for entry in batch.entries where ranBefore[entry.sequence] == nil {
        guard let other = known[entry.sequence] else { continue }
        check(other.precedes(entry.sequence, sequence, id), "\(entry.sequence.rawValue) was admitted before \(id.rawValue)")
      }
    }
    let first = ranBefore.min { $0.value.precedes($0.key, $1.value, $1.key) }?.key
    if let first { check(planned[first] != nil, "the first running sequence got nothing") }
  }

  /// What the engine would do: latents through the block tables, one token per wanted row.
  mutating func forward() -> [Int32] {
    var sampled: [Int32] = []
    let blockTokens = configuration.blockTokens
    for entry in batch.entries {
      let table = Array(batch.blockTable[entry.blockTable])
      func cell(_ position: Int) -> Int { Int(table[position / blockTokens]) * blockTokens + position % blockTokens }
      guard let sequence = known[entry.sequence] else {
        sampled += entry.logitsRows.map { _ in -1 }  // cancelled since the plan
        continue
      }
      for position in 0..<entry.startPosition where cache[cell(position)] != sequence.latents[position] {
        check(false, "sequence \(entry.sequence.rawValue) reads a foreign latent at \(position) of \(entry.startPosition)")
        break
      }
      for offset in 0..<entry.tokens.count {
        let position = entry.startPosition + offset
        // The salt enters at position 0; afterwards only what the tables lead to.
        let latent =
          position == 0
          ? sequence.latents[0] : latent(after: cache[cell(position - 1)], token: batch.tokens[entry.tokens.lowerBound + offset])
        cache[cell(position)] = latent
      }
      tokensComputed += entry.tokens.count
      for row in entry.logitsRows {
        sampled.append(Int32(mixed(cache[cell(entry.startPosition + row)] ^ sequence.sampleSeed) % 3))
      }
    }
    return sampled
  }

  mutating func commit() {
    guard isPlanned else { return }
    isPlanned = false
    let sampled = forward()
    scheduler.commit(batch, sampledTokens: sampled)
    var row = 0
    for entry in batch.entries {
      row += entry.logitsRows.count
      guard var sequence = known[entry.sequence] else { continue }
      sequence.computed += entry.tokens.count
      if sequence.computed >= sequence.promptCount { sequence.promptDone = true }
      if !entry.logitsRows.isEmpty {
        // What it must be by its own history, whatever the cache held.
        let expected = Int32(mixed((sequence.latents.last ?? 0) ^ sequence.sampleSeed) % 3)
        check(sampled[row - 1] == expected, "wrong token for sequence \(entry.sequence.rawValue)")
        append(expected, to: &sequence)
      }
      if sequence.isComplete { sequence.isRunning = false }
      known[entry.sequence] = sequence
      check(
        scheduler.generatedCount(of: entry.sequence) == sequence.history.count - sequence.promptCount, "wrong count of generated tokens")
    }
    endOperation()
  }

  mutating func step() {
    plan()
    commit()
  }

  /// Runs until every sequence has all its tokens, finishes them, and checks that nothing is left.
  mutating func drain() {
    commit()
    var steps = 0
    while !scheduler.isIdle, problems.isEmpty {
      step()
      for id in order where known[id]?.isComplete == true { finish(id) }
      steps += 1
      if steps > 100_000 { return check(false, "no end: starvation or livelock") }
    }
    for id in order { check(known[id]?.isComplete == true, "idle, but sequence \(id.rawValue) has not all its tokens") }
    for id in order { finish(id) }
    let statistics = scheduler.statistics
    check(statistics.blocksInUse == 0 && statistics.running == 0 && statistics.waiting == 0, "leak: \(statistics)")
  }
}
