// Multi-head latent attention of one layer (SPEC 2.4): queries, the latent cache, absorbed or expanded attention, output.
// Knows matrices and rows; which tokens belong together comes from the step, the memory from the scratch.

import CEngine
import CKernels
import ModelFile
import Scheduler

struct LatentAttention {
  let shape: Hyperparameters
  let scratch: Scratch
  let workers: qe_workers
  let softmaxScale: Float
  let interleaved: Bool
  let exact: Bool
  let log: StageLog

  private var heads: Int { shape.headCount }
  private var rowWidth: Int { shape.latentRank + shape.ropeDim }

  /// Reads `scratch.normed` [tokens, hidden], appends to the cache, leaves the sub-layer's output in `scratch.delta` [tokens, hidden].
  /// `next` is memory that will be read soon.
  func run(_ weights: AttentionWeights, _ step: Step, cache: borrowing LatentCache, layer: Int, next: UnsafeRawBufferPointer) {
    project(weights, tokens: step.count)
    log.mark(.project)
    storeLatents(weights, tokens: step.count, cache: cache, layer: layer)
    log.mark(.latents)
    if step.spanCount > 0 { attendAbsorbed(weights, step, pages: cache.pages(layer: layer), next: next) }
    for index in 0..<step.expandedCount {
      let entry = step.entries[Int(scratch.expandedEntries[index])]
      attendExpanded(weights, entry, tables: step.tables, pages: cache.pages(layer: layer))
      log.mark(.attention)
    }
    var quantize = qe_quantize(count: step.count, width: scratch.values.columns, rows: scratch.values.forms(weights.outputNeeds))
    qe_run_quantize(workers, &quantize)
    multiply(.output, (weights.output, scratch.values, scratch.delta), nil, tokens: step.count)
    log.mark(.output)
  }

  /// q = the query of every head, latent = c and rope key, both raw.
  private func project(_ weights: AttentionWeights, tokens: Int) {
    guard let queryA = weights.queryA, let queryNorm = weights.queryNorm else {
      multiply(
        .project, (weights.query, scratch.normed, scratch.query), (weights.latent, scratch.normed, scratch.latent), tokens: tokens)
      return
    }
    multiply(.project, (queryA, scratch.normed, scratch.queryLow), (weights.latent, scratch.normed, scratch.latent), tokens: tokens)
    var norm = qe_norm(
      count: tokens, width: queryA.rows, in: scratch.queryLow, bias: weights.queryABias, norm: queryNorm,
      epsilon: Hyperparameters.latentNormEpsilon, out: scratch.queryLowNormed.forms(weights.queryNeeds))
    qe_run_norm(workers, &norm)
    multiply(.project, (weights.query, scratch.queryLowNormed, scratch.query), nil, tokens: tokens)
  }

  private func storeLatents(_ weights: AttentionWeights, tokens: Int, cache: borrowing LatentCache, layer: Int) {
    var rows = qe_latent_rows(
      count: tokens, heads: heads, n: shape.nopeDim, r: shape.ropeDim, c: shape.latentRank, q: scratch.query,
      q_latent: scratch.queryLatent, latent: scratch.latent, latent_bias: weights.latentBias, latent_norm: weights.latentNorm,
      epsilon: Hyperparameters.latentNormEpsilon, cosine: scratch.cosine, sine: scratch.sine, interleaved: interleaved,
      scale: softmaxScale, cache_type: cache.type.kernelType, cache: cache.base(layer: layer).assumingMemoryBound(to: UInt8.self),
      row_stride: cache.rowBytes, cache_rows: scratch.cacheRows, nope: scratch.nope.forms(weights.nopeNeeds))
    qe_run_latent_rows(workers, &rows)
  }

  /// Absorbed form: W_UK goes into the query, the value is the latent itself, W_UV comes after the sum.
  private func attendAbsorbed(_ weights: AttentionWeights, _ step: Step, pages: qk_pages, next: UnsafeRawBufferPointer) {
    for index in 0..<step.spanCount { absorbKeys(weights.absorbedKeys, scratch.spans[index]) }
    log.mark(.absorb)
    var attention = qe_attention(
      items: scratch.items, item_count: step.itemCount, merges: scratch.merges, merge_count: step.mergeCount, tables: step.tables,
      heads: heads, c: shape.latentRank, r: shape.ropeDim, q_latent: scratch.queryLatent, pages: pages, exact: exact,
      m: scratch.softmaxMaximum, l: scratch.softmaxSum, u: scratch.attended, slot_m: scratch.slotMaximum, slot_l: scratch.slotSum,
      slot_u: scratch.slotAttended, out: scratch.attendedHeads.forms(weights.valueNeeds), ahead: next.baseAddress,
      ahead_bytes: step.bytesAhead(of: next, rowBytes: pages.row_stride))
    qe_run_attention(workers, &attention)
    noteAttention(step, pages)
    log.mark(.attention)
    for index in 0..<step.spanCount { projectValues(weights.values, scratch.spans[index]) }
    log.mark(.values)
  }

  private func absorbKeys(_ keys: MatrixList, _ span: TokenSpan) {
    let queryStride = heads * shape.queryHeadDim
    for head in 0..<heads {
      let matrix = keys[head]
      let x =
        matrix.isPacked
        ? scratch.nope.source(for: matrix, head: head, row: span.first)
        : UnsafeRawPointer(scratch.query + span.first * queryStride + head * shape.queryHeadDim)
      scratch.tasks[head] = qk_matmul_task(
        w: matrix.descriptor, x: x, x_stride: queryStride, index: nil, tokens: span.count,
        y: scratch.queryLatent + (span.first * heads + head) * rowWidth, y_stride: heads * rowWidth)
    }
    qk_pool_matmul(workers.pool, workers.kernels, scratch.tasks, heads)
    log.add(.absorb, scratch.tasks, count: heads)
  }

