// Hyperparameters from config.json and GGUF metadata: released models (SPEC 1.2, 3.5), defaults, and what is refused (1.3).

import Testing

@testable import ModelFile

private func parse(_ text: String, generation: String? = nil) throws -> Hyperparameters {
  let object = try generation.map {
    try JSONObject(try JSONValue(parsing: Array($0.utf8), path: "generation_config.json"), path: "generation_config.json")
  }
  return try HuggingFaceConfig(Array(text.utf8), path: "config.json", generation: object).hyperparameters
}

/// The parts that every released model shares, then `members`.
private func release(_ members: String) -> String {
  "{\"hidden_act\": \"silu\", \"attention_bias\": false, \"moe_layer_freq\": 1, \"tie_word_embeddings\": false, \"kv_lora_rank\": 512, \(members)}"
}

private func yarn(_ factor: Double, mscale: Double?, beta: (Double, Double) = (32, 1)) -> YarnScaling {
  YarnScaling(factor: factor, originalContext: 4096, betaFast: beta.0, betaSlow: beta.1, mscale: mscale, mscaleAllDim: mscale)
}

private func expected(_ edit: (inout Hyperparameters) -> Void) -> Hyperparameters {
  var h = Hyperparameters()
  (h.latentRank, h.nopeDim, h.ropeDim, h.valueDim) = (512, 128, 64, 128)
  h.normEpsilon = 1e-6
  edit(&h)
  return h
}

private func layers(_ dense: Int, _ count: Int) -> [Bool] { (0..<count).map { $0 >= dense } }

@Suite struct ReleasedConfigTests {
  @Test func v2Lite() throws {
    let h = try parse(
      release(
        """
        "model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"], "vocab_size": 102400, "hidden_size": 2048,
        "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": null, "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64, "v_head_dim": 128, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 64,
        "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1, "topk_method": "greedy", "n_group": 1,
        "topk_group": 1, "scoring_func": "softmax", "norm_topk_prob": false, "routed_scaling_factor": 1.0, "rms_norm_eps": 1e-06,
        "rope_theta": 10000, "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
        "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707}, "max_position_embeddings": 163840,
        "bos_token_id": 100000, "eos_token_id": 100001, "torch_dtype": "bfloat16", "aux_loss_alpha": 0.001, "seq_aux": true
        """))
    let wanted = expected { h in
      h.architecture = "deepseek_v2"
      (h.vocabularySize, h.hiddenSize, h.layerCount, h.headCount) = (102400, 2048, 27, 16)
      h.isMixtureOfExperts = layers(1, 27)
      (h.denseWidth, h.expertWidth, h.expertCount, h.expertsPerToken, h.sharedExpertCount) = (10944, 1408, 64, 6, 2)
      h.yarn = yarn(40, mscale: 0.707)
      h.maxContext = 163840
      (h.bosToken, h.eosTokens) = (100000, [100001])
    }
    #expect(h == wanted)
  }

  @Test func v2() throws {
    let h = try parse(
      release(
        """
        "model_type": "deepseek_v2", "vocab_size": 102400, "hidden_size": 5120, "num_hidden_layers": 60, "num_attention_heads": 128,
        "q_lora_rank": 1536, "intermediate_size": 12288, "moe_intermediate_size": 1536, "n_routed_experts": 160, "n_shared_experts": 2,
        "num_experts_per_tok": 6, "first_k_dense_replace": 1, "topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3,
        "norm_topk_prob": false, "routed_scaling_factor": 16.0, "rope_scaling": {"type": "yarn", "factor": 40,
        "original_max_position_embeddings": 4096, "mscale": 0.707, "mscale_all_dim": 0.707}, "max_position_embeddings": 163840,
        "bos_token_id": 100000, "eos_token_id": 100001
        """))
    let wanted = expected { h in
      h.architecture = "deepseek_v2"
      (h.vocabularySize, h.hiddenSize, h.layerCount, h.headCount, h.queryRank) = (102400, 5120, 60, 128, 1536)
      h.isMixtureOfExperts = layers(1, 60)
      (h.denseWidth, h.expertWidth, h.expertCount, h.expertsPerToken, h.sharedExpertCount) = (12288, 1536, 160, 6, 2)
      (h.groupCount, h.groupsPerToken, h.selection, h.routedScale) = (8, 3, .groupLimitedGreedy, 16)
      h.yarn = yarn(40, mscale: 0.707)
      h.maxContext = 163840
      (h.bosToken, h.eosTokens) = (100000, [100001])
    }
    #expect(h == wanted)
  }

