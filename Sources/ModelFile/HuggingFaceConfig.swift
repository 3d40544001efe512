// config.json and generation_config.json -> Hyperparameters (SPEC 1.1: what each key means, 1.3: defaults).
// Knows no tensors.

struct HuggingFaceConfig {
  static let bytesLimit = 4 << 20

  /// Model types with this graph. The type selects the router's defaults only.
  private static let v2Types: Set<String> = ["deepseek_v2"]
  private static let v3Types: Set<String> = ["deepseek_v3", "kimi_k2", "glm4_moe_lite", "deepseek_v32"]

  let hyperparameters: Hyperparameters
  let nextTokenLayerCount: Int  // MTP layers stored behind the main ones
  let warnings: [String]
  let document: JSONValue  // for `quire inspect`

  /// `generation` is generation_config.json, if there is one; its eos ids are added to those of config.json (SPEC 4.6).
  init(_ bytes: [UInt8], path: String, generation: JSONObject?) throws(ModelFileError) {
    document = try JSONValue(parsing: bytes, path: path)
    let outer = try JSONObject(document, path: path)
    let config = try HuggingFaceConfig.languageModel(outer)
    let isWrapped = !config.prefix.isEmpty
    var h = Hyperparameters()
    var warnings: [String] = []
    let modelType = try config.string("model_type") ?? ""
    h.architecture = modelType
    let isV2 = HuggingFaceConfig.v2Types.contains(modelType)
    guard isV2 || HuggingFaceConfig.v3Types.contains(modelType) else {
      throw config.unsupported("model_type", modelType.isEmpty ? "(missing)" : modelType)
    }
    try HuggingFaceConfig.readSizes(config, &h)
    try HuggingFaceConfig.readExperts(config, &h, isV2: isV2)
    try HuggingFaceConfig.readLayers(config, &h)
    try HuggingFaceConfig.readRope(config, &h)
    try HuggingFaceConfig.readContext(config, &h)
    try HuggingFaceConfig.refuseOtherGraphs(config)
    try h.validate(path: path, keys: .huggingFace)
    try HuggingFaceConfig.readTokens([config, isWrapped ? outer : nil, generation].compactMap { $0 }, &h, &warnings)
    hyperparameters = h
    try HuggingFaceConfig.checkQuantization(config, outer)
    nextTokenLayerCount = try config.integer("num_nextn_predict_layers") ?? 0
    guard (0...HyperparameterLimits.layers).contains(nextTokenLayerCount) else {
      throw config.bad("num_nextn_predict_layers", "is \(nextTokenLayerCount), must be in 0...\(HyperparameterLimits.layers)")
    }
    self.warnings = warnings
  }

  /// The object that holds the language model: the document itself, or the part that a multi-modal model wraps.
  private static func languageModel(_ outer: JSONObject) throws(ModelFileError) -> JSONObject {
    if let inner = try outer.object("language_config") { return inner }
    return try outer.object("text_config") ?? outer
  }

  private static func readSizes(_ config: JSONObject, _ h: inout Hyperparameters) throws(ModelFileError) {
    h.vocabularySize = try config.requiredInteger("vocab_size")
    h.hiddenSize = try config.requiredInteger("hidden_size")
    h.layerCount = try config.requiredInteger("num_hidden_layers")
    guard (1...HyperparameterLimits.layers).contains(h.layerCount) else {
      throw config.bad("num_hidden_layers", "is \(h.layerCount), must be in 1...\(HyperparameterLimits.layers)")
    }
    h.headCount = try config.requiredInteger("num_attention_heads")
    h.queryRank = try config.integer("q_lora_rank")
    if h.queryRank == 0 { h.queryRank = nil }  // official and llama.cpp configs write 0 for none
    h.latentRank = try config.integer("kv_lora_rank") ?? 512
    h.nopeDim = try config.integer("qk_nope_head_dim") ?? 128
    h.ropeDim = try config.integer("qk_rope_head_dim") ?? 64
    h.valueDim = try config.integer("v_head_dim") ?? 128
    h.normEpsilon = Float(try config.double("rms_norm_eps") ?? 1e-6)
    h.tiedEmbeddings = try config.bool("tie_word_embeddings") ?? false
    h.attentionBias = try config.bool("attention_bias") ?? false
  }

