// The plan of a step: who gets how many tokens, who is preempted, who is admitted. It does not know what the tokens mean or how long
// a step takes.
//
// One rule for prefill and decode: a sequence has computed and total tokens, and a step tops sequences up within `maxBatchTokens`.
//   1. Running sequences that lack one token (decodes) get it. If there are any, what is left for prompts is cut to
//      `prefillTokensBesideDecodes`, or 6 per decode: their next token waits for the whole step.
//   2. Running prompts, best priority and oldest first, share what is left, each at most `maxPrefillChunkTokens`. The first of them
//      takes at most half while others want tokens too: two long prompts both progress, and a short one gets past a long one.
//   3. Waiting sequences are admitted in order, while budget, seats and blocks last, unless this step had to preempt.
//   4. What nobody took goes to the prompts of 2 and 3, first to last; beyond `maxPrefillChunkTokens` only in a step without decodes,
//      which nobody's next token waits for.
// Grants are collected first and written to the batch last, so a sequence preempted half way through leaves no trace in it.

extension Scheduler {
  /// Fills the batch with one step's work (empty if there is none). May preempt. A plan that was never committed is forgotten.
  ///
  /// O(running sequences + tokens planned + prompt of the first waiting sequence); allocates nothing once arrays have grown, but for the
  /// tables of newly admitted sequences.
  package mutating func plan(into batch: inout Batch) {
    if openStep != 0 {
      for slot in running { trimTable(of: Int(slot)) }
    }
    steps += 1
    openStep = steps
    batch.reset(step: steps)
    budgetLeft = configuration.maxBatchTokens
    grantDecodes(&batch)
    leaveForPrompts()
    grantPrompts(&batch)
    if batch.preempted.isEmpty { admitWaiting(&batch) }
    topUpPrompts()
    for slot in running where sequences[Int(slot)].granted > 0 { write(Int(slot), into: &batch) }
  }

  private mutating func grantDecodes(_ batch: inout Batch) {
    var place = 0
    while place < running.count {
      let slot = Int(running[place])
      if sequences[slot].uncomputed == 1 { grant(1, to: slot, &batch) }
      place += 1
    }
  }

  /// A step that streams wait for computes few prompt tokens.
  private mutating func leaveForPrompts() {
    let decodes = configuration.maxBatchTokens - budgetLeft  // one token each, and nothing else is granted yet
    guard decodes > 0 else { return }
    budgetLeft = min(budgetLeft, max(configuration.prefillTokensBesideDecodes, decodes * SchedulerConfiguration.prefillTokensPerDecode))
  }

  private mutating func grantPrompts(_ batch: inout Batch) {
    var place = 0
    var isFirst = true
    while place < running.count, budgetLeft > 0 {
      let slot = Int(running[place])
      place += 1
      let uncomputed = sequences[slot].uncomputed
      guard uncomputed > 1 else { continue }
      let share = isFirst ? (budgetLeft + 1) / 2 : budgetLeft
      isFirst = false
      grant(min(uncomputed, share, configuration.maxPrefillChunkTokens), to: slot, &batch)
    }
  }

  /// Grants up to `wanted` tokens, cut to the blocks at hand; while there is not even room for one, preempts the last running sequence
  /// (which may be this one). The first of the running ones always gets at least one token: with all others gone every block
  /// it does not hold is available, and `add` made sure that the pool holds it whole.
  private mutating func grant(_ wanted: Int, to slot: Int, _ batch: inout Batch) {
    while !extend(slot, by: min(wanted, budgetLeft)), let last = running.last {
      preempt(Int(last), &batch)
      if last == Int32(slot) { return }
    }
  }

  /// Grants up to `count` tokens and takes the blocks for them. False if there is no room for even one.
  private mutating func extend(_ slot: Int, by count: Int) -> Bool {
    guard count > 0 else { return true }
    let blockTokens = configuration.blockTokens
    let reach = sequences[slot].computed + sequences[slot].granted
    let room = (sequences[slot].blocks.count + pool.availableCount) * blockTokens - reach
    let granted = min(count, room)
    guard granted > 0 else { return false }
    while sequences[slot].blocks.count * blockTokens < reach + granted, let block = takeBlock() {
      sequences[slot].blocks.append(block)
    }
    sequences[slot].granted += granted
    budgetLeft -= granted
    return true
  }

  /// The last running sequence back to the front of its priority. Its full blocks stay reusable, so recomputing it is cheap if it is soon.
  private mutating func preempt(_ slot: Int, _ batch: inout Batch) {
    budgetLeft += sequences[slot].granted
    sequences[slot].granted = 0
    running.removeLast()
    releaseBlocks(of: slot)
    enqueue(slot)
    counters.preemptions += 1
    batch.preempted.append(sequences[slot].id)
  }

  private mutating func topUpPrompts() {
    let hasDecodes = running.contains { sequences[Int($0)].granted == 1 && sequences[Int($0)].uncomputed == 1 }
    let limit = hasDecodes ? configuration.maxPrefillChunkTokens : configuration.maxBatchTokens
    var place = 0
    while place < running.count, budgetLeft > 0 {
      let slot = Int(running[place])
      place += 1
      let granted = sequences[slot].granted
      let wanted = min(sequences[slot].uncomputed, limit) - granted
      if granted > 0, wanted > 0 { _ = extend(slot, by: min(wanted, budgetLeft)) }
    }
  }