  private static let v3Members = """
    "vocab_size": 129280, "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128, "q_lora_rank": 1536,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8,
    "first_k_dense_replace": 3, "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5, "rope_scaling": {"type": "yarn",
    "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0},
    "max_position_embeddings": 163840, "bos_token_id": 0, "eos_token_id": 1, "num_nextn_predict_layers": 1,
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}
    """

  private static let v3Expected = expected { h in
    h.architecture = "deepseek_v3"
    (h.vocabularySize, h.hiddenSize, h.layerCount, h.headCount, h.queryRank) = (129280, 7168, 61, 128, 1536)
    h.isMixtureOfExperts = layers(3, 61)
    (h.denseWidth, h.expertWidth, h.expertCount, h.expertsPerToken, h.sharedExpertCount) = (18432, 2048, 256, 8, 1)
    (h.groupCount, h.groupsPerToken, h.selection, h.scoring) = (8, 4, .biasedGroups, .sigmoid)
    (h.normalizesTopK, h.routedScale) = (true, 2.5)
    h.yarn = yarn(40, mscale: 1)
    h.maxContext = 163840
    (h.bosToken, h.eosTokens) = (0, [1])
  }

  /// With scoring_func, topk_method and norm_topk_prob left to the defaults of the model type.
  @Test func v3() throws {
    #expect(try parse(release("\"model_type\": \"deepseek_v3\", " + Self.v3Members)) == Self.v3Expected)
  }

  @Test func v32IsLimitedToDenseContexts() throws {
    let h = try parse(release("\"model_type\": \"deepseek_v32\", \"index_topk\": 2048, \"index_n_heads\": 64, " + Self.v3Members))
    #expect(h.maxContext == 2048)
    #expect(h.assumptions.count == 1 && h.assumptions.first?.contains("2048") == true)
  }

  @Test func moonlight() throws {
    let h = try parse(
      release(
        """
        "model_type": "deepseek_v3", "vocab_size": 163840, "hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16,
        "q_lora_rank": null, "intermediate_size": 11264, "moe_intermediate_size": 1408, "n_routed_experts": 64, "n_shared_experts": 2,
        "num_experts_per_tok": 6, "first_k_dense_replace": 1, "topk_method": "noaux_tc", "n_group": 1, "topk_group": 1,
        "scoring_func": "sigmoid", "norm_topk_prob": true, "routed_scaling_factor": 2.446, "rms_norm_eps": 1e-05, "rope_theta": 50000.0,
        "rope_scaling": null, "max_position_embeddings": 8192, "bos_token_id": 163584, "eos_token_id": 163586
        """), generation: "{\"eos_token_id\": [163585, 163586], \"max_length\": 8192}")
    let wanted = expected { h in
      h.architecture = "deepseek_v3"
      (h.vocabularySize, h.hiddenSize, h.layerCount, h.headCount) = (163840, 2048, 27, 16)
      h.isMixtureOfExperts = layers(1, 27)
      (h.denseWidth, h.expertWidth, h.expertCount, h.expertsPerToken, h.sharedExpertCount) = (11264, 1408, 64, 6, 2)
      (h.selection, h.scoring, h.normalizesTopK, h.routedScale) = (.biasedGroups, .sigmoid, true, 2.446)
      (h.normEpsilon, h.ropeTheta, h.maxContext) = (1e-5, 50000, 8192)
      (h.bosToken, h.eosTokens) = (163584, [163586, 163585])
    }
    #expect(h == wanted)
  }

