// GGUF metadata of architecture deepseek2 -> Hyperparameters (SPEC 3.5), with the guesses that older public files need.
// Knows tensors only by name and by the presence that those guesses depend on.

struct GGUFConfig {
  let hyperparameters: Hyperparameters
  let warnings: [String]
  let blockCount: Int  // layers on disk, with MTP layers

  /// `tensors` are those of all shards, by name.
  init(_ metadata: GGUFMetadata, tensors: [String: Tensor]) throws(ModelFileError) {
    let path = metadata.file.path
    guard let architecture = try metadata.string("general.architecture") else { throw .missingKey(path: path, key: "general.architecture") }
    guard architecture == "deepseek2" else { throw .unsupported(path: path, key: "general.architecture", value: architecture) }
    let source = Source(metadata: metadata, tensors: tensors)
    var h = Hyperparameters()
    h.architecture = architecture
    try GGUFConfig.readSizes(source, &h)
    try GGUFConfig.readExperts(source, &h)
    try GGUFConfig.readRope(source, &h)
    try h.validate(path: path, keys: .gguf)
    var warnings: [String] = []
    try GGUFConfig.readTokens(metadata, &h, &warnings)
    hyperparameters = h
    blockCount = try source.requiredInteger("block_count")
    self.warnings = warnings
  }

  /// The keys without their `deepseek2.` prefix.
  private struct Source {
    let metadata: GGUFMetadata
    let tensors: [String: Tensor]

    func integer(_ key: String) throws(ModelFileError) -> Int? { try metadata.integer("deepseek2." + key) }
    func requiredInteger(_ key: String) throws(ModelFileError) -> Int { try metadata.requiredInteger("deepseek2." + key) }
    func double(_ key: String) throws(ModelFileError) -> Double? { try metadata.double("deepseek2." + key) }
    func bool(_ key: String) throws(ModelFileError) -> Bool? { try metadata.bool("deepseek2." + key) }
    func string(_ key: String) throws(ModelFileError) -> String? { try metadata.string("deepseek2." + key) }
    func bad(_ key: String, _ reason: String) -> ModelFileError {
      .badValue(path: metadata.file.path, key: "deepseek2." + key, reason: reason)
    }
    func unsupported(_ key: String, _ value: String) -> ModelFileError {
      .unsupported(path: metadata.file.path, key: "deepseek2." + key, value: value)
    }
    /// The first of two keys that is present; the second is required then.
    func integer(_ key: String, orElse other: String) throws(ModelFileError) -> Int {
      if let value = try integer(key) { return value }
      return try requiredInteger(other)
    }
    /// A value that must be the same for all layers; files may store it once or per layer.
    func uniform(_ key: String, _ layers: Range<Int>) throws(ModelFileError) -> Int? {
      guard let all = try metadata.integers("deepseek2." + key, count: layers.upperBound) else { return nil }
      let used = all[layers]
      guard let first = used.first else { return nil }
      guard used.allSatisfy({ $0 == first }) else { throw bad(key, "differs between layers, which is not supported") }
      return first
    }
  }

  private static func readSizes(_ source: Source, _ h: inout Hyperparameters) throws(ModelFileError) {
    h.layerCount = try mainLayerCount(source)
    h.hiddenSize = try source.requiredInteger("embedding_length")
    h.maxContext = try source.requiredInteger("context_length")
    guard let heads = try source.uniform("attention.head_count", 0..<h.layerCount) else {
      throw .missingKey(path: source.metadata.file.path, key: "deepseek2.attention.head_count")
    }
    h.headCount = heads
    if let size = try source.integer("vocab_size") {
      h.vocabularySize = size
    } else if let embedding = source.tensors["token_embd.weight"] {
      h.vocabularySize = embedding.rows
    } else {
      h.vocabularySize = try source.requiredInteger("vocab_size")
    }
    h.queryRank = try source.integer("attention.q_lora_rank")
    if h.queryRank == 0 { h.queryRank = nil }
    h.latentRank = try source.requiredInteger("attention.kv_lora_rank")
    h.ropeDim = try source.requiredInteger("rope.dimension_count")
    // Files of 2025 and later describe a one-head cache view in key_length and put the real head widths under *_mla.
    let keyLength = try source.integer("attention.key_length_mla", orElse: "attention.key_length")
    let (nopeDim, overflow) = keyLength.subtractingReportingOverflow(h.ropeDim)
    guard !overflow else { throw source.bad("attention.key_length", "is \(keyLength)") }
    h.nopeDim = nopeDim
    h.valueDim = try source.integer("attention.value_length_mla", orElse: "attention.value_length")
    h.normEpsilon = Float(try source.double("attention.layer_norm_rms_epsilon") ?? 1e-6)
    h.tiedEmbeddings = source.tensors["output.weight"] == nil
    h.attentionBias = source.tensors["blk.0.attn_output.bias"] != nil
  }

  /// block_count, less the MTP layers when the file contains them.
  private static func mainLayerCount(_ source: Source) throws(ModelFileError) -> Int {
    let blocks = try source.requiredInteger("block_count")
    guard (1...HyperparameterLimits.layers).contains(blocks) else {
      throw source.bad("block_count", "is \(blocks), must be in 1...\(HyperparameterLimits.layers)")
    }
    let extra = try source.integer("nextn_predict_layers") ?? 0
    guard (0..<blocks).contains(extra) else { throw source.bad("nextn_predict_layers", "is \(extra), must be in 0..<\(blocks)") }
    let hasExtra = extra > 0 && source.tensors["blk.\(blocks - extra).nextn.eh_proj.weight"] != nil
    return hasExtra ? blocks - extra : blocks
  }

