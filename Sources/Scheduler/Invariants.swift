// What must hold between any two calls on a Scheduler, checked from first principles. For tests, after every operation; O(everything).

extension Scheduler {
  /// Every violated invariant, one line each; empty when all is well.
  package func checkInvariants() -> [String] {
    sequenceViolations() + queueViolations() + tableViolations() + pool.violations() + indexViolations() + waiting.violations()
  }

  private func sequenceViolations() -> [String] {
    var found: [String] = []
    let blockTokens = configuration.blockTokens
    for (slot, sequence) in sequences.enumerated() where sequence.phase != .vacant {
      let name = "sequence \(sequence.id.rawValue)"
      if sequence.id.slot != slot { found.append("\(name) lies in slot \(slot)") }
      if sequence.granted != 0 { found.append("\(name): \(sequence.granted) tokens granted outside plan") }
      if sequence.generatedCount > sequence.maxNewTokens { found.append("\(name) has more new tokens than allowed") }
      if sequence.phase == .complete, sequence.generatedCount != sequence.maxNewTokens { found.append("\(name) is complete too early") }
      guard sequence.phase == .running else {
        if sequence.computed != 0 || !sequence.blocks.isEmpty { found.append("\(name) does not run but holds blocks") }
        continue
      }
      let needed = (sequence.computed + blockTokens - 1) / blockTokens
      // Between a plan and its commit a table may be longer, but never longer than the known tokens need.
      let most = openStep == 0 ? needed : (sequence.tokens.count + blockTokens - 1) / blockTokens
      if sequence.computed >= sequence.tokens.count { found.append("\(name): computed \(sequence.computed) of \(sequence.tokens.count)") }
      if sequence.blocks.count < needed || sequence.blocks.count > most {
        found.append("\(name): \(sequence.blocks.count) blocks for \(sequence.computed) of \(sequence.tokens.count) positions")
      }
      let full = configuration.prefixCaching ? sequence.computed / blockTokens : 0
      if sequence.indexedBlocks != full { found.append("\(name): \(sequence.indexedBlocks) blocks indexed of \(full) full ones") }
    }
    return found
  }

  private func queueViolations() -> [String] {
    var found: [String] = []
    let (runningSlots, vacant) = (Set(running), Set(vacantSlots))
    for (slot, sequence) in sequences.enumerated() {
      let name = "sequence \(sequence.id.rawValue)"
      if (sequence.phase == .waiting) != waiting.contains(slot: slot) { found.append("\(name): phase and waiting queue disagree") }
      if (sequence.phase == .running) != runningSlots.contains(Int32(slot)) { found.append("\(name): phase and running list disagree") }
      if (sequence.phase == .vacant) != vacant.contains(Int32(slot)) { found.append("slot \(slot): vacancy disagrees") }
      guard sequence.phase == .following else { continue }
      let leader = Int(sequence.leader)
      if leader < 0 || sequences[leader].phase == .vacant || sequences[leader].promptDone { found.append("\(name) follows nobody") }
      let before = sequence.previousFollower
      let link = before < 0 ? sequences[max(leader, 0)].firstFollower : sequences[Int(before)].nextFollower
      if link != Int32(slot) { found.append("\(name): broken list of followers") }
    }
    for (left, right) in zip(running, running.dropFirst()) {
      let (first, second) = (sequences[Int(left)], sequences[Int(right)])
      if (first.priority, first.id.rawValue) >= (second.priority, second.id.rawValue) { found.append("running list is out of order") }
    }
    if followerCount != sequences.count(where: { $0.phase == .following }) { found.append("wrong count of followers") }
    if running.count > configuration.maxSequences { found.append("\(running.count) sequences run") }
    if vacant.count != vacantSlots.count { found.append("a slot is vacant twice") }
    if runningSlots.count != running.count { found.append("a sequence runs twice") }
    return found
  }

  /// References against tables, and who may share what.
  private func tableViolations() -> [String] {
    var found: [String] = []
    var holders = [Int32](repeating: 0, count: pool.blockCount)
    for slot in running {
      let sequence = sequences[Int(slot)]
      if Set(sequence.blocks).count != sequence.blocks.count { found.append("sequence \(sequence.id.rawValue) holds a block twice") }
      for (place, block) in sequence.blocks.enumerated() {
        holders[Int(block)] += 1
        if index.isIndexed[Int(block)] != (place < sequence.indexedBlocks) {
          found.append("block \(block) at place \(place): indexed and full disagree")
        }
        guard place < sequence.indexedBlocks else { continue }
        let start = place * configuration.blockTokens
        let stored = index.storedTokens(of: block)
        if !stored.elementsEqual(sequence.tokens[start..<start + configuration.blockTokens]) {
          found.append("block \(block) holds other tokens than sequence \(sequence.id.rawValue)")
        }
        if index.parents[Int(block)] != (place == 0 ? PrefixIndex.root : sequence.blocks[place - 1]) {
          found.append("block \(block) has another parent than its table")
        }
        if index.salts[Int(block)] != sequence.cacheSalt { found.append("block \(block) is shared across salts") }
      }
      if sequence.indexedBlocks > 0, let last = sequence.blocks.prefix(sequence.indexedBlocks).last,
        index.hashes[Int(last)] != sequence.chainHash
      {
        found.append("sequence \(sequence.id.rawValue) has a wrong chain hash")
      }
    }
    for block in 0..<pool.blockCount {
      if holders[block] != pool.references[block] {
        found.append("block \(block): \(pool.references[block]) references, \(holders[block]) holders")
      }
      if holders[block] > 1, !index.isIndexed[block] { found.append("block \(block) is shared but not full") }
      if (pool.states[block] == .free) == index.isIndexed[block], pool.states[block] != .inUse {
        found.append("block \(block): state \(pool.states[block]) and index disagree")
      }
    }
    return found
  }