  @Test func kimiK2() throws {
    let h = try parse(
      release(
        """
        "model_type": "kimi_k2", "vocab_size": 163840, "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 64,
        "q_lora_rank": 1536, "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 384, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "first_k_dense_replace": 1, "topk_method": "noaux_tc", "n_group": 1, "topk_group": 1,
        "scoring_func": "sigmoid", "norm_topk_prob": true, "routed_scaling_factor": 2.827, "rms_norm_eps": 1e-06, "rope_theta": 50000.0,
        "rope_scaling": {"type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 1.0, "beta_slow": 1.0,
        "mscale": 1.0, "mscale_all_dim": 1.0}, "max_position_embeddings": 131072, "bos_token_id": 163584, "eos_token_id": 163586
        """))
    let wanted = expected { h in
      h.architecture = "kimi_k2"
      (h.vocabularySize, h.hiddenSize, h.layerCount, h.headCount, h.queryRank) = (163840, 7168, 61, 64, 1536)
      h.isMixtureOfExperts = layers(1, 61)
      (h.denseWidth, h.expertWidth, h.expertCount, h.expertsPerToken, h.sharedExpertCount) = (18432, 2048, 384, 8, 1)
      (h.selection, h.scoring, h.normalizesTopK, h.routedScale) = (.biasedGroups, .sigmoid, true, 2.827)
      (h.ropeTheta, h.maxContext) = (50000, 131072)
      h.yarn = yarn(32, mscale: 1, beta: (1, 1))
      (h.bosToken, h.eosTokens) = (163584, [163586])
    }
    #expect(h == wanted)
  }

  /// In the style transformers 5 writes: rope_parameters, mlp_layer_types, no first_k_dense_replace.
  @Test func glm47Flash() throws {
    let types = (["\"dense\""] + Array(repeating: "\"sparse\"", count: 46)).joined(separator: ", ")
    let h = try parse(
      release(
        """
        "model_type": "glm4_moe_lite", "vocab_size": 154880, "hidden_size": 2048, "num_hidden_layers": 47, "num_attention_heads": 20,
        "q_lora_rank": 768, "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 256, "intermediate_size": 10240,
        "moe_intermediate_size": 1536, "n_routed_experts": 64, "n_shared_experts": 1, "num_experts_per_tok": 4, "mlp_layer_types": [\(types)],
        "n_group": 1, "topk_group": 1, "norm_topk_prob": true, "routed_scaling_factor": 1.8, "rms_norm_eps": 1e-05,
        "rope_parameters": {"rope_theta": 1000000, "rope_type": "default"}, "partial_rotary_factor": 1.0,
        "max_position_embeddings": 202752, "eos_token_id": [154820, 154827, 154829], "num_nextn_predict_layers": 1
        """))
    let wanted = expected { h in
      h.architecture = "glm4_moe_lite"
      (h.vocabularySize, h.hiddenSize, h.layerCount, h.headCount, h.queryRank) = (154880, 2048, 47, 20, 768)
      (h.nopeDim, h.ropeDim, h.valueDim) = (192, 64, 256)
      h.isMixtureOfExperts = layers(1, 47)
      (h.denseWidth, h.expertWidth, h.expertCount, h.expertsPerToken, h.sharedExpertCount) = (10240, 1536, 64, 4, 1)
      (h.selection, h.scoring, h.normalizesTopK, h.routedScale) = (.biasedGroups, .sigmoid, true, 1.8)
      (h.normEpsilon, h.ropeTheta, h.maxContext) = (1e-5, 1_000_000, 202752)
      h.eosTokens = [154820, 154827, 154829]
    }
    #expect(h == wanted)
  }

  /// What transformers 5 saves for DeepseekV2ForCausalLM: yarn inside rope_parameters, null groups.
  @Test func savedByTransformers5() throws {
    let h = try parse(
      """
      {"attention_bias": false, "bos_token_id": 1, "eos_token_id": 2, "first_k_dense_replace": 1, "head_dim": 64, "hidden_act": "silu",
       "hidden_size": 256, "intermediate_size": 512, "kv_lora_rank": 64, "max_position_embeddings": 2048, "mlp_bias": false,
       "model_type": "deepseek_v2", "moe_intermediate_size": 96, "n_group": null, "n_routed_experts": 8, "n_shared_experts": 1,
       "norm_topk_prob": false, "num_attention_heads": 4, "num_experts_per_tok": 2, "num_hidden_layers": 3, "q_lora_rank": 96,
       "qk_head_dim": 48, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "rms_norm_eps": 1e-06, "rope_parameters": {"beta_fast": 32,
       "beta_slow": 1, "factor": 4, "mscale": 0.707, "mscale_all_dim": 0.707, "original_max_position_embeddings": 512,
       "rope_theta": 20000.0, "rope_type": "yarn"}, "routed_scaling_factor": 1.0, "topk_group": null, "topk_method": "greedy",
       "transformers_version": "5.19.0", "v_head_dim": 32, "vocab_size": 4096}
      """)
    #expect(h.ropeTheta == 20000)
    #expect(h.yarn == YarnScaling(factor: 4, originalContext: 512, mscale: 0.707, mscaleAllDim: 0.707))
    #expect(h.groupCount == 1 && h.groupsPerToken == 1 && h.selection == .greedy && h.scoring == .softmax)
    #expect(h.isMixtureOfExperts == [false, true, true])
  }
}

