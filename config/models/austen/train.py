#!/usr/bin/env python3
"""Trains the model on the files of text.py: transformers' DeepseekV2ForCausalLM, Muon + AdamW, time-budgeted.

Needs (PyPI): torch, transformers, numpy
Run:   python train.py DATA OUT --minutes 83      (again with --resume to go on after an interruption)
Writes into OUT: log.csv, state.pt (to resume), best/ (a Hugging Face checkpoint)
"""
import argparse
import csv
import math
import os
import pathlib
import time

import numpy as np
import torch
import torch.nn.functional as F
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM
from transformers.models.deepseek_v2 import modeling_deepseek_v2 as dsv2

from evaluate import bits_per_byte

CONFIG = dict(
    vocab_size=4096, hidden_size=256, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=4,
    q_lora_rank=128, kv_lora_rank=96, qk_nope_head_dim=32, qk_rope_head_dim=32, v_head_dim=64,
    first_k_dense_replace=1, intermediate_size=640, n_routed_experts=8, num_experts_per_tok=2, n_shared_experts=1,
    moe_intermediate_size=192, topk_method="greedy", norm_topk_prob=False, routed_scaling_factor=1.0, n_group=1,
    topk_group=1, rms_norm_eps=1e-6, max_position_embeddings=2048, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    tie_word_embeddings=True, bos_token_id=0, eos_token_id=1, initializer_range=0.02, attention_bias=False)

BATCH_TOKENS = 4096
CONTEXT, LONG_CONTEXT, LONG_FROM = 512, 2048, 0.85  # the last 15 % of the time uses the full context, the finish both
EXTRA_FIRST, EXTRA_LAST = 0.3, 0.0                   # share of sequences from extra.txt, linear in time
DROPOUT = 0.1
AUX, AUX_FINISH, FINISH = 0.01, 0.2, 0.15        # balance weight; in the finish, whose rate falls from FINISH of the peak
MUON_LR, ADAM_LR, DECAY, WARMUP = 0.02, 3e-3, 0.1, 0.02


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by five Newton-Schulz steps (Jordan et al., 2024); stacked experts one by one."""

    def __init__(self, params):
        super().__init__(params, dict(lr=MUON_LR))

    @staticmethod
    def orthogonal(g):
        x = g.bfloat16()
        tall = x.size(-2) > x.size(-1)
        x = x.mT if tall else x
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(5):
            a = x @ x.mT
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        return (x.mT if tall else x).float()

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                m.lerp_(p.grad, 0.05)
                update = self.orthogonal(p.grad.lerp(m, 0.95))
                p.mul_(1 - group["lr"] * DECAY)
                p.add_(update, alpha=-group["lr"] * max(1, p.size(-2) / p.size(-1)) ** 0.5)


class Spread(torch.autograd.Function):
    """x[order // k]: each token's row k times, sorted by expert. The backward pass is a gather too, not a scatter."""

    @staticmethod
    def forward(ctx, x, order, back, k):
        ctx.save_for_backward(back)
        ctx.k = k
        return x.index_select(0, order // k)

    @staticmethod
    def backward(ctx, grad):
        return grad.index_select(0, ctx.saved_tensors[0]).view(-1, ctx.k, grad.size(-1)).sum(1), None, None, None


class Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, order, back):
        ctx.save_for_backward(order)
        return x.index_select(0, back)

    @staticmethod
    def backward(ctx, grad):
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


def experts_forward(self, x, index, weights):
    """DeepseekV2Experts.forward, the same sum, with one sort in place of a mask for each expert."""
    k, flat = index.size(1), index.reshape(-1)
    order = flat.argsort()
    back = torch.empty_like(order)
    back[order] = torch.arange(order.numel())
    parts = []
    groups = Spread.apply(x, order, back, k).split(flat.bincount(minlength=self.num_experts).tolist())
    for group, gate_up, down in zip(groups, self.gate_up_proj.unbind(), self.down_proj.unbind()):
        gate, up = F.linear(group, gate_up).chunk(2, dim=-1)
        parts.append(F.linear(F.silu(gate) * up, down))
    out = Permute.apply(torch.cat(parts), order, back).view(-1, k, x.size(-1))
    return (out * weights.unsqueeze(-1)).sum(1).to(x.dtype)


class Balance:
    """Switch-style load balancing: E * sum_e (share of tokens of e) * (mean score of e), for each layer."""

    def __init__(self, model):
        self.losses, self.counts = [], {}
        for module in model.modules():
            if isinstance(module, dsv2.DeepseekV2TopkRouter):
                module.register_forward_hook(self.hook)

    def hook(self, module, _, out):
        if module.training:
            logits, _, index = out
            count = index.reshape(-1).bincount(minlength=module.num_experts)
            self.counts[module] = self.counts.get(module, 0) + count
            share = count / index.numel()
            self.losses.append(module.num_experts * (share * logits.softmax(-1).mean(0)).sum())

    def take(self):
        loss, self.losses = torch.stack(self.losses).mean(), []
        return loss

    def least(self):
        """The least share of one expert since the last call, for each layer; 1 = fair."""
        least = [f"{c.min() / c.sum() * len(c):.2f}" for c in self.counts.values()]
        self.counts = {}
        return " ".join(least)


def build():
    torch.manual_seed(1)
    dsv2.DeepseekV2Experts.forward = experts_forward
    model = DeepseekV2ForCausalLM(DeepseekV2Config(**CONFIG))
    with torch.no_grad():  # residual branches start small
        for name, p in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "down_proj")):
                p.mul_((2 * CONFIG["num_hidden_layers"]) ** -0.5)

    def drop(module, _, out):
        tuples = isinstance(out, tuple)
        y = F.dropout(out[0] if tuples else out, DROPOUT, module.training)
        return (y, *out[1:]) if tuples else y

    model.model.embed_tokens.register_forward_hook(drop)
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(drop)
        layer.mlp.register_forward_hook(drop)
    return model


