// The model: forward(batch) -> logits (SPEC 2.1). Owns weights, latent cache, scratch and workers. It knows the batch's entries as rows of
// tokens with block tables; nothing of text, sampling or policy.

import CEngine
import CKernels
import ModelFile
import Scheduler

/// Confined to the engine thread.
package final class Transformer {
  package let hyperparameters: Hyperparameters
  package let plan: MemoryPlan
  package let options: EngineOptions
  package let kernelName: String
  /// What could not be done about the placement of threads and memory, a line each.
  package let warnings: [String]
  private let log = StageLog()

  private let pool: WorkerPool
  let weights: Weights
  private let cache: LatentCache
  private let scratchMemory: MappedMemory
  private let scratch: Scratch
  private let rotary: RotaryEmbedding
  private let attention: LatentAttention
  private let experts: MixtureOfExperts
  private let limits: BatchLimits
  private let load: UnsafeMutableBufferPointer<UInt64>  // [layers, experts]
  /// For debugging and tests: called after every layer with the residual stream [tokens, hidden].
  var trace: ((_ layer: Int, _ residual: UnsafeBufferPointer<Float>) -> Void)?

  /// Loads the weights with all workers. `plan` is what `MemoryPlan.make` gave for the same model and options (made here if nil);
  /// `progress` gets bytes of the file read and their total.
  package init(
    model: ModelFile, options: EngineOptions, plan: MemoryPlan? = nil, progress: ((_ doneBytes: Int, _ totalBytes: Int) -> Void)? = nil
  ) throws(EngineError) {
    try options.check()
    let shape = model.hyperparameters
    guard shape.expertCount <= Int(QE_MAX_EXPERTS), shape.groupCount <= Int(QE_MAX_GROUPS) else {
      throw .unsupportedModel(reason: "\(shape.expertCount) experts, the limit is \(QE_MAX_EXPERTS)")
    }
    let plan = if let plan { plan } else { try MemoryPlan.make(model: model, options: options) }
    let weightPlan = try WeightPlan(model: model, options: options)
    let pool = try WorkerPool(threads: options.threads, kernels: options.kernels, placement: options.placement)
    let cache = try LatentCache(
      shape, type: options.cacheType, blockTokens: plan.blockTokens, blockCount: plan.blockCount,
      memoryNodes: options.placement.memoryNodes)
    let scratchMemory = try MappedMemory(byteCount: try ScratchLayout.arenaBytes(shape, options))
    scratchMemory.populate()
    let weights = try Weights(model: model, plan: weightPlan, options: options, pool: pool, progress: progress)
    try pool.reserveScratch(bytes: Scratch.workerBytes(shape, options, widestColumns: weightPlan.widestColumns))
    var arena = Arena(scratchMemory)
    scratch = Scratch(&arena, shape, options)
    hyperparameters = shape
    self.plan = plan
    self.options = options
    kernelName = pool.kernelName
    let refusals = Set([weights.interleaveErrno, cache.interleaveErrno]).filter { $0 != 0 }.sorted()
    warnings =
      options.placement.warnings + pool.warnings + refusals.map { "numaInterleave: the system refused to interleave memory (errno \($0))" }
    rotary = RotaryEmbedding(shape)
    attention = LatentAttention(
      shape: shape, scratch: scratch, workers: pool.workers, softmaxScale: rotary.softmaxScale, interleaved: rotary.interleaved,
      exact: options.compute == .exact, log: log)
    experts = MixtureOfExperts(shape: shape, scratch: scratch, workers: pool.workers, log: log)
    limits = BatchLimits(
      maxBatchTokens: options.maxBatchTokens, maxSequences: options.maxSequences, maxLogitsRows: options.maxLogitsRows,
      vocabularySize: shape.vocabularySize, blockTokens: plan.blockTokens, blockCount: plan.blockCount)
    load = .allocate(capacity: shape.layerCount * max(shape.expertCount, 1))
    load.initialize(repeating: 0)
    self.pool = pool
    self.weights = weights
    self.cache = cache
    self.scratchMemory = scratchMemory
    self.cache.startPopulation()
  }

  deinit { load.deallocate() }

  /// From now on the calling thread makes the batches: its turns on the CPU are long, and it is pinned, if threads are to be. The answer
  /// is a warning.
  package func adoptThread() -> String? {
    _ = qk_take_long_turns()
    return pool.pinCaller()
  }

  /// No step is to come until somebody asks for something: time for what would hold one up. From the thread that makes the batches.
  package func rest() { cache.rest() }

  /// Whether `forward` can run this batch. The scheduler's batches always can if its limits are the engine's.
  package func check(_ batch: borrowing Batch) throws(EngineError) {
    let problem = withPointers(batch) { limits.problem(tokens: $0, tables: $1, entries: $2) }
    if let problem { throw problem }
  }

  /// Logits of the wanted rows, in entry order: [batch.logitsRowCount, vocabularySize] float32, valid until the next call.
  /// A batch that `check` refuses stops the process: it would be a mistake inside it. No allocation.
  package func forward(_ batch: borrowing Batch) -> UnsafeBufferPointer<Float> {
    withPointers(batch) { tokens, tables, entries in
      if let problem = limits.problem(tokens: tokens, tables: tables, entries: entries) { preconditionFailure(problem.description) }
      guard !tokens.isEmpty, let tables = tables.baseAddress else { return UnsafeBufferPointer(start: nil, count: 0) }
      log.start()
      // A table's last block is its newest, so the highest of those that were never used before.
      for entry in entries where !entry.blockTable.isEmpty { cache.use(block: Int(tables[entry.blockTable.upperBound - 1])) }
      var step = Step(tokens: tokens, tables: tables, entries: entries)
      step.prepare(
        scratch, rotary, blockTokens: plan.blockTokens, ropeDim: hyperparameters.ropeDim, threads: pool.threads,
        heads: hyperparameters.headCount, threshold: options.expandedThreshold)
      log.mark(.prepare)
      return run(step)
    }
  }

  private func withPointers<R>(
    _ batch: borrowing Batch,
    _ body: (UnsafeBufferPointer<Int32>, UnsafeBufferPointer<Int32>, UnsafeBufferPointer<Batch.Entry>) -> R
  ) -> R {
    batch.tokens.withUnsafeBufferPointer { tokens in
      batch.blockTable.withUnsafeBufferPointer { tables in
        batch.entries.withUnsafeBufferPointer { body(tokens, tables, $0) }
      }
    }
  }

  /// What the last sub-layer left to be added to the residual stream.
  private enum Pending {
    case nothing
    case delta(bias: UnsafePointer<Float>?)
    case experts(hasShared: Bool)
  }

  private func run(_ step: Step) -> UnsafeBufferPointer<Float> {
    embed(step)
    log.mark(.embed)
    var pending = Pending.nothing
    for layer in 0..<hyperparameters.layerCount {
      let weights = self.weights.layers[layer]
      addAndNormalise(pending, norm: weights.attentionNorm, count: step.count, out: scratch.normed.forms(weights.attention.inputNeeds))
      log.mark(.norm)
      attention.run(weights.attention, step, cache: cache, layer: layer, next: weights.afterAttention)
      pending = .delta(bias: weights.attention.outputBias)
      pending = feedForward(weights, pending, layer: layer, tokens: step.count)
      if let trace { traceLayer(layer, pending, tokens: step.count, trace, &pending) }
    }
    return head(step, pending)
  }

  private func embed(_ step: Step) {
    guard let tokens = step.tokens.baseAddress else { return }
    var job = qe_embed(table: weights.globals.embedding.descriptor, tokens: tokens, count: step.count, residual: scratch.residual)
    qe_run_embed(pool.workers, &job)
  }

  private func feedForward(_ weights: LayerWeights, _ pending: Pending, layer: Int, tokens: Int) -> Pending {
    switch weights.feedForward {
    case .dense(let gated, let inputNeeds, let hiddenNeeds):
      addAndNormalise(pending, norm: weights.feedForwardNorm, count: tokens, out: scratch.normed.forms(inputNeeds))
      log.mark(.norm)
      experts.runDense(gated, hiddenNeeds: hiddenNeeds, tokens: tokens)
      return .delta(bias: nil)
    case .experts(let expertWeights):
      addAndNormalise(pending, norm: weights.feedForwardNorm, count: tokens, out: scratch.normed.forms(expertWeights.inputNeeds))
      log.mark(.norm)
      guard let row = load.baseAddress else { return .nothing }
      experts.runExperts(expertWeights, tokens: tokens, load: row + layer * hyperparameters.expertCount)
      return .experts(hasShared: expertWeights.shared != nil)
    }
  }

  private func addAndNormalise(
    _ pending: Pending, norm: UnsafePointer<Float>, count: Int, rows: UnsafePointer<Int32>? = nil, out: qe_activations
  ) {
    var job = qe_residual_norm(
      count: count, rows: rows, width: hyperparameters.hiddenSize, residual: scratch.residual, delta: nil, bias: nil, expert_out: nil,
      pair_of_slot: nil, slot_weights: nil, experts_per_token: hyperparameters.expertsPerToken, norm: norm,
      epsilon: hyperparameters.normEpsilon, out: out)
    switch pending {
    case .nothing: break
    case .delta(let bias):
      job.delta = UnsafePointer(scratch.delta)
      job.bias = bias
    case .experts(let hasShared):
      job.delta = hasShared ? UnsafePointer(scratch.delta) : nil
      job.expert_out = UnsafePointer(scratch.expertOut)
      job.pair_of_slot = UnsafePointer(scratch.pairOfSlot)
      job.slot_weights = UnsafePointer(scratch.slotWeights)
    }
    qe_run_residual_norm(pool.workers, &job)
  }

  /// Final norm and head, only for the rows that are wanted.
  private func head(_ step: Step, _ pending: Pending) -> UnsafeBufferPointer<Float> {
    guard step.logitsRows > 0 else { return UnsafeBufferPointer(start: nil, count: 0) }
    let globals = weights.globals
    addAndNormalise(
      pending, norm: globals.outputNorm, count: step.logitsRows, rows: scratch.wantedRows, out: scratch.final.forms(globals.headNeeds))
    let source = scratch.final.source(for: globals.head)
    scratch.tasks[0] = qk_matmul_task(
      w: globals.head.descriptor, x: source.pointer, x_stride: source.stride, index: nil, tokens: step.logitsRows, y: scratch.logits,
      y_stride: hyperparameters.vocabularySize)
    log.mark(.norm)
    qk_pool_matmul(pool.workers.pool, pool.workers.kernels, scratch.tasks, 1)
    log.add(.head, scratch.tasks, count: 1)
    log.mark(.head)
    return UnsafeBufferPointer(start: scratch.logits, count: step.logitsRows * hyperparameters.vocabularySize)
  }

  /// Completes the residual stream early (the same sums in the same order) and shows it.
  private func traceLayer(
    _ layer: Int, _ made: Pending, tokens: Int, _ trace: (Int, UnsafeBufferPointer<Float>) -> Void, _ pending: inout Pending
  ) {
    addAndNormalise(made, norm: weights.globals.outputNorm, count: tokens, out: scratch.normed.forms(ActivationNeeds()))
    pending = .nothing
    trace(layer, UnsafeBufferPointer(start: scratch.residual, count: tokens * hyperparameters.hiddenSize))
  }

  /// For jobs between two batches, with scratch for a row of logits each.
  var workers: qe_workers { pool.workers }

  /// Measured on the workers, which must be idle: not during `forward`.
  package func measureLimits() -> MachineLimits { pool.measureLimits() }

  /// Running totals of all steps, by `Stage.rawValue`.
  package var stageTotals: [StageTotals] { log.totals }

  /// A copy of the counters (allocates: not for every step).
  package var expertLoad: ExpertLoadCounters {
    let experts = hyperparameters.expertCount
    let rows = hyperparameters.isMixtureOfExperts.indices.filter { hyperparameters.isMixtureOfExperts[$0] }
    return ExpertLoadCounters(layers: rows.map { layer in Array(load[layer * experts..<(layer + 1) * experts]) })
  }

  /// The router's choice of the last layer that ran, for tests: [tokens, k] experts.
  var lastChoice: UnsafeMutablePointer<Int32> { scratch.slotExperts }
}
