// The tensor names and shapes of architecture deepseek2 in GGUF (SPEC 3.5), both MLA layouts. Shapes slowest first.

enum GGUFLayout {
  static func tensors(_ h: Hyperparameters, _ index: inout TensorIndex) throws(ModelFileError) -> ModelTensors {
    let embedding = try index.matrix("token_embd.weight", [h.vocabularySize, h.hiddenSize])
    let norm = try index.vector("output_norm.weight", h.hiddenSize)
    let head = h.tiedEmbeddings ? nil : try index.matrix("output.weight", [h.vocabularySize, h.hiddenSize])
    var layers: [LayerTensors] = []
    for layer in 0..<h.layerCount { layers.append(try self.layer(layer, h, &index)) }
    return ModelTensors(embedding: embedding, outputNorm: norm, head: head, layers: layers)
  }

  private static func layer(_ layer: Int, _ h: Hyperparameters, _ index: inout TensorIndex) throws(ModelFileError) -> LayerTensors {
    let p = "blk.\(layer)."
    let (d, c) = (h.hiddenSize, h.latentRank)
    let queryRows = h.headCount * h.queryHeadDim
    func bias(_ name: String, _ count: Int) throws(ModelFileError) -> Tensor? {
      index.contains(p + name) ? try index.vector(p + name, count) : nil
    }
    var tensors = LayerTensors(
      attentionNorm: try index.vector(p + "attn_norm.weight", d),
      ffnNorm: try index.vector(p + "ffn_norm.weight", d),
      latentA: try index.matrix(p + "attn_kv_a_mqa.weight", [c + h.ropeDim, d]),
      latentABias: try bias("attn_kv_a_mqa.bias", c + h.ropeDim),
      latentANorm: try index.vector(p + "attn_kv_a_norm.weight", c),
      keyValueB: try keyValueB(p, h, &index),
      attentionOutput: try index.matrix(p + "attn_output.weight", [d, h.headCount * h.valueDim]),
      outputBias: try bias("attn_output.bias", d),
      ffn: h.isMixtureOfExperts[layer] ? try experts(p, h, &index) : try dense(p, h, &index))
    if let rank = h.queryRank {
      tensors.queryA = try index.matrix(p + "attn_q_a.weight", [rank, d])
      tensors.queryABias = try bias("attn_q_a.bias", rank)
      tensors.queryANorm = try index.vector(p + "attn_q_a_norm.weight", rank)
      tensors.queryB = try index.matrix(p + "attn_q_b.weight", [queryRows, rank])
    } else {
      tensors.query = try index.matrix(p + "attn_q.weight", [queryRows, d])
    }
    return tensors
  }

  /// The tensors present decide the form, not the metadata (SPEC 7.13).
  private static func keyValueB(_ p: String, _ h: Hyperparameters, _ index: inout TensorIndex) throws(ModelFileError) -> KeyValueB {
    if index.contains(p + "attn_kv_b.weight"), !index.contains(p + "attn_k_b.weight") {
      return .joined(try index.matrix(p + "attn_kv_b.weight", [h.headCount * (h.nopeDim + h.valueDim), h.latentRank]))
    }
    return .split(
      keyB: try index.matrix(p + "attn_k_b.weight", [h.headCount, h.latentRank, h.nopeDim]),
      valueB: try index.matrix(p + "attn_v_b.weight", [h.headCount, h.valueDim, h.latentRank]))
  }

  private static func dense(_ p: String, _ h: Hyperparameters, _ index: inout TensorIndex) throws(ModelFileError) -> FeedForward {
    let width = h.denseWidth
    return .dense(
      gate: try index.matrix(p + "ffn_gate.weight", [width, h.hiddenSize]),
      up: try index.matrix(p + "ffn_up.weight", [width, h.hiddenSize]),
      down: try index.matrix(p + "ffn_down.weight", [h.hiddenSize, width]))
  }

  private static func experts(_ p: String, _ h: Hyperparameters, _ index: inout TensorIndex) throws(ModelFileError) -> FeedForward {
    let (d, e, f) = (h.hiddenSize, h.expertCount, h.expertWidth)
    let gate: ExpertTensors
    let up: ExpertTensors
    if index.contains(p + "ffn_gate_up_exps.weight") {
      let fused = try index.matrix(p + "ffn_gate_up_exps.weight", [e, 2 * f, d])
      gate = .stacked(fused, rowsPerExpert: f, rowOffset: 0, rowStride: 2 * f)
      up = .stacked(fused, rowsPerExpert: f, rowOffset: f, rowStride: 2 * f)
    } else {
      gate = .stacked(try index.matrix(p + "ffn_gate_exps.weight", [e, f, d]), rowsPerExpert: f, rowOffset: 0, rowStride: f)
      up = .stacked(try index.matrix(p + "ffn_up_exps.weight", [e, f, d]), rowsPerExpert: f, rowOffset: 0, rowStride: f)
    }
    let down = try index.matrix(p + "ffn_down_exps.weight", [e, d, f])
    var shared: (gate: Tensor, up: Tensor, down: Tensor)?
    if h.sharedExpertCount > 0 {
      let width = h.sharedExpertCount * f
      shared = (
        try index.matrix(p + "ffn_gate_shexp.weight", [width, d]), try index.matrix(p + "ffn_up_shexp.weight", [width, d]),
        try index.matrix(p + "ffn_down_shexp.weight", [d, width])
      )
    }
    return .experts(
      router: try index.matrix(p + "ffn_gate_inp.weight", [e, d]),
      bias: h.selection == .biasedGroups ? try index.vector(p + "exp_probs_b.bias", e) : nil,
      gate: gate, up: up, down: .stacked(down, rowsPerExpert: d, rowOffset: 0, rowStride: d), shared: shared)
  }

  /// MTP layers.
  static func isIgnored(_ name: String, _ h: Hyperparameters, blockCount: Int) -> Bool {
    guard name.hasPrefix("blk."), let layer = Int(name.dropFirst(4).prefix { $0 != "." }) else { return false }
    return layer >= h.layerCount && layer < blockCount
  }
}