@Suite struct ConfigValidationTests {
  /// (changed key, its JSON value or nil to remove it, text that the error must contain)
  static let refused: [(String, String?, String)] = [
    ("model_type", "\"deepseek\"", "model_type = deepseek is not supported"), ("model_type", "\"llama\"", "model_type"),
    ("model_type", nil, "model_type"),
    ("model_type", "\"glm_moe_dsa\"", "glm_moe_dsa"), ("model_type", "7", "model_type"), ("vocab_size", nil, "vocab_size is missing"),
    ("vocab_size", "0", "vocab_size"), ("vocab_size", "4194305", "vocab_size"), ("vocab_size", "10.5", "vocab_size: is not an integer"),
    ("vocab_size", "1e300", "vocab_size"), ("vocab_size", "\"10\"", "vocab_size"), ("hidden_size", "-8", "hidden_size"),
    ("hidden_size", "9223372036854775807", "hidden_size"), ("hidden_size", "9223372036854775808", "hidden_size"),
    ("num_hidden_layers", "0", "num_hidden_layers"), ("num_hidden_layers", "1000000000", "num_hidden_layers"),
    ("num_attention_heads", "0", "num_attention_heads"), ("num_attention_heads", "100000", "num_attention_heads"),
    ("q_lora_rank", "-1", "q_lora_rank"), ("kv_lora_rank", "0", "kv_lora_rank"), ("qk_nope_head_dim", "0", "qk_nope_head_dim"),
    ("qk_rope_head_dim", "3", "qk_rope_head_dim: is 3, must be even"), ("qk_rope_head_dim", "0", "qk_rope_head_dim"),
    ("v_head_dim", "2000000", "v_head_dim"), ("intermediate_size", "0", "intermediate_size"),
    ("intermediate_size", nil, "intermediate_size"),
    ("moe_intermediate_size", "-1", "moe_intermediate_size"), ("n_routed_experts", "0", "n_routed_experts"),
    ("n_routed_experts", "5000", "n_routed_experts"), ("n_shared_experts", "-1", "n_shared_experts"),
    ("n_group", "3", "n_group: is 3, must divide"),
    ("n_group", "0", "n_group"), ("topk_group", "3", "topk_group"), ("topk_group", "0", "topk_group"),
    ("num_experts_per_tok", "3", "num_experts_per_tok"), ("num_experts_per_tok", "0", "num_experts_per_tok"),
    ("num_experts_per_tok", nil, "num_experts_per_tok"), ("topk_method", "\"best\"", "topk_method = best"),
    ("scoring_func", "\"tanh\"", "scoring_func = tanh"), ("moe_layer_freq", "2", "moe_layer_freq"),
    ("hidden_act", "\"gelu\"", "hidden_act = gelu"),
    ("first_k_dense_replace", "-1", "first_k_dense_replace"), ("mlp_layer_types", "[\"dense\"]", "mlp_layer_types"),
    ("mlp_layer_types", "[\"dense\", \"moe\"]", "mlp_layer_types"), ("rms_norm_eps", "-1", "rms_norm_eps"),
    ("rms_norm_eps", "1e300", "rms_norm_eps"),
    ("rope_theta", "1", "rope_theta"), ("rope_theta", "-5", "rope_theta"), ("rope_theta", "true", "rope_theta"),
    ("routed_scaling_factor", "1e200", "routed_scaling_factor"), ("max_position_embeddings", "0", "max_position_embeddings"),
    ("rope_scaling", "[]", "rope_scaling"), ("rope_scaling", "{\"type\": \"linear\", \"factor\": 2}", "rope_scaling.type = linear"),
    ("rope_scaling", "{\"type\": \"yarn\"}", "rope_scaling.factor is missing"),
    ("rope_scaling", "{\"type\": \"yarn\", \"factor\": 0, \"original_max_position_embeddings\": 4}", "factor"),
    ("rope_scaling", "{\"type\": \"yarn\", \"factor\": 2, \"original_max_position_embeddings\": 0}", "original"),
    ("rope_scaling", "{\"type\": \"yarn\", \"factor\": 2, \"original_max_position_embeddings\": 4, \"beta_fast\": 0}", "beta_fast"),
    (
      "rope_scaling", "{\"type\": \"yarn\", \"factor\": 2, \"original_max_position_embeddings\": 4, \"attention_factor\": -1}",
      "attention_factor"
    ),
    ("quantization_config", "{\"quant_method\": \"compressed-tensors\"}", "quant_method = compressed-tensors"),
    ("quantization_config", "{\"quant_method\": \"fp8\", \"fmt\": \"e5m2\"}", "fmt"),
    ("quantization_config", "{\"quant_method\": \"fp8\", \"weight_block_size\": [64, 64]}", "weight_block_size"),
    ("partial_rotary_factor", "0.5", "partial_rotary_factor"), ("eos_token_id", "\"x\"", "eos_token_id"),
    ("eos_token_id", "[1, null]", "eos_token_id"),
    ("num_nextn_predict_layers", "-1", "num_nextn_predict_layers"), ("attention_bias", "1", "attention_bias"),
  ]