  private func projectValues(_ values: MatrixList, _ span: TokenSpan) {
    let (c, v) = (shape.latentRank, shape.valueDim)
    for head in 0..<heads {
      let matrix = values[head]
      let x =
        matrix.isPacked
        ? scratch.attendedHeads.source(for: matrix, head: head, row: span.first)
        : UnsafeRawPointer(scratch.attended + (span.first * heads + head) * c)
      scratch.tasks[head] = qk_matmul_task(
        w: matrix.descriptor, x: x, x_stride: heads * c, index: nil, tokens: span.count,
        y: scratch.values.f32 + (span.first * heads + head) * v, y_stride: heads * v)
    }
    qk_pool_matmul(workers.pool, workers.kernels, scratch.tasks, heads)
    log.add(.values, scratch.tasks, count: heads)
  }

  /// Cache rows read and operations of the entries in absorbed form: every key once per token and head, c + r for its score, c for its value.
  private func noteAttention(_ step: Step, _ pages: qk_pages) {
    var (keys, pairs) = (0, 0)
    for index in 0..<step.spanCount {
      let span = scratch.spans[index].first..<scratch.spans[index].first + scratch.spans[index].count
      for entry in step.entries where span.contains(entry.tokens.lowerBound) {
        keys &+= entry.startPosition &+ entry.tokens.count
        pairs &+= entry.visiblePairs
      }
    }
    log.add(.attention, bytes: keys &* pages.row_stride, operations: 2 &* pairs &* heads &* (2 &* shape.latentRank &+ shape.ropeDim))
  }

  /// Expanded form for one entry: K and V of a range of keys are made from the latents, used and forgotten.
  private func attendExpanded(_ weights: AttentionWeights, _ entry: Batch.Entry, tables: UnsafePointer<Int32>, pages: qk_pages) {
    guard let expanded = scratch.expanded, let keys = weights.expandedKeys else { return }
    var pages = pages
    pages.table = tables + entry.blockTable.lowerBound
    let first = entry.tokens.lowerBound
    let end = entry.startPosition + entry.tokens.count
    for begin in stride(from: 0, to: end, by: AttentionLimits.expandedRange) {
      let stop = min(begin + AttentionLimits.expandedRange, end)
      var job = qe_expanded(
        tokens: entry.tokens.count, heads: heads, n: shape.nopeDim, r: shape.ropeDim, c: shape.latentRank, v: shape.valueDim,
        first_position: Int64(entry.startPosition), begin: Int64(begin), end: Int64(stop),
        q: scratch.query + first * heads * shape.queryHeadDim, pages: pages, key_heads: keys.first, value_heads: weights.values.first,
        latents: expanded.latents.f32, latent_forms: expanded.latents.forms(weights.latentNeeds), m: expanded.maximum, l: expanded.sum,
        u: expanded.attended, tokens_capacity: expanded.tokensCapacity, first: begin == 0, last: stop == end, exact: exact,
        out: scratch.values.f32 + first * heads * shape.valueDim)
      qe_run_expanded(workers, &job)
    }
    let widths = shape.nopeDim + shape.valueDim
    log.add(
      .attention, bytes: end &* pages.row_stride,
      operations: 2 &* heads &* (entry.visiblePairs &* (widths &+ shape.ropeDim) &+ end &* shape.latentRank &* widths))
  }

  private typealias Product = (matrix: Matrix, x: ActivationBuffer, y: UnsafeMutablePointer<Float>)

  private func multiply(_ stage: Stage, _ first: Product, _ second: Product?, tokens: Int) {
    scratch.tasks[0] = task(first, tokens: tokens)
    if let second { scratch.tasks[1] = task(second, tokens: tokens) }
    let count = second == nil ? 1 : 2
    qk_pool_matmul(workers.pool, workers.kernels, scratch.tasks, count)
    log.add(stage, scratch.tasks, count: count)
  }

  private func task(_ product: Product, tokens: Int) -> qk_matmul_task {
    let source = product.x.source(for: product.matrix)
    return qk_matmul_task(
      w: product.matrix.descriptor, x: source.pointer, x_stride: source.stride, index: nil, tokens: tokens, y: product.y,
      y_stride: product.matrix.rows)
  }
}

extension Step {
  /// With more tokens the weights are used so often that reading them costs little.
  private static let mostTokensAhead = 1
  /// About what a core complex's share of the third-level cache keeps until it is used, beside what neighbours on the machine do.
  private static let mostBytesAhead = 8 << 20

  /// How much of the weights that come next is fetched while attention computes, and leaves more than half of the memory's bandwidth unused: no
  /// more than it reads itself [M: two cores of Zen 4, one sequence of mini at depth 4096, ms a step: nothing 8.84, half of that 8.58, three
  /// quarters 8.38, all of it 8.12; at depth 1024 three times as much gains nothing].
  fileprivate func bytesAhead(of next: UnsafeRawBufferPointer, rowBytes: Int) -> Int {
    count <= Self.mostTokensAhead ? min(next.count, keyCount &* rowBytes, Self.mostBytesAhead) : 0
  }
}

extension Batch.Entry {
  /// (token, key) pairs that attention looks at.
  var visiblePairs: Int { tokens.count &* startPosition &+ tokens.count &* (tokens.count &+ 1) / 2 }
}
