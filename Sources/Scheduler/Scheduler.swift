// Which sequences run, which blocks they hold, and what becomes of both: add, commit, cancel, finish. The planning of a step is in
// StepPlanning.swift. A pure state machine: it does not know tensors, text, threads or time.

/// Confined to the engine thread, as a local value. One step is `plan -> (forward, sample) -> commit`; `add`, `cancel` and `finish` may
/// come at any point between, also between plan and commit.
///
/// Promises:
/// - A sequence that `add` accepted is never failed, whatever the others do: when blocks run out, the lowest priority / youngest
///   running sequence is preempted (its full blocks stay in the prefix cache, and it waits at the front of its priority).
/// - The oldest running sequence of the best priority gets at least one token in each step, so every admitted sequence finishes.
/// - Equal priorities are admitted in the order of arrival, and nobody passes the first one that waits (a follower takes its place in
///   that order once its leader's prompt is computed). A worse priority waits as long as better ones keep arriving: that is what
///   priority means. A waiting sequence never preempts a running one.
/// - A block that another sequence holds is never written: only full, computed blocks are shared.
package struct Scheduler: Sendable {
  package let configuration: SchedulerConfiguration
  var sequences: [TokenSequence] = []  // by slot
  var vacantSlots: [Int32] = []
  /// Slots, best priority and oldest first.
  var running: [Int32] = []
  var waiting = WaitingQueue()
  var followerCount = 0
  var pool: BlockPool
  var index: PrefixIndex
  var arrivals: UInt64 = 0
  var counters = SchedulerStatistics()  // the running totals only
  /// The step that `commit` accepts: the latest plan; 0 when it is committed.
  var openStep: UInt64 = 0
  var steps: UInt64 = 0
  /// Tokens of the budget not granted yet; meaningful during `plan` only.
  var budgetLeft = 0
  /// Blocks matched for the sequence being admitted; a member only for its storage.
  var matched: [Int32] = []

  /// - Parameters:
  ///   - hashSeed: hidden from clients, so that nobody can aim at long bucket chains in the prefix index.
  ///   - hashMask: for tests: bits of the hash that count; few of them force collisions.
  package init(
    _ configuration: SchedulerConfiguration, hashSeed: UInt64 = UInt64.random(in: .min ... .max), hashMask: UInt64 = .max
  ) {
    let configuration = configuration.clamped()
    self.configuration = configuration
    pool = BlockPool(blockCount: configuration.blockCount)
    index = PrefixIndex(
      blockCount: configuration.blockCount, blockTokens: configuration.blockTokens, seed: hashSeed, hashMask: hashMask)
    running.reserveCapacity(configuration.maxSequences)
    matched.reserveCapacity(min(configuration.blockCount, configuration.maxContextTokens / configuration.blockTokens + 1))
  }

  /// Queues a sequence, or says why it can never run (or not now: `queueFull`).
  package mutating func add(_ request: SequenceRequest) throws(SchedulerError) -> SequenceID {
    let promptCount = request.promptTokens.count
    guard promptCount > 0 else { throw .emptyPrompt }
    let newTokens = max(request.maxNewTokens, 1)
    let (sum, overflow) = promptCount.addingReportingOverflow(newTokens)
    let tokens = overflow ? Int.max : sum
    guard tokens <= configuration.maxContextTokens else {
      throw .promptTooLong(tokens: tokens, limit: configuration.maxContextTokens)
    }
    // The last token is sampled but never computed, so it needs no position.
    let capacity = configuration.blockCount * configuration.blockTokens
    guard tokens - 1 <= capacity else { throw .poolTooSmall(tokensNeeded: tokens - 1, tokensAvailable: capacity) }
    guard waiting.count + followerCount < configuration.maxWaiting, !vacantSlots.isEmpty || sequences.count < SequenceID.slotLimit else {
      throw .queueFull(limit: configuration.maxWaiting)
    }

    let slot = takeSlot()
    arrivals += 1
    let id = SequenceID(serial: arrivals, slot: slot)
    var sequence = TokenSequence()
    sequence.id = id
    sequence.tokens = request.promptTokens
    sequence.promptCount = promptCount
    sequence.maxNewTokens = newTokens
    sequence.priority = request.priority
    sequence.cacheSalt = request.cacheSalt
    sequences[slot] = sequence
    if let leader = request.follows.flatMap(slot(of:)), !sequences[leader].promptDone {
      follow(slot, leader: leader)
    } else {
      enqueue(slot)
    }
    return id
  }

  /// Takes what the engine computed. `sampledTokens` holds one token per wanted logits row, in entry order; entries whose sequence was
  /// cancelled or finished since the plan are skipped with their rows. Anything but the latest uncommitted plan is ignored.
  package mutating func commit(_ batch: borrowing Batch, sampledTokens: borrowing [Int32]) {
    guard batch.step == openStep, openStep != 0 else { return }
    openStep = 0
    var row = 0
    for entryIndex in batch.entries.indices {
      let entry = batch.entries[entryIndex]
      row += entry.logitsRows.count
      guard let slot = slot(of: entry.sequence), sequences[slot].phase == .running else { continue }
      guard row <= sampledTokens.count else {
        trimTable(of: slot)  // a row without its token: the next plan asks for the same again
        continue
      }
      advance(slot, by: entry.tokens.count)
      guard !entry.logitsRows.isEmpty else { continue }
      sequences[slot].tokens.append(sampledTokens[row - 1])
      if sequences[slot].generatedCount >= sequences[slot].maxNewTokens { complete(slot) }
    }
  }

  private mutating func advance(_ slot: Int, by tokenCount: Int) {
    sequences[slot].computed += tokenCount
    indexFullBlocks(of: slot)
    if !sequences[slot].promptDone, sequences[slot].computed >= sequences[slot].promptCount {
      sequences[slot].promptDone = true
      releaseFollowers(of: slot)
    }
  }

  /// Forgets the sequence; its blocks are free before the next plan (full ones stay as prefix cache). Unknown ids are ignored.
  package mutating func cancel(_ id: SequenceID) {
    guard let slot = slot(of: id) else { return }
    switch sequences[slot].phase {
    case .vacant, .complete: break
    case .waiting: waiting.remove(slot: slot)
    case .following: leaveLeader(slot)
    case .running: leaveRunning(slot)
    }
    releaseFollowers(of: slot)
    sequences[slot] = TokenSequence()
    vacantSlots.append(Int32(slot))
  }

  /// Normal end (stop token, length, stop string): as `cancel`. Needed for every sequence, also when it reached `maxNewTokens` (its blocks
  /// and its seat were given back then). Ask for its counts before.
  package mutating func finish(_ id: SequenceID) { cancel(id) }

  package var statistics: SchedulerStatistics {
    var result = counters
    result.running = running.count
    result.waiting = waiting.count + followerCount
    result.blocksInUse = pool.inUseCount
    result.blocksCached = pool.reusableCount
    result.blocksFree = pool.freeCount
    return result
  }

  /// Prompt tokens served from the prefix cache at first admission, 0 before it; nil for an unknown id.
  package func cachedPromptTokens(of id: SequenceID) -> Int? { slot(of: id).map { sequences[$0].cachedPromptTokens ?? 0 } }

  /// Tokens sampled so far; nil for an unknown id.
  package func generatedCount(of id: SequenceID) -> Int? { slot(of: id).map { sequences[$0].generatedCount } }

  /// Prompt and generated tokens; nil for an unknown id.
  package func tokens(of id: SequenceID) -> [Int32]? { slot(of: id).map { sequences[$0].tokens } }

  /// Nothing to plan: no sequence runs or waits.
  package var isIdle: Bool { running.isEmpty && waiting.count == 0 }

  // MARK: - Slots and queues

  func slot(of id: SequenceID) -> Int? {
    let slot = id.slot
    guard slot < sequences.count, sequences[slot].phase != .vacant, sequences[slot].id == id else { return nil }
    return slot
  }

  private mutating func takeSlot() -> Int {
    if let slot = vacantSlots.popLast() { return Int(slot) }
    sequences.append(TokenSequence())
    return sequences.count - 1
  }

  mutating func enqueue(_ slot: Int) {
    sequences[slot].phase = .waiting
    waiting.push(slot: slot, priority: sequences[slot].priority, arrival: sequences[slot].id.rawValue)
  }

  private mutating func follow(_ slot: Int, leader: Int) {
    let first = sequences[leader].firstFollower
    sequences[slot].phase = .following
    sequences[slot].leader = Int32(leader)
    sequences[slot].nextFollower = first
    if first >= 0 { sequences[Int(first)].previousFollower = Int32(slot) }
    sequences[leader].firstFollower = Int32(slot)
    followerCount += 1
  }

  private mutating func leaveLeader(_ slot: Int) {
    let (leader, before, after) = (sequences[slot].leader, sequences[slot].previousFollower, sequences[slot].nextFollower)
    if before >= 0 { sequences[Int(before)].nextFollower = after } else { sequences[Int(leader)].firstFollower = after }
    if after >= 0 { sequences[Int(after)].previousFollower = before }
    sequences[slot].leader = -1
    sequences[slot].nextFollower = -1
    sequences[slot].previousFollower = -1
    followerCount -= 1
  }

  private mutating func releaseFollowers(of leader: Int) {
    while sequences[leader].firstFollower >= 0 {
      let slot = Int(sequences[leader].firstFollower)
      leaveLeader(slot)
      enqueue(slot)
    }
  }

  /// Out of the running ones, with all its blocks given back.
  mutating func leaveRunning(_ slot: Int) {
    if let place = running.firstIndex(of: Int32(slot)) { running.remove(at: place) }
    releaseBlocks(of: slot)
  }

  /// The sequence has all its tokens. It gives up its seat at once, so that a caller slow to `finish` it holds up nobody.
  private mutating func complete(_ slot: Int) {
    leaveRunning(slot)
    sequences[slot].phase = .complete
  }

  // MARK: - Blocks

  /// A block to write in, evicting the least recently used cached one if no free one is left; nil if all are held.
  mutating func takeBlock() -> Int32? {
    guard let (block, evicted) = pool.take() else { return nil }
    if evicted { index.remove(block) }
    return block
  }

  /// Gives back blocks beyond the computed positions, taken for a plan that was not carried out.
  mutating func trimTable(of slot: Int) {
    let needed = (sequences[slot].computed + configuration.blockTokens - 1) / configuration.blockTokens
    while sequences[slot].blocks.count > needed { pool.release(sequences[slot].blocks.removeLast(), reusable: false) }
  }

  /// Last block first: in the eviction order the tail of a chain comes before its parents, so an indexed block's parent is always indexed.
  mutating func releaseBlocks(of slot: Int) {
    for block in sequences[slot].blocks.reversed() { pool.release(block, reusable: index.isIndexed[Int(block)]) }
    sequences[slot].blocks = []
    sequences[slot].computed = 0
    sequences[slot].indexedBlocks = 0
  }

  /// Makes blocks that are now full and computed shareable. Where an equal block is indexed already (two sequences computed the same
  /// prefix side by side), the sequence takes that one and frees its own: so the blocks before an indexed block are always indexed, and
  /// equal content is held once.
  private mutating func indexFullBlocks(of slot: Int) {
    guard configuration.prefixCaching else { return }
    let blockTokens = configuration.blockTokens
    let salt = sequences[slot].cacheSalt
    while (sequences[slot].indexedBlocks + 1) * blockTokens <= sequences[slot].computed {
      let place = sequences[slot].indexedBlocks
      let start = place * blockTokens
      let block = sequences[slot].blocks[place]
      let parent = place == 0 ? PrefixIndex.root : sequences[slot].blocks[place - 1]
      let before = place == 0 ? index.rootHash(salt: salt) : sequences[slot].chainHash
      let hash = index.chainHash(parent: before, source: sequences[slot].tokens, start: start)
      if let twin = index.find(hash: hash, parent: parent, salt: salt, source: sequences[slot].tokens, start: start) {
        pool.acquire(twin)
        pool.release(block, reusable: false)
        sequences[slot].blocks[place] = twin
      } else {
        index.insert(block, hash: hash, parent: parent, salt: salt, source: sequences[slot].tokens, start: start)
      }
      sequences[slot].chainHash = hash
      sequences[slot].indexedBlocks += 1
    }
  }
}