  @Test(arguments: refused)
  func refuses(_ key: String, _ value: String?, _ text: String) throws {
    let config = try SmallModel.config([key: value])
    let error = #expect(throws: ModelFileError.self) { try parse(config) }
    #expect(error?.description.contains(text) == true, "\(error?.description ?? "")")
  }

  @Test func groupsOfOneExpertHaveNoTwoBest() throws {
    let change = ["n_group": "4", "topk_group": "2"]
    let error = #expect(throws: ModelFileError.self) { try parse(try SmallModel.config(change)) }
    #expect(error?.description.contains("groups of one expert") == true)
    let other = change.merging(["topk_method": "\"group_limited_greedy\""]) { $1 }
    #expect(try parse(try SmallModel.config(other)).groupCount == 4)
  }

  /// The same changes that are legal.
  @Test func accepts() throws {
    let base = try parse(SmallModel.config)
    #expect(base.assumptions == [] && base.ropeInterleaved && !base.tiedEmbeddings && base.yarn == nil)
    #expect(try parse(try SmallModel.config(["hidden_size": "8.0"])) == base)
    #expect(try parse(try SmallModel.config(["rope_scaling": "null", "strange_key": "[1, {\"a\": null}]"])) == base)
    #expect(try parse(try SmallModel.config(["rope_scaling": "{\"type\": \"default\"}"])) == base)
    #expect(try parse(try SmallModel.config(["q_lora_rank": "0"])).queryRank == nil)
    #expect(try parse(try SmallModel.config(["n_routed_experts": "null"])).isMixtureOfExperts == [false, false])
    #expect(try parse(try SmallModel.config(["n_shared_experts": "null"])).sharedExpertCount == 0)
    #expect(try parse(try SmallModel.config(["rope_interleave": "false"])).ropeInterleaved == false)
    #expect(try parse(try SmallModel.config(["first_k_dense_replace": "9"])).isMixtureOfExperts == [false, false])
    #expect(try parse(try SmallModel.config(["mlp_layer_types": "[\"sparse\", \"dense\"]"])).isMixtureOfExperts == [true, false])
    #expect(try parse(try SmallModel.config(["topk_method": "\"greedy\""])).groupCount == 1)
    #expect(try parse(try SmallModel.config(["eos_token_id": "[3, 1, 3, -1, 10]"])).eosTokens == [3, 1])
    let unlimited = try parse(try SmallModel.config(["max_position_embeddings": nil]))
    #expect(unlimited.maxContext == 4096 && unlimited.assumptions.count == 1)
    #expect(base.queryHeadDim == 6 && base.latentRowWidth == 7)
  }