  private func indexViolations() -> [String] {
    var found = index.violations()
    for block in 0..<pool.blockCount where index.isIndexed[block] {
      let parent = index.parents[block]
      guard parent >= 0 else { continue }
      if !index.isIndexed[Int(parent)] { found.append("block \(block) outlived its parent \(parent)") }
      // The parent is held whenever the child is; and of two unheld ones, the child is evicted first.
      if pool.states[block] == .inUse, pool.states[Int(parent)] != .inUse { found.append("block \(block) is held, its parent is not") }
    }
    var rank = [Int](repeating: .max, count: pool.blockCount)
    for (place, block) in pool.evictionOrder().enumerated() { rank[Int(block)] = place }
    for block in 0..<pool.blockCount where index.isIndexed[block] && index.parents[block] >= 0 {
      if rank[block] != .max, rank[block] > rank[Int(index.parents[block])] { found.append("block \(block) is evicted after its parent") }
    }
    return found
  }
}

extension BlockPool {
  /// The blocks held by none, the next one to be taken first.
  package func evictionOrder() -> [Int32] {
    var order: [Int32] = []
    var block = next[blockCount]
    while block != Int32(blockCount), order.count <= blockCount {
      order.append(block)
      block = next[Int(block)]
    }
    return order
  }

  package func violations() -> [String] {
    var found: [String] = []
    let order = evictionOrder()
    if order.count != availableCount { found.append("pool: list of \(order.count), counts say \(availableCount)") }
    if Set(order).count != order.count { found.append("pool: a block is twice in the list") }
    for node in 0...blockCount where node == blockCount || states[node] != .inUse {
      if previous[Int(next[node])] != Int32(node) || next[Int(previous[node])] != Int32(node) {
        found.append("pool: broken links at \(node)")
      }
    }
    for block in order where states[Int(block)] == .inUse { found.append("pool: held block \(block) is in the list") }
    for block in 0..<blockCount where (states[block] == .inUse) != (references[block] > 0) || references[block] < 0 {
      found.append("pool: block \(block) is \(states[block]) with \(references[block]) references")
    }
    if freeCount != states.count(where: { $0 == .free }) { found.append("pool: wrong count of free blocks") }
    if reusableCount != states.count(where: { $0 == .reusable }) { found.append("pool: wrong count of reusable blocks") }
    let reusableFirst = order.firstIndex { states[Int($0)] == .reusable } ?? order.endIndex
    if order[reusableFirst...].contains(where: { states[Int($0)] == .free }) { found.append("pool: a free block after a reusable one") }
    return found
  }
}

extension PrefixIndex {
  func storedTokens(of block: Int32) -> ArraySlice<Int32> {
    tokens[Int(block) * blockTokens..<(Int(block) + 1) * blockTokens]
  }

  /// Buckets against flags, and every hash recomputed from the stored tokens.
  func violations() -> [String] {
    var found: [String] = []
    var reached = [Bool](repeating: false, count: isIndexed.count)
    for (bucket, first) in buckets.enumerated() {
      var block = first
      while block >= 0 {
        if reached[Int(block)] {
          found.append("index: block \(block) is reached twice")
          break
        }
        reached[Int(block)] = true
        if self.bucket(of: hashes[Int(block)]) != bucket { found.append("index: block \(block) lies in a wrong bucket") }
        block = following[Int(block)]
      }
    }
    if reached != isIndexed { found.append("index: buckets and flags disagree") }
    if count != isIndexed.count(where: { $0 }) { found.append("index: wrong count") }
    for block in isIndexed.indices where isIndexed[block] {
      let before = parents[block] < 0 ? rootHash(salt: salts[block]) : hashes[Int(parents[block])]
      if hashes[block] != chainHash(parent: before, source: tokens, start: block * blockTokens) {
        found.append("index: block \(block) has a wrong hash")
      }
    }
    return found
  }
}