def optimizers(model):
    hidden = [p for n, p in model.named_parameters() if p.dim() > 1 and "embed" not in n and "gate.weight" not in n]
    chosen = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    adam = torch.optim.AdamW(
        [dict(params=[p for p in rest if p.dim() > 1], weight_decay=DECAY), dict(params=[p for p in rest if p.dim() == 1], weight_decay=0.0)],
        lr=ADAM_LR, betas=(0.9, 0.95), fused=True)
    for opt, peak in ((muon := Muon(hidden), MUON_LR), (adam, ADAM_LR)):
        for group in opt.param_groups:
            group["peak"] = peak
    return [muon, adam]


def batch(rng, austen, extra, done):
    """Random windows, each led by BOS. done: the part of the time that is over, 0 to 1."""
    length = LONG_CONTEXT if done >= LONG_FROM and (done < 1 or rng.random() < 0.5) else CONTEXT
    share = EXTRA_FIRST + (EXTRA_LAST - EXTRA_FIRST) * min(done, 1)
    rows = []
    for _ in range(BATCH_TOKENS // length):
        ids = extra if rng.random() < share else austen
        start = rng.integers(0, len(ids) - length)
        rows.append(np.concatenate(([CONFIG["bos_token_id"]], ids[start:start + length])))
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def schedule(done):
    """Share of the peak rate: warm-up and cosine up to done = 1; the finish from 1 to 2, linear."""
    if done > 1:
        return FINISH * max(2 - done, 0)
    return min(done / WARMUP, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(done, 1))))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("data", type=pathlib.Path)
    ap.add_argument("out", type=pathlib.Path)
    ap.add_argument("--minutes", type=float, default=83)
    ap.add_argument("--finish", type=float, default=9, help="minutes more, with the heavier balance weight")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--resume", action="store_true")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    austen, extra = (np.load(args.data / f"{n}.npy") for n in ("train", "extra"))
    model = build()
    balance, opts, rng = Balance(model), optimizers(model), np.random.default_rng(1)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    step, spent, best, tokens = 0, 0.0, float("inf"), 0
    if args.resume:
        state = torch.load(args.out / "state.pt", weights_only=False)
        model.load_state_dict(state["model"])
        for opt, saved in zip(opts, state["opts"]):
            opt.load_state_dict(saved)
        step, spent, best, tokens, rng = (state[k] for k in ("step", "spent", "best", "tokens", "rng"))
    log = csv.writer(open(args.out / "log.csv", "a" if args.resume else "w", buffering=1))
    if not args.resume:
        log.writerow(["minutes", "step", "tokens", "train_loss", "balance", "valid_bits_per_byte"])
    start, last_eval, running = time.time() - spent, time.time() if args.resume else 0, []
    while True:
        minutes = (time.time() - start) / 60
        done = minutes / args.minutes if minutes < args.minutes else 1 + (minutes - args.minutes) / args.finish
        if time.time() - last_eval > 300 or done >= 2:
            bpb = bits_per_byte(model, args.data, context=CONTEXT, fraction=1.0 if done >= 2 else 0.1)
            loss, aux = np.mean(running, axis=0) if running else (float("nan"),) * 2
            log.writerow([f"{minutes:.2f}", step, tokens, f"{loss:.4f}", f"{aux:.4f}", f"{bpb:.4f}"])
            print(f"{minutes:6.1f} min  step {step}  tokens {tokens:,}  train {loss:.3f}  balance {aux:.3f} least {balance.least()}  valid {bpb:.4f} bits/byte", flush=True)
            if bpb < best or done > 1:
                best = bpb
                model.save_pretrained(args.out / "best")
            torch.save(dict(model=model.state_dict(), opts=[o.state_dict() for o in opts], step=step, spent=time.time() - start,
                            best=best, tokens=tokens, rng=rng), args.out / "state.new")
            os.replace(args.out / "state.new", args.out / "state.pt")
            last_eval, running = time.time(), []
            if done >= 2:
                break
        for opt in opts:
            for group in opt.param_groups:
                group["lr"] = group["peak"] * schedule(done)
        ids = batch(rng, austen, extra, done)
        model.train()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids[:, :-1], use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        aux = balance.take()
        (loss + (AUX if done < 1 else AUX_FINISH) * aux).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        step, tokens = step + 1, tokens + ids.numel() - len(ids)
        running.append((loss.item(), aux.item()))


if __name__ == "__main__":
    main()
