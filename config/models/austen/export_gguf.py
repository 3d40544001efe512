#!/usr/bin/env python3
"""Writes a trained checkpoint and its tokenizer as one GGUF file: architecture deepseek2, Q8_0; norms and router F32.

Needs (PyPI): torch, transformers, gguf
Run:   python export_gguf.py OUT/best DATA/tokenizer.json austen-q8_0.gguf
"""
import json
import sys

import gguf
import torch
from transformers import DeepseekV2ForCausalLM

ATTENTION = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_a_proj": "attn_q_a", "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.o_proj": "attn_output"}
DENSE = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
MOE = {"mlp.gate": "ffn_gate_inp", "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
       "mlp.shared_experts.up_proj": "ffn_up_shexp", "mlp.shared_experts.down_proj": "ffn_down_shexp"}


def tensors(cfg, weights):
    """(GGUF name, array) in file order."""
    yield "token_embd", weights["model.embed_tokens.weight"]
    yield "output_norm", weights["model.norm.weight"]
    yield "output", weights["lm_head.weight"]  # tied: the same numbers again, so that every reader finds them
    for i in range(cfg.num_hidden_layers):
        hf, out = f"model.layers.{i}.", f"blk.{i}."
        moe = i >= cfg.first_k_dense_replace
        for a, b in (ATTENTION | (MOE if moe else DENSE)).items():
            yield out + b, weights[f"{hf}{a}.weight"]
        kv_b = weights[hf + "self_attn.kv_b_proj.weight"].view(cfg.num_attention_heads, -1, cfg.kv_lora_rank)
        up_k, up_v = kv_b.split([cfg.qk_nope_head_dim, cfg.v_head_dim], dim=1)
        yield out + "attn_k_b", up_k.transpose(1, 2)  # [heads, kv rank, nope]
        yield out + "attn_v_b", up_v                  # [heads, v, kv rank]
        if moe:
            gate, up = weights[hf + "mlp.experts.gate_up_proj"].chunk(2, dim=1)
            yield out + "ffn_gate_exps", gate         # [experts, width, hidden]
            yield out + "ffn_up_exps", up
            yield out + "ffn_down_exps", weights[hf + "mlp.experts.down_proj"]


def metadata(w, cfg):
    w.add_name("Austen")
    w.add_description("A small DeepSeek-V2-architecture model of Jane Austen's prose, trained for Quire as a demonstration")
    w.add_license("apache-2.0")
    w.add_languages(["en"])
    w.add_type("model")
    w.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    w.add_quantization_version(gguf.GGML_QUANT_VERSION)
    w.add_vocab_size(cfg.vocab_size)
    w.add_block_count(cfg.num_hidden_layers)
    w.add_context_length(cfg.max_position_embeddings)
    w.add_embedding_length(cfg.hidden_size)
    w.add_feed_forward_length(cfg.intermediate_size)
    w.add_expert_feed_forward_length(cfg.moe_intermediate_size)
    w.add_head_count(cfg.num_attention_heads)
    w.add_head_count_kv(1)
    w.add_q_lora_rank(cfg.q_lora_rank)
    w.add_kv_lora_rank(cfg.kv_lora_rank)
    w.add_key_length(cfg.kv_lora_rank + cfg.qk_rope_head_dim)
    w.add_value_length(cfg.kv_lora_rank)
    w.add_key_length_mla(cfg.qk_nope_head_dim + cfg.qk_rope_head_dim)
    w.add_value_length_mla(cfg.v_head_dim)
    w.add_rope_dimension_count(cfg.qk_rope_head_dim)
    w.add_rope_freq_base(cfg.rope_parameters["rope_theta"])
    w.add_layer_norm_rms_eps(cfg.rms_norm_eps)
    w.add_leading_dense_block_count(cfg.first_k_dense_replace)
    w.add_expert_count(cfg.n_routed_experts)
    w.add_expert_used_count(cfg.num_experts_per_tok)
    w.add_expert_shared_count(cfg.n_shared_experts)
    w.add_expert_weights_scale(cfg.routed_scaling_factor)
    w.add_expert_weights_norm(cfg.norm_topk_prob)
    w.add_expert_gating_func(gguf.ExpertGatingFuncType.SOFTMAX)


def vocabulary(w, path, cfg):
    tok = json.load(open(path, encoding="utf-8"))
    by_id = sorted(tok["model"]["vocab"], key=tok["model"]["vocab"].get)
    special = {t["id"] for t in tok["added_tokens"] if t["special"]}
    assert len(by_id) == cfg.vocab_size
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("deepseek-v3")
    w.add_token_list(by_id)
    w.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(len(by_id))])
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tok["model"]["merges"]])
    w.add_bos_token_id(cfg.bos_token_id)
    w.add_eos_token_id(cfg.eos_token_id)
    w.add_pad_token_id(cfg.eos_token_id)
    w.add_add_bos_token(True)
    w.add_add_eos_token(False)


def main(checkpoint, tokenizer, out):
    model = DeepseekV2ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    w = gguf.GGUFWriter(out, "deepseek2")
    metadata(w, model.config)
    vocabulary(w, tokenizer, model.config)
    for name, tensor in tensors(model.config, model.state_dict()):
        data = tensor.float().contiguous().numpy()
        kind = gguf.GGMLQuantizationType.F32 if data.ndim == 1 or "ffn_gate_inp" in name else gguf.GGMLQuantizationType.Q8_0
        w.add_tensor(name + ".weight", gguf.quants.quantize(data, kind), raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