  private static func readExperts(_ config: JSONObject, _ h: inout Hyperparameters, isV2: Bool) throws(ModelFileError) {
    h.expertCount = try config.integer("n_routed_experts") ?? 0
    h.expertWidth = try config.integer("moe_intermediate_size") ?? 0
    h.expertsPerToken = try config.integer("num_experts_per_tok") ?? 0
    h.sharedExpertCount = try config.integer("n_shared_experts") ?? 0
    h.groupCount = try config.integer("n_group") ?? 1
    h.groupsPerToken = try config.integer("topk_group") ?? 1
    h.routedScale = Float(try config.double("routed_scaling_factor") ?? 1)
    h.normalizesTopK = try config.bool("norm_topk_prob") ?? !isV2
    let scoring = try config.string("scoring_func") ?? (isV2 ? "softmax" : "sigmoid")
    guard let scoring = Hyperparameters.Scoring(rawValue: scoring) else { throw config.unsupported("scoring_func", scoring) }
    h.scoring = scoring
    let method = try config.string("topk_method") ?? (isV2 ? "greedy" : "noaux_tc")
    switch method {
    case "greedy": h.selection = .greedy
    case "group_limited_greedy": h.selection = .groupLimitedGreedy
    case "noaux_tc": h.selection = .biasedGroups
    default: throw config.unsupported("topk_method", method)
    }
    if h.selection == .greedy { (h.groupCount, h.groupsPerToken) = (1, 1) }  // greedy never looks at groups
    if isV2, h.normalizesTopK, h.expertCount > 0 {
      h.assumptions.append("norm_topk_prob true is honoured; transformers ignores it for deepseek_v2")
    }
  }

  private static func readLayers(_ config: JSONObject, _ h: inout Hyperparameters) throws(ModelFileError) {
    h.denseWidth = try config.integer("intermediate_size") ?? 0
    let frequency = try config.integer("moe_layer_freq") ?? 1
    guard frequency == 1 else { throw config.unsupported("moe_layer_freq", String(frequency)) }
    let firstDense = try config.integer("first_k_dense_replace") ?? 0
    guard firstDense >= 0 else { throw config.bad("first_k_dense_replace", "is \(firstDense), must not be negative") }
    h.isMixtureOfExperts = (0..<h.layerCount).map { $0 >= firstDense }
    if let value = config["mlp_layer_types"] {
      guard let names = value.arrayValue, names.count == h.layerCount else {
        throw config.bad("mlp_layer_types", "is not a list of \(h.layerCount) names")
      }
      for (layer, name) in names.enumerated() {
        guard let name = name.stringValue, name == "dense" || name == "sparse" else {
          throw config.bad("mlp_layer_types", "element \(layer) is neither \"dense\" nor \"sparse\"")
        }
        h.isMixtureOfExperts[layer] = name == "sparse"
      }
    }
    if config["n_routed_experts"] == nil { h.isMixtureOfExperts = Array(repeating: false, count: h.layerCount) }
  }

