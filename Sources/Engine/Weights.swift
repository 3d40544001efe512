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
  let embedding: Matrix  // [vocabulary, hidden], in the mapped file
  let outputNorm: UnsafePointer<Float>  // [hidden]
  let head: Matrix  // [vocabulary, hidden]
  let headNeeds: ActivationNeeds
}

/// Owns the memory that every `Matrix` points into; holds the model file because the embedding (and in exact mode everything) stays mapped.
struct Weights: ~Copyable {
  let globals: GlobalWeights
  let layers: UnsafeMutableBufferPointer<LayerWeights>
  private let memory: MappedMemory
  private let model: ModelFile

  init(
    model: ModelFile, plan: WeightPlan, options: EngineOptions, pool: borrowing WorkerPool, progress: ((Int, Int) -> Void)?
  ) throws(EngineError) {
    let memory = try MappedMemory(byteCount: plan.arenaBytes, interleavedOver: options.placement.memoryNodes)
    try pool.reserveScratch(bytes: plan.scratchBytes)
    var builder = WeightBuilder(options: options, arena: Arena(memory), measuring: false)
    let shape = model.hyperparameters
    layers = .allocate(capacity: shape.layerCount)
    progress?(0, plan.sourceBytes)
    if options.compute == .fast {
      model.adviseSequential()
      Self.readAhead(model, of: 0)
    }
    globals = builder.globals(of: model)
    Self.load(&builder, pool)
    progress?(builder.sourceBytes, plan.sourceBytes)
    for index in 0..<shape.layerCount {
      let tensors = model.layer(index)
      if options.compute == .fast { Self.readAhead(model, of: index + 1) }
      layers.initializeElement(at: index, to: builder.layer(tensors, shape))
      Self.load(&builder, pool)
      if options.compute == .fast { tensors.forEachMatrix { model.release($0) } }
      progress?(builder.sourceBytes, plan.sourceBytes)
    }
    if options.compute == .fast, let head = model.head { model.release(head) }
    self.memory = memory
    self.model = model
  }

  deinit { layers.deallocate() }

  var interleaveErrno: Int32 { memory.interleaveErrno }

  /// The disk reads a layer while the one before is packed.
  private static func readAhead(_ model: ModelFile, of index: Int) {
    guard index < model.hyperparameters.layerCount else { return }
    model.layer(index).forEachMatrix { model.prefetch($0) }
  }

  private static func load(_ builder: inout WeightBuilder, _ pool: borrowing WorkerPool) {
    qe_run_load(pool.workers, builder.pieces, builder.pieces.count)
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
    LayerWeights(
      attentionNorm: floats(tensors.attentionNorm), attention: attention(tensors, shape),
      feedForwardNorm: floats(tensors.ffnNorm), feedForward: feedForward(tensors.ffn, shape))
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
    func heads(_ whole: qk_matrix, stride: Int, offset: Int, rows: Int) -> [qk_matrix] {
      (0..<shape.headCount).map { qk_rows(whole, $0 * stride + offset, $0 * stride + offset + rows) }
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
      let sharedWeights = shared.map { gated($0.gate, $0.up, $0.down) }
      let gates = experts(gate, shape)
      let ups = experts(up, shape)
      let downs = experts(down, shape)
      return .experts(
        ExpertWeights(
          router: floatMatrix(router), bias: floats(bias), gate: gates, up: ups, down: downs, shared: sharedWeights,
          isFused: fuses(gates, ups, hidden: needs(of: downs)),
          inputNeeds: needs(of: gates, ups, [sharedWeights?.gate, sharedWeights?.up]), hiddenNeeds: needs(of: downs),
          sharedHiddenNeeds: needs(of: [sharedWeights?.down])))
    }
  }

  private mutating func experts(_ tensors: ExpertTensors, _ shape: Hyperparameters) -> MatrixList {
    switch tensors {
    case .stacked(let tensor, _, _, _):
      let whole = source(tensor)
      return list(
        (0..<shape.expertCount).map {
          let rows = tensors.rows(ofExpert: $0).rows
          return qk_rows(whole, rows.lowerBound, rows.upperBound)
        })
    case .separate(let tensors):
      return list(tensors.map { source($0) })
    }
  }
}

extension LayerTensors {
  /// The tensors that are copied in fast mode and worth giving back.
  func forEachMatrix(_ body: (Tensor) -> Void) {
    for tensor in [query, queryA, queryB, latentA, attentionOutput] { if let tensor { body(tensor) } }
    switch keyValueB {
    case .joined(let tensor): body(tensor)
    case .split(let keyB, let valueB):
      body(keyB)
      body(valueB)
    }
    switch ffn {
    case .dense(let gate, let up, let down):
      for tensor in [gate, up, down] { body(tensor) }
    case .experts(_, _, let gate, let up, let down, let shared):
      for tensors in [gate, up, down] {
        switch tensors {
        case .stacked(let tensor, _, _, _): body(tensor)
        case .separate(let list): list.forEach(body)
        }
      }
      if let shared { for tensor in [shared.gate, shared.up, shared.down] { body(tensor) } }
    }
  }
}