  @Test func v2HonoursNormalisationButSaysSo() throws {
    let h = try parse(try SmallModel.config(["model_type": "\"deepseek_v2\"", "topk_method": nil, "scoring_func": nil]))
    #expect(h.normalizesTopK && h.assumptions.count == 1 && h.selection == .greedy && h.scoring == .softmax)
  }
}

@Suite struct GGUFConfigTests {
  private func parse(_ edit: (inout GGUFWriter) -> Void) throws -> Hyperparameters {
    var writer = GGUFWriter()
    writer.metadata = [("general.architecture", .string("deepseek2"))]
    edit(&writer)
    let folder = TemporaryFolder()
    let shard = try GGUFShard(path: try folder.write("x.gguf", writer.bytes()))
    return try GGUFConfig(shard.metadata, tensors: try TensorIndex(shard.tensors, path: "x.gguf").tensorsByName).hyperparameters
  }

  /// The metadata of the public DeepSeek-Coder-V2-Lite-Instruct-Q4_K_M.gguf of 2024 (SPEC 3.5), nothing more.
  private func codeLite2024(_ writer: inout GGUFWriter) {
    let numbers: [(String, UInt32)] = [
      ("block_count", 27), ("context_length", 163840), ("embedding_length", 2048), ("feed_forward_length", 10944),
      ("attention.head_count", 16), ("attention.head_count_kv", 16), ("expert_used_count", 6), ("leading_dense_block_count", 1),
      ("vocab_size", 102400), ("attention.kv_lora_rank", 512), ("attention.key_length", 192), ("attention.value_length", 128),
      ("expert_feed_forward_length", 1408), ("expert_count", 64), ("expert_shared_count", 2), ("rope.dimension_count", 64),
      ("rope.scaling.original_context_length", 4096),
    ]
    writer.metadata += numbers.map { ("deepseek2." + $0, .u32($1)) }
    writer.metadata += [
      ("deepseek2.rope.freq_base", .f32(10000)), ("deepseek2.attention.layer_norm_rms_epsilon", .f32(1e-6)),
      ("deepseek2.expert_weights_scale", .f32(1)), ("deepseek2.rope.scaling.type", .string("yarn")),
      ("deepseek2.rope.scaling.factor", .f32(40)), ("deepseek2.rope.scaling.yarn_log_multiplier", .f32(0.0707)),
      ("tokenizer.ggml.bos_token_id", .u32(100000)), ("tokenizer.ggml.eos_token_id", .u32(100001)),
    ]
  }

  @Test func publicLegacyFile() throws {
    let h = try parse {
      codeLite2024(&$0)
      $0.tensors = [TestTensor(name: "output.weight", shape: [1])]
    }
    let wanted = expected { h in
      h.architecture = "deepseek2"
      (h.vocabularySize, h.hiddenSize, h.layerCount, h.headCount) = (102400, 2048, 27, 16)
      h.isMixtureOfExperts = layers(1, 27)
      (h.denseWidth, h.expertWidth, h.expertCount, h.expertsPerToken, h.sharedExpertCount) = (10944, 1408, 64, 6, 2)
      h.yarn = yarn(40, mscale: 0.707)
      h.maxContext = 163840
      (h.bosToken, h.eosTokens) = (100000, [100001])
      h.assumptions = ["rope.scaling.yarn_beta_fast/slow are missing: 32 and 1"]
    }
    #expect(h == wanted)
  }

  @Test func groupsOfOldFiles() throws {
    for (experts, used, groups, groupsUsed) in [(160, 6, 8, 3), (256, 8, 8, 4)] {
      let h = try parse {
        codeLite2024(&$0)
        $0.set("deepseek2.attention.head_count", .u32(128))
        $0.set("deepseek2.expert_count", .u32(UInt32(experts)))
        $0.set("deepseek2.expert_used_count", .u32(UInt32(used)))
        if experts == 256 { $0.tensors = [TestTensor(name: "blk.1.exp_probs_b.bias", shape: [256])] }
      }
      #expect(h.groupCount == groups && h.groupsPerToken == groupsUsed)
      #expect(h.selection == (experts == 256 ? .biasedGroups : .groupLimitedGreedy))
      #expect(h.assumptions.contains { $0.contains("expert_group_count") })
      #expect(h.scoring == .softmax)
    }
  }