  private static func readRope(_ config: JSONObject, _ h: inout Hyperparameters) throws(ModelFileError) {
    let parameters = try config.object("rope_parameters")  // transformers 5 keeps theta and scaling here
    let scaling = try config.object("rope_scaling") ?? parameters
    let nestedTheta = try parameters?.double("rope_theta")
    h.ropeTheta = try config.double("rope_theta") ?? nestedTheta ?? 10000
    h.ropeInterleaved = try config.bool("rope_interleave") ?? true
    guard let scaling else { return }
    let oldType = try scaling.string("type")
    let type = try scaling.string("rope_type") ?? oldType ?? "default"
    switch type {
    case "default": return
    case "yarn": break
    default: throw scaling.unsupported("type", type)
    }
    guard let factor = try scaling.double("factor") else { throw scaling.missing("factor") }
    var original = try scaling.integer("original_max_position_embeddings")
    if original == nil, let context = try config.integer("max_position_embeddings") {
      original = context
      h.assumptions.append("rope_scaling.original_max_position_embeddings is missing: taken as max_position_embeddings = \(context)")
    }
    guard let original else { throw scaling.missing("original_max_position_embeddings") }
    h.yarn = YarnScaling(
      factor: factor, originalContext: original, betaFast: try scaling.double("beta_fast") ?? 32,
      betaSlow: try scaling.double("beta_slow") ?? 1,
      mscale: try scaling.double("mscale"), mscaleAllDim: try scaling.double("mscale_all_dim"),
      attentionFactor: try scaling.double("attention_factor"))
  }

  private static func readContext(_ config: JSONObject, _ h: inout Hyperparameters) throws(ModelFileError) {
    if let context = try config.integer("max_position_embeddings") {
      h.maxContext = context
    } else {
      h.maxContext = h.yarn?.originalContext ?? 4096
      h.assumptions.append("max_position_embeddings is missing: contexts are limited to \(h.maxContext) tokens")
    }
    // V3.2: up to index_topk tokens the sparse attention is exactly dense MLA (SPEC 6.2); longer contexts are not served.
    if h.architecture == "deepseek_v32" || config["index_topk"] != nil {
      let limit = try config.integer("index_topk") ?? 2048
      if limit < h.maxContext {
        h.maxContext = limit
        h.assumptions.append(
          "sparse attention (index_topk) is not computed: contexts are limited to \(limit) tokens, where it equals dense attention")
      }
    }
  }

  private static func refuseOtherGraphs(_ config: JSONObject) throws(ModelFileError) {
    let activation = try config.string("hidden_act") ?? "silu"
    guard activation == "silu" else { throw config.unsupported("hidden_act", activation) }
    if let rotary = try config.double("partial_rotary_factor"), rotary != 1 {
      throw config.unsupported("partial_rotary_factor", String(rotary))
    }
  }

  /// Of quantised checkpoints only FP8 with 128 x 128 block scales can be read; the tensors' own types say where it applies.
  private static func checkQuantization(_ config: JSONObject, _ outer: JSONObject) throws(ModelFileError) {
    let outerQuantization = try outer.object("quantization_config")
    guard let quantization = try config.object("quantization_config") ?? outerQuantization else { return }
    let method = try quantization.string("quant_method") ?? "(missing)"
    guard method == "fp8" else { throw quantization.unsupported("quant_method", method) }
    let format = try quantization.string("fmt") ?? "e4m3"
    guard format == "e4m3" else { throw quantization.unsupported("fmt", format) }
    if let size = quantization["weight_block_size"] {
      guard size == .array([.integer(BlockScales.block), .integer(BlockScales.block)]) else {
        throw quantization.bad("weight_block_size", "must be [128, 128]")
      }
    }
  }

  private static func readTokens(_ sources: [JSONObject], _ h: inout Hyperparameters, _ warnings: inout [String]) throws(ModelFileError) {
    for source in sources {
      if let bos = try source.integer("bos_token_id") {
        h.bosToken = checkedToken(bos, vocabularySize: h.vocabularySize, key: "bos_token_id", warnings: &warnings) ?? h.bosToken
      }
      let listed = source["eos_token_id"].map { $0.arrayValue ?? [$0] } ?? []
      for value in listed {
        guard let id = value.integerValue else { throw source.bad("eos_token_id", "is neither an integer nor a list of integers") }
        if let token = checkedToken(id, vocabularySize: h.vocabularySize, key: "eos_token_id", warnings: &warnings),
          !h.eosTokens.contains(token)
        {
          h.eosTokens.append(token)
        }
      }
    }
  }
}