  // MARK: - Admission

  /// A sequence is admitted when blocks are at hand for all its known tokens, for what the running ones still lack for theirs, and for one
  /// more block per running sequence: so that it is not preempted again at once. When nothing runs, that is always true.
  private mutating func admitWaiting(_ batch: inout Batch) {
    guard waiting.count > 0, budgetLeft > 0, running.count < configuration.maxSequences else { return }
    let blockTokens = configuration.blockTokens
    var reserved = running.count
    for slot in running {
      let knownTokens = sequences[Int(slot)].tokens.count
      reserved += max(0, (knownTokens + blockTokens - 1) / blockTokens - sequences[Int(slot)].blocks.count)
    }
    while budgetLeft > 0, running.count < configuration.maxSequences, let slot = waiting.first {
      let hash = matchPrefix(of: slot)
      let unheld = matched.count(where: { pool.states[Int($0)] == .reusable })
      let missing = (sequences[slot].tokens.count + blockTokens - 1) / blockTokens - matched.count
      guard missing + unheld + reserved <= pool.availableCount else { return }
      _ = waiting.popFirst()
      admit(slot, chainHash: hash, &batch)
      _ = extend(slot, by: min(sequences[slot].uncomputed, configuration.maxPrefillChunkTokens, budgetLeft))
      reserved += 1 + matched.count + missing - sequences[slot].blocks.count
    }
  }

  /// Fills `matched` with the indexed blocks that hold the sequence's longest known prefix, the last token left out; returns their hash.
  private mutating func matchPrefix(of slot: Int) -> UInt64 {
    matched.removeAll(keepingCapacity: true)
    let salt = sequences[slot].cacheSalt
    var hash = index.rootHash(salt: salt)
    guard configuration.prefixCaching else { return hash }
    let blockTokens = configuration.blockTokens
    let limit = (sequences[slot].tokens.count - 1) / blockTokens
    while matched.count < limit {
      let start = matched.count * blockTokens
      let next = index.chainHash(parent: hash, source: sequences[slot].tokens, start: start)
      guard
        let block = index.find(
          hash: next, parent: matched.last ?? PrefixIndex.root, salt: salt, source: sequences[slot].tokens, start: start)
      else { break }
      matched.append(block)
      hash = next
    }
    return hash
  }

  /// Gives the sequence a seat and the matched blocks.
  private mutating func admit(_ slot: Int, chainHash: UInt64, _ batch: inout Batch) {
    let blockTokens = configuration.blockTokens
    let positions = sequences[slot].promptCount + sequences[slot].maxNewTokens
    sequences[slot].blocks.reserveCapacity((positions + blockTokens - 1) / blockTokens)
    for block in matched {
      pool.acquire(block)
      sequences[slot].blocks.append(block)
    }
    sequences[slot].phase = .running
    sequences[slot].computed = matched.count * blockTokens
    sequences[slot].indexedBlocks = matched.count
    sequences[slot].chainHash = chainHash
    if sequences[slot].cachedPromptTokens == nil {
      sequences[slot].tokens.reserveCapacity(positions)
      sequences[slot].cachedPromptTokens = sequences[slot].computed
      counters.prefixQueriesTokens += sequences[slot].promptCount
      counters.prefixHitTokens += sequences[slot].computed
      batch.admitted.append(sequences[slot].id)
    }
    insertRunning(slot)
  }

  /// Keeps `running` ordered by priority, then arrival.
  private mutating func insertRunning(_ slot: Int) {
    let (priority, id) = (sequences[slot].priority, sequences[slot].id)
    var place = running.count
    while place > 0 {
      let other = Int(running[place - 1])
      let comesAfter = sequences[other].priority != priority ? sequences[other].priority > priority : sequences[other].id > id
      guard comesAfter else { break }
      place -= 1
    }
    running.insert(Int32(slot), at: place)
  }

  // MARK: - Writing the batch

  private mutating func write(_ slot: Int, into batch: inout Batch) {
    let start = sequences[slot].computed
    let end = start + sequences[slot].granted
    sequences[slot].granted = 0
    let total = sequences[slot].tokens.count
    let firstToken = batch.tokens.count
    batch.tokens.append(contentsOf: sequences[slot].tokens[start..<end])
    let firstBlock = batch.blockTable.count
    let blockCount = (end + configuration.blockTokens - 1) / configuration.blockTokens
    batch.blockTable.append(contentsOf: sequences[slot].blocks[0..<blockCount])
    let rows = end == total ? (end - start - 1)..<(end - start) : 0..<0
    batch.logitsRowCount += rows.count
    batch.entries.append(
      Batch.Entry(
        sequence: sequences[slot].id, startPosition: start, tokens: firstToken..<batch.tokens.count,
        blockTable: firstBlock..<batch.blockTable.count, logitsRows: rows,
        isPrefill: !(end - start == 1 && end == total && start >= sequences[slot].promptCount)))
  }
}