  private static func readExperts(_ source: Source, _ h: inout Hyperparameters) throws(ModelFileError) {
    h.expertCount = try source.integer("expert_count") ?? 0
    let dense = h.expertCount == 0 ? h.layerCount : try source.integer("leading_dense_block_count") ?? 0
    guard dense >= 0 else { throw source.bad("leading_dense_block_count", "is \(dense), must not be negative") }
    h.isMixtureOfExperts = (0..<h.layerCount).map { $0 >= dense }
    let denseLayers = 0..<min(dense, h.layerCount)
    if !denseLayers.isEmpty { h.denseWidth = try source.uniform("feed_forward_length", denseLayers) ?? 0 }
    guard h.isMixtureOfExperts.contains(true) else { return }
    h.expertWidth = try source.requiredInteger("expert_feed_forward_length")
    h.expertsPerToken = try source.requiredInteger("expert_used_count")
    h.sharedExpertCount = try source.integer("expert_shared_count") ?? 0
    let scale = try source.double("expert_weights_scale") ?? 0
    h.routedScale = scale == 0 ? 1 : Float(scale)
    h.normalizesTopK = try source.bool("expert_weights_norm") ?? false
    try readScoring(source, &h)
    try readGroups(source, &h)
    let hasBias = source.tensors["blk.\(dense).exp_probs_b.bias"] != nil
    h.selection = hasBias ? .biasedGroups : h.groupCount > 1 ? .groupLimitedGreedy : .greedy
  }

  private static func readScoring(_ source: Source, _ h: inout Hyperparameters) throws(ModelFileError) {
    switch try source.integer("expert_gating_func") ?? 0 {
    case 1: h.scoring = .softmax
    case 2: h.scoring = .sigmoid
    case 0:
      // GLM-4.7-Flash files written before the key existed.
      let isGLM = (h.layerCount == 47 || h.layerCount == 48) && h.vocabularySize == 154_880
      h.scoring = isGLM ? .sigmoid : .softmax
      if isGLM { h.assumptions.append("expert_gating_func is missing: sigmoid, because 47 layers and vocabulary 154880 are GLM-4.7-Flash") }
    case let other: throw source.unsupported("expert_gating_func", String(other))
    }
  }

  private static func readGroups(_ source: Source, _ h: inout Hyperparameters) throws(ModelFileError) {
    if let groups = try source.integer("expert_group_count"), groups > 0 {
      h.groupCount = groups
      h.groupsPerToken = try source.integer("expert_group_used_count") ?? 1
      return
    }
    // Files of the 236B and 671B models made before llama.cpp had expert groups.
    switch (h.headCount, h.expertCount, h.expertsPerToken) {
    case (128, 160, 6): (h.groupCount, h.groupsPerToken) = (8, 3)
    case (128, 256, 8): (h.groupCount, h.groupsPerToken) = (8, 4)
    default: return
    }
    h.assumptions.append(
      "expert_group_count is missing: \(h.groupCount) groups, \(h.groupsPerToken) used, because \(h.expertCount) experts with 128 heads are "
        + (h.expertCount == 160 ? "DeepSeek-V2" : "DeepSeek-V3"))
  }

  private static func readRope(_ source: Source, _ h: inout Hyperparameters) throws(ModelFileError) {
    h.ropeTheta = try source.double("rope.freq_base") ?? 10000
    let type = try source.string("rope.scaling.type") ?? "none"
    switch type {
    case "none": return
    case "yarn": break
    default: throw source.unsupported("rope.scaling.type", type)
    }
    for key in ["rope.scaling.attn_factor", "rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor"] {
      if let value = try source.double(key), value != 1 { throw source.unsupported(key, String(value)) }
    }
    guard let factor = try source.double("rope.scaling.factor") else {
      throw .missingKey(path: source.metadata.file.path, key: "deepseek2.rope.scaling.factor")
    }
    var yarn = YarnScaling(factor: factor, originalContext: try source.requiredInteger("rope.scaling.original_context_length"))
    let betaFast = try source.double("rope.scaling.yarn_beta_fast")
    let betaSlow = try source.double("rope.scaling.yarn_beta_slow")
    if betaFast == nil || betaSlow == nil {
      let isKimi = h.headCount == 64 && h.expertCount == 384
      h.assumptions.append(
        "rope.scaling.yarn_beta_fast/slow are missing: 32 and 1"
          + (isKimi ? "; this looks like an old Kimi-K2 file, which needs 1 and 1: convert it again for right answers" : ""))
    }
    yarn.betaFast = betaFast ?? 32
    yarn.betaSlow = betaSlow ?? 1
    if let multiplier = try source.double("rope.scaling.yarn_log_multiplier") {
      // 0.1 * mscale_all_dim, in 32 bits: go through the shortest decimal, so that 0.0707 gives 0.707 and not 0.70699999.
      let exact = Double(Float(multiplier).description) ?? multiplier
      yarn.mscaleAllDim = (exact * 10_000_000).rounded() / 1_000_000
      yarn.mscale = yarn.mscaleAllDim
    } else {
      h.assumptions.append("rope.scaling.yarn_log_multiplier is missing: mscale_all_dim taken as absent")
    }
    h.yarn = yarn
  }

  private static func readTokens(_ metadata: GGUFMetadata, _ h: inout Hyperparameters, _ warnings: inout [String]) throws(ModelFileError) {
    if let bos = try metadata.integer("tokenizer.ggml.bos_token_id") {
      h.bosToken = checkedToken(bos, vocabularySize: h.vocabularySize, key: "tokenizer.ggml.bos_token_id", warnings: &warnings)
    }
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"] {
      guard let id = try metadata.integer(key) else { continue }
      if let token = checkedToken(id, vocabularySize: h.vocabularySize, key: key, warnings: &warnings), !h.eosTokens.contains(token) {
        h.eosTokens.append(token)
      }
    }
  }
}
