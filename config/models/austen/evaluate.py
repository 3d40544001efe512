#!/usr/bin/env python3
"""Held-out bits per byte and expert load of a checkpoint, on the files of text.py.

Run:   python evaluate.py DATA OUT/best [--context 2048]
"""
import argparse
import collections
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

NOVELS = ["sensesensibility", "prideprejudice", "mansfieldpark", "emma", "northangerabbey", "persuasion"]


def windows(ids, context, bos):
    """(window led by BOS, how many of its last tokens count): every token counts once, with half a context before it."""
    stride = context // 2
    for begin in range(0, len(ids), stride):
        end = min(begin + stride, len(ids))
        lo = max(0, begin + stride - context)
        yield np.concatenate(([bos], ids[lo:end])), end - begin


@torch.no_grad()
def by_novel(model, data, context=512, fraction=1.0, bos=0, batch=8):
    """{novel: (bits, bytes)} of the held-out parts; fraction: the part of each to use, from its start."""
    model.eval()
    result = {}
    for name in NOVELS:
        ids = np.load(data / f"valid-{name}.npy").astype(np.int64)
        used = ids[: int(len(ids) * fraction)]
        groups = collections.defaultdict(list)
        for window, fresh in windows(used, context, bos):
            groups[len(window), fresh].append(window)
        nats = 0.0
        for (_, fresh), rows in groups.items():
            for i in range(0, len(rows), batch):
                x = torch.from_numpy(np.stack(rows[i: i + batch]))
                with torch.autocast("cpu", torch.bfloat16, enabled=fraction < 1):
                    logits = model(x[:, :-1], use_cache=False).logits
                nats += F.cross_entropy(logits[:, -fresh:].float().flatten(0, 1), x[:, -fresh:].flatten(), reduction="sum").item()
        size = len((data / f"valid-{name}.txt").read_bytes()) * len(used) / len(ids)
        result[name] = nats / math.log(2), size
    return result


def bits_per_byte(model, data, context=512, fraction=1.0):
    bits, size = map(sum, zip(*by_novel(model, data, context, fraction).values()))
    return bits / size


def expert_load(model, data, context=512):
    """What by_novel gives, and {layer: [share of the (token, slot) pairs that went to each expert]} on the held-out text."""
    counts = collections.defaultdict(lambda: torch.zeros(model.config.n_routed_experts))
    hooks = []
    for i, layer in enumerate(model.model.layers):
        if hasattr(layer.mlp, "gate"):
            def hook(_, __, out, i=i):
                counts[i] += out[2].reshape(-1).bincount(minlength=len(counts[i])).float()
            hooks.append(layer.mlp.gate.register_forward_hook(hook))
    novels = by_novel(model, data, context)
    for h in hooks:
        h.remove()
    return novels, {i: (c / c.sum()).tolist() for i, c in counts.items()}


def main():
    from transformers import DeepseekV2ForCausalLM
    ap = argparse.ArgumentParser()
    ap.add_argument("data", type=pathlib.Path)
    ap.add_argument("checkpoint")
    ap.add_argument("--context", type=int, default=512)
    ap.add_argument("--threads", type=int, default=2)
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    model = DeepseekV2ForCausalLM.from_pretrained(args.checkpoint, dtype=torch.float32).eval()
    novels, load = expert_load(model, args.data, args.context)
    bits, size = map(sum, zip(*novels.values()))
    print(f"held-out bits per byte, context {args.context}: {bits / size:.4f} ({size:,.0f} bytes)")
    for name, (bits, size) in novels.items():
        print(f"  {name:18} {bits / size:.4f}")
    print("expert load on held-out text (1.00 = fair share), least and all")
    for i, share in load.items():
        fair = [s * len(share) for s in share]
        print(f"  layer {i}: {min(fair):.2f}  " + " ".join(f"{f:.2f}" for f in fair))


if __name__ == "__main__":
    main()
