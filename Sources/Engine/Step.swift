// One step's batch made ready for the layers: checked against the engine's limits, positions turned into rotations and cache rows,
// attention cut into calls. The same for every layer, so it is done once. Knows the batch, not the weights.

import CEngine
import CKernels
import ModelFile
import Scheduler

/// The batch as plain pointers, valid during one forward pass.
struct Step {
  let tokens: UnsafeBufferPointer<Int32>
  let tables: UnsafePointer<Int32>
  let entries: UnsafeBufferPointer<Batch.Entry>
  var logitsRows = 0
  var itemCount = 0
  var mergeCount = 0
  var spanCount = 0
  var expandedCount = 0

  var count: Int { tokens.count }
  /// Cache rows that one layer's attention reads.
  var keyCount: Int { entries.reduce(0) { $0 &+ $1.startPosition &+ $1.tokens.count } }
}

/// The limits that a batch must keep; checked before any memory is touched.
struct BatchLimits {
  let maxBatchTokens: Int
  let maxSequences: Int
  let maxLogitsRows: Int
  let vocabularySize: Int
  let blockTokens: Int
  let blockCount: Int

  /// nil if the batch keeps every limit, else what is wrong.
  func problem(
    tokens: UnsafeBufferPointer<Int32>, tables: UnsafeBufferPointer<Int32>, entries: UnsafeBufferPointer<Batch.Entry>
  ) -> EngineError? {
    guard tokens.count <= maxBatchTokens else { return .badBatch(reason: "\(tokens.count) tokens, the limit is \(maxBatchTokens)") }
    guard entries.count <= maxSequences else { return .badBatch(reason: "\(entries.count) entries, the limit is \(maxSequences)") }
    for token in tokens where token < 0 || Int(token) >= vocabularySize {
      return .badBatch(reason: "token \(token) is not in the vocabulary of \(vocabularySize)")
    }
    for block in tables where block < 0 || Int(block) >= blockCount {
      return .badBatch(reason: "block \(block) is not in the pool of \(blockCount)")
    }
    var next = 0
    var rows = 0
    for entry in entries {
      guard entry.tokens.lowerBound == next, !entry.tokens.isEmpty, entry.tokens.upperBound <= tokens.count else {
        return .badBatch(reason: "tokens \(entry.tokens) do not follow \(next)")
      }
      next = entry.tokens.upperBound
      guard entry.startPosition >= 0, entry.startPosition < 1 << 40, entry.blockTable.lowerBound >= 0,
        entry.blockTable.upperBound <= tables.count,
        entry.blockTable.count * blockTokens >= entry.startPosition + entry.tokens.count
      else {
        return .badBatch(
          reason: "the block table \(entry.blockTable) does not cover position \(entry.startPosition) and \(entry.tokens.count) tokens")
      }
      guard entry.logitsRows.lowerBound >= 0, entry.logitsRows.upperBound <= entry.tokens.count else {
        return .badBatch(reason: "logits rows \(entry.logitsRows) of \(entry.tokens.count) tokens")
      }
      rows += entry.logitsRows.count
    }
    guard next == tokens.count else { return .badBatch(reason: "\(tokens.count - next) tokens belong to no entry") }
    guard rows <= maxLogitsRows else { return .badBatch(reason: "\(rows) rows of logits, the limit is \(maxLogitsRows)") }
    return nil
  }
}

extension Step {
  /// Fills the scratch buffers that depend on positions only.
  mutating func prepare(
    _ scratch: Scratch, _ rotary: RotaryEmbedding, blockTokens: Int, ropeDim: Int, threads: Int, heads: Int, threshold: Int?
  ) {
    let half = ropeDim / 2
    for entry in entries {
      for token in entry.tokens {
        let position = entry.startPosition + token - entry.tokens.lowerBound
        rotary.fill(position: position, cosine: scratch.cosine + token * half, sine: scratch.sine + token * half)
        let block = Int64(tables[entry.blockTable.lowerBound + position / blockTokens])
        scratch.cacheRows[token] = block * Int64(blockTokens) + Int64(position % blockTokens)
      }
      for row in entry.logitsRows {
        scratch.wantedRows[logitsRows] = Int32(entry.tokens.lowerBound + row)
        logitsRows += 1
      }
    }
    splitForms(scratch, threshold: threshold)
    planAttention(scratch, threads: threads, heads: heads, threshold: threshold)
  }

