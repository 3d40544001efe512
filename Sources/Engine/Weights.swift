// All weights of a model, brought into the engine's memory once at start. Knows which tensor plays which part, not what is computed.

import CEngine
import CKernels
import ModelFile

/// What loading will take, found without reading any weight.
struct WeightPlan {
  let arenaBytes: Int
  let mappedBytes: Int
  let sourceBytes: Int
  let scratchBytes: Int
  let widestColumns: Int

  init(model: ModelFile, options: EngineOptions) throws(EngineError) {
    var builder = WeightBuilder(options: options, arena: .measuring(), measuring: true)
    _ = builder.globals(of: model)
    for index in 0..<model.hyperparameters.layerCount { _ = builder.layer(model.layer(index), model.hyperparameters) }
    guard !builder.arena.overflowed else { throw .unsupportedModel(reason: "its weights do not fit an address space") }
    arenaBytes = builder.arena.byteCount
    mappedBytes = builder.mappedBytes
    sourceBytes = builder.sourceBytes
    scratchBytes = builder.scratchBytes
    widestColumns = builder.widestColumns
  }
}

struct GlobalWeights {
  let embedding: Matrix  // [vocabulary, hidden], rows as in the file
  let outputNorm: UnsafePointer<Float>  // [hidden]
  let head: Matrix  // [vocabulary, hidden]
  let headNeeds: ActivationNeeds
}

/// Owns the memory that every `Matrix` points into: in exact mode that of the mapped model file too.
struct Weights: ~Copyable {
  let globals: GlobalWeights
  let layers: UnsafeMutableBufferPointer<LayerWeights>
  private let memory: MappedMemory
  private let model: ModelFile?

  init(
    model: ModelFile, plan: WeightPlan, options: EngineOptions, pool: borrowing WorkerPool, progress: ((Int, Int) -> Void)?
  ) throws(EngineError) {
    let memory = try MappedMemory(byteCount: plan.arenaBytes, interleavedOver: options.placement.memoryNodes)
    try pool.reserveScratch(bytes: plan.scratchBytes)
    var builder = WeightBuilder(options: options, arena: Arena(memory), measuring: false)
    let shape = model.hyperparameters
    var layers: [LayerWeights] = []
    progress?(0, plan.sourceBytes)
    let globals = builder.globals(of: model)
    try Self.load(&builder, pool)
    progress?(builder.sourceBytes, plan.sourceBytes)
    for index in 0..<shape.layerCount {
      layers.append(builder.layer(model.layer(index), shape))
      try Self.load(&builder, pool)
      progress?(builder.sourceBytes, plan.sourceBytes)
    }
    self.globals = globals
    self.layers = .allocate(capacity: shape.layerCount)
    _ = self.layers.initialize(from: layers)
    self.memory = memory
    self.model = options.compute == .exact ? model : nil
  }

  deinit { layers.deallocate() }

  var interleaveErrno: Int32 { memory.interleaveErrno }

  private static func load(_ builder: inout WeightBuilder, _ pool: borrowing WorkerPool) throws(EngineError) {
    let error = qe_run_load(pool.workers, builder.pieces, builder.pieces.count)
    guard error == 0 else { throw .weightsUnreadable(errno: error) }
    builder.clearPieces()
  }
}

// Which tensor plays which part. Order of the calls = order in the arena, the same when measuring and when building.
extension WeightBuilder {
  mutating func globals(of model: ModelFile) -> GlobalWeights {
    let head = matrix(model.head ?? model.embedding)
    return GlobalWeights(
      embedding: table(model.embedding), outputNorm: floats(model.outputNorm), head: head, headNeeds: needs(of: [head]))
  }

  mutating func layer(_ tensors: LayerTensors, _ shape: Hyperparameters) -> LayerWeights {
    let attentionNorm = floats(tensors.attentionNorm)
    let attention = attention(tensors, shape)
    let feedForwardNorm = floats(tensors.ffnNorm)
    let feedForward = feedForward(tensors.ffn, shape)
    return LayerWeights(
      attentionNorm: attentionNorm, attention: attention,
      afterAttention: range(from: attention.values[0], to: feedForward.lastCertain),
      feedForwardNorm: feedForwardNorm, feedForward: feedForward)
  }

