// The tensor names and shapes of Hugging Face checkpoints (SPEC 3.2), also wrapped ones and those with fused experts.

struct HuggingFaceLayout {
  static let wrapperPrefix = "language_model."

  let h: Hyperparameters
  let prefix: String  // "" or wrapperPrefix
  let layersOnDisk: Int  // with MTP layers, which are not used

  init(_ h: Hyperparameters, nextTokenLayerCount: Int, _ index: TensorIndex) {
    self.h = h
    layersOnDisk = h.layerCount + nextTokenLayerCount
    let isWrapped = index.contains(HuggingFaceLayout.wrapperPrefix + "model.embed_tokens.weight")
    prefix = isWrapped ? HuggingFaceLayout.wrapperPrefix : ""
  }

  func tensors(_ index: inout TensorIndex) throws(ModelFileError) -> ModelTensors {
    let embedding = try index.matrix(prefix + "model.embed_tokens.weight", [h.vocabularySize, h.hiddenSize])
    let norm = try index.vector(prefix + "model.norm.weight", h.hiddenSize)
    let head = h.tiedEmbeddings ? nil : try index.matrix(prefix + "lm_head.weight", [h.vocabularySize, h.hiddenSize])
    var layers: [LayerTensors] = []
    for layer in 0..<h.layerCount { layers.append(try self.layer(layer, &index)) }
    return ModelTensors(embedding: embedding, outputNorm: norm, head: head, layers: layers)
  }

  private func layer(_ layer: Int, _ index: inout TensorIndex) throws(ModelFileError) -> LayerTensors {
    let p = "\(prefix)model.layers.\(layer)."
    let attention = p + "self_attn."
    let (d, c) = (h.hiddenSize, h.latentRank)
    let queryRows = h.headCount * h.queryHeadDim
    func bias(_ name: String, _ count: Int) throws(ModelFileError) -> Tensor? {
      h.attentionBias ? try index.vector(attention + name, count) : nil
    }
    var tensors = LayerTensors(
      attentionNorm: try index.vector(p + "input_layernorm.weight", d),
      ffnNorm: try index.vector(p + "post_attention_layernorm.weight", d),
      latentA: try index.matrix(attention + "kv_a_proj_with_mqa.weight", [c + h.ropeDim, d]),
      latentABias: try bias("kv_a_proj_with_mqa.bias", c + h.ropeDim),
      latentANorm: try index.vector(attention + "kv_a_layernorm.weight", c),
      keyValueB: .joined(try index.matrix(attention + "kv_b_proj.weight", [h.headCount * (h.nopeDim + h.valueDim), c])),
      attentionOutput: try index.matrix(attention + "o_proj.weight", [d, h.headCount * h.valueDim]),
      outputBias: try bias("o_proj.bias", d),
      ffn: h.isMixtureOfExperts[layer] ? try experts(p + "mlp.", &index) : try dense(p + "mlp.", &index))
    if let rank = h.queryRank {
      tensors.queryA = try index.matrix(attention + "q_a_proj.weight", [rank, d])
      tensors.queryABias = try bias("q_a_proj.bias", rank)
      tensors.queryANorm = try index.vector(attention + "q_a_layernorm.weight", rank)
      tensors.queryB = try index.matrix(attention + "q_b_proj.weight", [queryRows, rank])
    } else {
      tensors.query = try index.matrix(attention + "q_proj.weight", [queryRows, d])
    }
    return tensors
  }

  private func threeMatrices(
    _ p: String, width: Int, _ index: inout TensorIndex
  ) throws(ModelFileError) -> (gate: Tensor, up: Tensor, down: Tensor) {
    (
      try index.matrix(p + "gate_proj.weight", [width, h.hiddenSize]), try index.matrix(p + "up_proj.weight", [width, h.hiddenSize]),
      try index.matrix(p + "down_proj.weight", [h.hiddenSize, width])
    )
  }

  private func dense(_ p: String, _ index: inout TensorIndex) throws(ModelFileError) -> FeedForward {
    let (gate, up, down) = try threeMatrices(p, width: h.denseWidth, &index)
    return .dense(gate: gate, up: up, down: down)
  }

  private func experts(_ p: String, _ index: inout TensorIndex) throws(ModelFileError) -> FeedForward {
    let routed = try index.contains(p + "experts.gate_up_proj") ? fusedExperts(p, &index) : separateExperts(p, &index)
    return .experts(
      router: try index.matrix(p + "gate.weight", [h.expertCount, h.hiddenSize]),
      bias: h.selection == .biasedGroups ? try index.vector(p + "gate.e_score_correction_bias", h.expertCount) : nil,
      gate: routed.gate, up: routed.up, down: routed.down,
      shared: h.sharedExpertCount > 0
        ? try threeMatrices(p + "shared_experts.", width: h.sharedExpertCount * h.expertWidth, &index) : nil)
  }

  private typealias Routed = (gate: ExpertTensors, up: ExpertTensors, down: ExpertTensors)

  private func separateExperts(_ p: String, _ index: inout TensorIndex) throws(ModelFileError) -> Routed {
    var gate: [Tensor] = []
    var up: [Tensor] = []
    var down: [Tensor] = []
    for expert in 0..<h.expertCount {
      let tensors = try threeMatrices("\(p)experts.\(expert).", width: h.expertWidth, &index)
      gate.append(tensors.gate)
      up.append(tensors.up)
      down.append(tensors.down)
    }
    return (.separate(gate), .separate(up), .separate(down))
  }

  /// The in-memory form of transformers 5, gate rows first.
  private func fusedExperts(_ p: String, _ index: inout TensorIndex) throws(ModelFileError) -> Routed {
    let (d, e, f) = (h.hiddenSize, h.expertCount, h.expertWidth)
    let gateUp = try index.matrix(p + "experts.gate_up_proj", [e, 2 * f, d])
    let down = try index.matrix(p + "experts.down_proj", [e, d, f])
    return (
      .stacked(gateUp, rowsPerExpert: f, rowOffset: 0, rowStride: 2 * f),
      .stacked(gateUp, rowsPerExpert: f, rowOffset: f, rowStride: 2 * f),
      .stacked(down, rowsPerExpert: d, rowOffset: 0, rowStride: d)
    )
  }

  /// MTP layers, rotary tables of old files, the indexer of V3.2 (contexts are limited so that it changes nothing), a tied
  /// head that was stored all the same, and the other parts of a wrapped model.
  func isIgnored(_ name: String) -> Bool {
    guard name.hasPrefix(prefix + "model.") || name.hasPrefix(prefix + "lm_head.") else { return !prefix.isEmpty }
    if name.hasSuffix(".rotary_emb.inv_freq") || name.contains(".self_attn.indexer.") { return true }
    if h.tiedEmbeddings, name == prefix + "lm_head.weight" { return true }
    let layers = prefix + "model.layers."
    guard name.hasPrefix(layers), let layer = Int(name.dropFirst(layers.count).prefix { $0 != "." }) else { return false }
    return layer >= h.layerCount && layer < layersOnDisk
  }
}