  private func isExpanded(_ entry: Batch.Entry, _ threshold: Int?) -> Bool {
    guard let threshold else { return false }
    return entry.tokens.count >= threshold
  }

  /// Which entries attend in expanded form, and the spans of tokens between them.
  private mutating func splitForms(_ scratch: Scratch, threshold: Int?) {
    for (index, entry) in entries.enumerated() {
      if isExpanded(entry, threshold) {
        scratch.expandedEntries[expandedCount] = Int32(index)
        expandedCount += 1
      } else if spanCount > 0, scratch.spans[spanCount - 1].first + scratch.spans[spanCount - 1].count == entry.tokens.lowerBound {
        scratch.spans[spanCount - 1].count += entry.tokens.count
      } else {
        scratch.spans[spanCount] = TokenSpan(first: entry.tokens.lowerBound, count: entry.tokens.count)
        spanCount += 1
      }
    }
  }

  /// Cuts absorbed attention into calls: tiles of tokens; where those are too few for the workers, decodes also by context and by heads.
  /// How it is cut changes no bit of the result (kernels' contract), so it may depend on the batch.
  private mutating func planAttention(_ scratch: Scratch, threads: Int, heads: Int, threshold: Int?) {
    let tile = scratch.limits.tileTokens
    var tiles = 0
    for entry in entries where !isExpanded(entry, threshold) { tiles += (entry.tokens.count + tile - 1) / tile }
    let wanted = threads > 1 ? 2 * threads : 1
    // Every group of heads brings the keys into the kernel's form anew: no more groups than workers.
    let groups = tiles == 0 ? 1 : max(min((threads + tiles - 1) / tiles, max(heads / 4, 1)), 1)
    var slots = 0
    for entry in entries where !isExpanded(entry, threshold) {
      let end = Int64(entry.startPosition + entry.tokens.count)
      let splits = Int((end + Int64(QK_SPLIT) - 1) / Int64(QK_SPLIT))
      let single = entry.tokens.count == 1
      if single, splits > 1, tiles < wanted, slots + splits <= scratch.limits.slots {
        scratch.merges[mergeCount] = qe_attention_merge(token: Int32(entry.tokens.lowerBound), slot: Int32(slots), slots: Int32(splits))
        mergeCount += 1
        let parts = max(min((groups + splits - 1) / splits, heads), 1)
        for split in 0..<splits {
          let begin = Int64(split) * Int64(QK_SPLIT)
          addHeads(
            scratch, entry, token: 0, count: 1, begin: begin, end: min(begin + Int64(QK_SPLIT), end), slot: slots + split, heads: heads,
            parts: parts)
        }
        slots += splits
      } else {
        for first in stride(from: 0, to: entry.tokens.count, by: tile) {
          let count = min(tile, entry.tokens.count - first)
          let last = Int64(entry.startPosition + first + count)
          addHeads(scratch, entry, token: first, count: count, begin: 0, end: last, slot: -1, heads: heads, parts: single ? groups : 1)
        }
      }
    }
  }

  private mutating func addHeads(
    _ scratch: Scratch, _ entry: Batch.Entry, token: Int, count: Int, begin: Int64, end: Int64, slot: Int, heads: Int, parts: Int
  ) {
    let remaining = scratch.limits.items - itemCount
    let parts = remaining > parts + self.count + scratch.limits.slots ? parts : 1
    let size = (heads + parts - 1) / parts
    for head in stride(from: 0, to: heads, by: size) {
      scratch.items[itemCount] = qe_attention_item(
        token: Int32(entry.tokens.lowerBound + token), tokens: Int32(count), head: Int32(head), heads: Int32(min(size, heads - head)),
        first_position: Int64(entry.startPosition + token), begin: begin, end: end, table: Int32(entry.blockTable.lowerBound),
        slot: Int32(slot))
      itemCount += 1
    }
  }
}