  @Test func guessesOfOtherFamilies() throws {
    let glm = try parse {
      codeLite2024(&$0)
      $0.set("deepseek2.block_count", .u32(47))
      $0.set("deepseek2.vocab_size", .u32(154880))
    }
    #expect(glm.scoring == .sigmoid && glm.assumptions.contains { $0.contains("GLM") })
    let kimi = try parse {
      codeLite2024(&$0)
      $0.set("deepseek2.attention.head_count", .u32(64))
      $0.set("deepseek2.expert_count", .u32(384))
    }
    #expect(kimi.assumptions.contains { $0.contains("Kimi") })
    let quiet = try parse {
      codeLite2024(&$0)
      $0.set("deepseek2.rope.scaling.yarn_log_multiplier", nil)
    }
    #expect(quiet.yarn?.mscaleAllDim == nil && quiet.assumptions.contains { $0.contains("yarn_log_multiplier") })
  }

  @Test func integersOfAnyTypeAndPerLayerArrays() throws {
    let wanted = try parse(codeLite2024)
    let h = try parse {
      codeLite2024(&$0)
      $0.set("deepseek2.block_count", .u8(27))
      $0.set("deepseek2.embedding_length", .i64(2048))
      $0.set("deepseek2.context_length", .u64(163840))
      $0.set("deepseek2.vocab_size", .i32(102400))
      $0.set("deepseek2.attention.head_count", .array(elementType: 4, Array(repeating: .u32(16), count: 27)))
      $0.set("deepseek2.feed_forward_length", .array(elementType: 5, [.i32(10944)] + Array(repeating: .i32(0), count: 26)))
      $0.set("deepseek2.expert_weights_scale", .f32(0))
    }
    #expect(h == wanted)
  }

  static let refused: [(String, TestValue?, String)] = [
    ("general.architecture", .string("llama"), "general.architecture = llama is not supported"),
    ("general.architecture", nil, "general.architecture"),
    ("deepseek2.block_count", nil, "deepseek2.block_count is missing"), ("deepseek2.block_count", .u32(0), "block_count"),
    ("deepseek2.block_count", .u64(.max), "block_count"), ("deepseek2.block_count", .string("27"), "not an integer"),
    ("deepseek2.nextn_predict_layers", .u32(27), "nextn_predict_layers"), ("deepseek2.embedding_length", .i32(-1), "embedding_length"),
    ("deepseek2.attention.head_count", .array(elementType: 4, [.u32(16)]), "head_count"),
    ("deepseek2.attention.head_count", nil, "head_count"),
    ("deepseek2.attention.head_count", .array(elementType: 4, (0..<27).map { .u32($0 + 1) }), "differs between layers"),
    ("deepseek2.attention.key_length", .u32(64), "key_length"), ("deepseek2.attention.key_length", .i64(.min), "key_length"),
    ("deepseek2.rope.dimension_count", .u32(63), "must be even"), ("deepseek2.expert_gating_func", .u32(3), "expert_gating_func = 3"),
    ("deepseek2.expert_group_count", .u32(7), "expert_group_count"), ("deepseek2.expert_used_count", .u32(65), "expert_used_count"),
    ("deepseek2.rope.scaling.type", .string("linear"), "rope.scaling.type = linear"),
    ("deepseek2.rope.scaling.factor", .f32(.nan), "factor"),
    ("deepseek2.rope.scaling.factor", nil, "factor"), ("deepseek2.rope.scaling.attn_factor", .f32(2), "attn_factor"),
    ("deepseek2.rope.scaling.original_context_length", .u32(0), "original"),
    ("deepseek2.leading_dense_block_count", .i32(-1), "leading_dense"),
    ("deepseek2.rope.freq_base", .f32(.infinity), "freq_base"), ("deepseek2.expert_weights_norm", .u32(2), "expert_weights_norm"),
    ("deepseek2.context_length", .u32(.max), "context_length"), ("deepseek2.expert_weights_scale", .f64(1e300), "expert_weights_scale"),
  ]

  @Test(arguments: refused)
  func refuses(_ key: String, _ value: TestValue?, _ text: String) throws {
    let error = #expect(throws: ModelFileError.self) {
      try parse {
        codeLite2024(&$0)
        $0.set(key, value)
      }
    }
    #expect(error?.description.contains(text) == true, "\(error?.description ?? "")")
  }
}
