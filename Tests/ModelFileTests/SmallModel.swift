// A complete model of a few kilobytes in both formats, for tests that damage it in one place.
// Two layers: dense, then experts. D 8, vocabulary 10, H 2, n 4, r 2, v 3, c 5, ql 6, E 4, F 3, S_h 1.

@testable import ModelFile

enum SmallModel {
  static let (d, vocabulary, h, n, r, v, c, ql, e, f) = (8, 10, 2, 4, 2, 3, 5, 6, 4, 3)

  // MARK: Hugging Face

  static let config = """
    {"model_type": "deepseek_v3", "vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
     "q_lora_rank": 6, "kv_lora_rank": 5, "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 3, "intermediate_size": 7,
     "moe_intermediate_size": 3, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
     "n_group": 2, "topk_group": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": true,
     "routed_scaling_factor": 2.5, "rms_norm_eps": 1e-06, "rope_theta": 10000, "max_position_embeddings": 64, "hidden_act": "silu",
     "bos_token_id": 0, "eos_token_id": 1}
    """

  static let huggingFaceTensors: [TestTensor] = {
    var all = [
      TestTensor(name: "model.embed_tokens.weight", shape: [vocabulary, d]), TestTensor(name: "model.norm.weight", shape: [d]),
      TestTensor(name: "lm_head.weight", shape: [vocabulary, d]),
    ]
    func three(_ p: String, _ width: Int) -> [TestTensor] {
      [("gate_proj", [width, d]), ("up_proj", [width, d]), ("down_proj", [d, width])].map {
        TestTensor(name: "\(p)\($0).weight", shape: $1)
      }
    }
    for layer in 0..<2 {
      let p = "model.layers.\(layer)."
      all += [
        ("input_layernorm", [d]), ("post_attention_layernorm", [d]), ("self_attn.q_a_proj", [ql, d]), ("self_attn.q_a_layernorm", [ql]),
        ("self_attn.q_b_proj", [h * (n + r), ql]), ("self_attn.kv_a_proj_with_mqa", [c + r, d]), ("self_attn.kv_a_layernorm", [c]),
        ("self_attn.kv_b_proj", [h * (n + v), c]), ("self_attn.o_proj", [d, h * v]),
      ].map { TestTensor(name: "\(p)\($0).weight", shape: $1) }
      if layer == 0 {
        all += three(p + "mlp.", 7)
      } else {
        all += [
          TestTensor(name: p + "mlp.gate.weight", shape: [e, d]), TestTensor(name: p + "mlp.gate.e_score_correction_bias", shape: [e]),
        ]
        for expert in 0..<e { all += three("\(p)mlp.experts.\(expert).", f) }
        all += three(p + "mlp.shared_experts.", f)
      }
    }
    return all
  }()

  /// Writes a directory; `edit` may change the tensors, `config` the configuration text.
  static func huggingFace(
    _ folder: TemporaryFolder, config: String = config, tensors: [TestTensor] = huggingFaceTensors
  ) throws {
    try folder.write("config.json", config)
    try folder.write("model.safetensors", SafeTensorsWriter(tensors: tensors).bytes())
  }

  /// The configuration with `key` replaced by (or, if new, given) a JSON value; nil removes it.
  static func config(_ changes: [String: String?]) throws -> String {
    guard case .object(let members) = try JSONValue(parsing: Array(config.utf8), path: "test") else { return "" }
    var texts = members.mapValues(json)
    for (key, value) in changes { texts[key] = value }
    return "{" + texts.map { "\"\($0)\": \($1)" }.sorted().joined(separator: ", ") + "}"
  }

  private static func json(_ value: JSONValue) -> String {
    switch value {
    case .null: "null"
    case .bool(let flag): String(flag)
    case .integer(let number): String(number)
    case .number(let number): String(number)
    case .string(let text): "\"\(text)\""
    case .array(let elements): "[" + elements.map(json).joined(separator: ",") + "]"
    case .object(let members): "{" + members.map { "\"\($0)\":" + json($1) }.joined(separator: ",") + "}"
    }
  }

  // MARK: GGUF