  private mutating func attention(_ tensors: LayerTensors, _ shape: Hyperparameters) -> AttentionWeights {
    let queryA = tensors.queryA.map { matrix($0) }
    let query = list([tensors.queryB ?? tensors.query].compactMap { $0 }.map { source($0) })[0]
    let latent = matrix(tensors.latentA)
    let (absorbed, expanded, values) = keyValue(tensors.keyValueB, shape)
    let output = matrix(tensors.attentionOutput)
    return AttentionWeights(
      queryA: queryA, queryABias: floats(tensors.queryABias), queryNorm: floats(tensors.queryANorm), query: query,
      latent: latent, latentBias: floats(tensors.latentABias), latentNorm: floats(tensors.latentANorm),
      absorbedKeys: absorbed, expandedKeys: expanded, values: values, output: output, outputBias: floats(tensors.outputBias),
      inputNeeds: needs(of: [queryA ?? query, latent]), queryNeeds: needs(of: [query]), nopeNeeds: needs(of: [absorbed[0]]),
      latentNeeds: needs(of: [expanded?[0], values[0]]), valueNeeds: needs(of: [values[0]]), outputNeeds: needs(of: [output]))
  }

  /// W_UK transposed (absorbed form), W_UK (expanded form, fast mode), W_UV, each per head (SPEC 2.4, 3.5).
  private mutating func keyValue(
    _ tensors: KeyValueB, _ shape: Hyperparameters
  ) -> (absorbed: MatrixList, expanded: MatrixList?, values: MatrixList) {
    let (n, v, c) = (shape.nopeDim, shape.valueDim, shape.latentRank)
    func heads(_ whole: qe_file_rows, stride: Int, offset: Int, rows: Int) -> [qe_file_rows] {
      (0..<shape.headCount).map { whole.rows($0 * stride + offset..<$0 * stride + offset + rows) }
    }
    switch tensors {
    case .joined(let tensor):
      let whole = source(tensor)
      let keys = heads(whole, stride: n + v, offset: 0, rows: n)
      let values = heads(whole, stride: n + v, offset: n, rows: v)
      return (transposed(keys), expands ? list(keys) : nil, list(values))
    case .split(let keyB, let valueB):
      let turned = heads(source(keyB), stride: c, offset: 0, rows: c)
      let values = heads(source(valueB), stride: v, offset: 0, rows: v)
      return (list(turned), expands ? transposed(turned) : nil, list(values))
    }
  }

  private mutating func feedForward(_ tensors: FeedForward, _ shape: Hyperparameters) -> FeedForwardWeights {
    switch tensors {
    case .dense(let gate, let up, let down):
      let gated = gated(gate, up, down)
      return .dense(gated, inputNeeds: needs(of: [gated.gate, gated.up]), hiddenNeeds: needs(of: [gated.down]))
    case .experts(let router, let bias, let gate, let up, let down, let shared):
      let router = floatMatrix(router)
      let sharedWeights = shared.map { gated($0.gate, $0.up, $0.down) }
      let gates = experts(gate, shape)
      let ups = experts(up, shape)
      let downs = experts(down, shape)
      return .experts(
        ExpertWeights(
          router: router, bias: floats(bias), gate: gates, up: ups, down: downs, shared: sharedWeights,
          isFused: fuses(gates, ups, hidden: needs(of: downs)),
          inputNeeds: needs(of: gates, ups, [sharedWeights?.gate, sharedWeights?.up]), hiddenNeeds: needs(of: downs),
          sharedHiddenNeeds: needs(of: [sharedWeights?.down])))
    }
  }

  private mutating func experts(_ tensors: ExpertTensors, _ shape: Hyperparameters) -> MatrixList {
    switch tensors {
    case .stacked(let tensor, _, _, _):
      let whole = source(tensor)
      return list((0..<shape.expertCount).map { whole.rows(tensors.rows(ofExpert: $0).rows) })
    case .separate(let tensors):
      return list(tensors.map { source($0) })
    }
  }
}