  static func gguf(legacy: Bool = false) -> GGUFWriter {
    var writer = GGUFWriter()
    writer.metadata = [
      ("general.architecture", .string("deepseek2")), ("general.name", .string("Small")),
    ]
    let numbers: [(String, Int)] = [
      ("block_count", 2), ("context_length", 64), ("embedding_length", d), ("feed_forward_length", 7), ("vocab_size", vocabulary),
      ("attention.head_count", h), ("attention.head_count_kv", legacy ? h : 1), ("attention.q_lora_rank", ql),
      ("attention.kv_lora_rank", c), ("attention.key_length", legacy ? n + r : c + r), ("attention.value_length", legacy ? v : c),
      ("rope.dimension_count", r), ("leading_dense_block_count", 1), ("expert_count", e), ("expert_used_count", 2),
      ("expert_shared_count", 1), ("expert_feed_forward_length", f), ("expert_group_count", 2), ("expert_group_used_count", 1),
      ("expert_gating_func", 2),
    ]
    writer.metadata += numbers.map { ("deepseek2." + $0, .u32(UInt32($1))) }
    if !legacy {
      writer.metadata += [
        ("deepseek2.attention.key_length_mla", .u32(UInt32(n + r))), ("deepseek2.attention.value_length_mla", .u32(UInt32(v))),
      ]
    }
    writer.metadata += [
      ("deepseek2.expert_weights_scale", .f32(2.5)), ("deepseek2.expert_weights_norm", .bool(true)),
      ("deepseek2.attention.layer_norm_rms_epsilon", .f32(1e-6)), ("deepseek2.rope.freq_base", .f32(10000)),
      ("tokenizer.ggml.model", .string("gpt2")), ("tokenizer.ggml.pre", .string("deepseek-v3")),
      ("tokenizer.ggml.tokens", .array(elementType: 8, "abcdefghij".map { .string(String($0)) })),
      ("tokenizer.ggml.token_type", .array(elementType: 5, (0..<10).map { .i32($0 < 2 ? 3 : 1) })),
      ("tokenizer.ggml.merges", .array(elementType: 8, [.string("a b")])),
      ("tokenizer.ggml.bos_token_id", .u32(0)), ("tokenizer.ggml.eos_token_id", .u32(1)),
      ("tokenizer.ggml.add_bos_token", .bool(true)),
    ]
    writer.tensors = ggufTensors(legacy: legacy)
    return writer
  }

  private static func ggufTensors(legacy: Bool) -> [TestTensor] {
    var all = [
      TestTensor(name: "token_embd.weight", shape: [vocabulary, d]), TestTensor(name: "output_norm.weight", shape: [d]),
      TestTensor(name: "output.weight", shape: [vocabulary, d]),
    ]
    for layer in 0..<2 {
      var part: [(String, [Int])] = [
        ("attn_norm.weight", [d]), ("ffn_norm.weight", [d]), ("attn_q_a.weight", [ql, d]), ("attn_q_a_norm.weight", [ql]),
        ("attn_q_b.weight", [h * (n + r), ql]), ("attn_kv_a_mqa.weight", [c + r, d]), ("attn_kv_a_norm.weight", [c]),
        ("attn_output.weight", [d, h * v]),
      ]
      part += legacy ? [("attn_kv_b.weight", [h * (n + v), c])] : [("attn_k_b.weight", [h, c, n]), ("attn_v_b.weight", [h, v, c])]
      if layer == 0 {
        part += [("ffn_gate.weight", [7, d]), ("ffn_up.weight", [7, d]), ("ffn_down.weight", [d, 7])]
      } else {
        part += [
          ("ffn_gate_inp.weight", [e, d]), ("exp_probs_b.bias", [e]), ("ffn_gate_exps.weight", [e, f, d]),
          ("ffn_up_exps.weight", [e, f, d]),
          ("ffn_down_exps.weight", [e, d, f]), ("ffn_gate_shexp.weight", [f, d]), ("ffn_up_shexp.weight", [f, d]),
          ("ffn_down_shexp.weight", [d, f]),
        ]
      }
      all += part.map { TestTensor(name: "blk.\(layer).\($0)", shape: $1) }
    }
    return all
  }
}
