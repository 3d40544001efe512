#!/usr/bin/env python3
"""Draws the loss curve of a run and writes samples from its checkpoint.

Needs (PyPI): torch, transformers, tokenizers, matplotlib
Run:   python report.py curve OUT/log.csv loss.png
       python report.py samples OUT/best DATA/tokenizer.json
"""
import csv
import math
import sys

PROMPTS = ["It was a fine evening, and Elizabeth", "Mr. Darcy", "\"My dear Emma,\" said he,", "Chapter 12\n\n"]
BYTES_PER_TOKEN = 4.18  # of the held-out text; only for the training curve


def curve(log, picture):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    rows = list(csv.DictReader(open(log)))
    tokens = [int(r["tokens"]) / 1e6 for r in rows]
    fig, ax = plt.subplots(figsize=(8, 4.5), dpi=110)
    train = [float(r["train_loss"]) / math.log(2) / BYTES_PER_TOKEN for r in rows]
    ax.plot(tokens[1:], train[1:], label="training (all texts, with dropout, mean since the last point)", color="tab:gray")
    ax.plot(tokens, [float(r["valid_bits_per_byte"]) for r in rows], label="held-out Austen", color="tab:blue", marker=".")
    ax.axhline(1.55, color="tab:red", lw=0.8, ls="--", label="target 1.55")
    ax.set(xlabel="tokens seen (millions)", ylabel="bits per byte", ylim=(1.0, 2.2), title="Austen: loss")
    ax.legend()
    ax.grid(alpha=0.3)
    fig.tight_layout()
    fig.savefig(picture)


def samples(checkpoint, tokenizer, temperature=0.8, top_p=0.95):
    import torch
    from tokenizers import Tokenizer
    from transformers import DeepseekV2ForCausalLM
    model = DeepseekV2ForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    tok = Tokenizer.from_file(tokenizer)
    for prompt in PROMPTS:
        torch.manual_seed(1)
        ids = torch.tensor([[model.config.bos_token_id] + tok.encode(prompt, add_special_tokens=False).ids])
        out = model.generate(ids, max_new_tokens=120, do_sample=True, temperature=temperature, top_p=top_p, top_k=0,
                             pad_token_id=model.config.eos_token_id)
        print(f"--- {prompt!r}\n{tok.decode(out[0].tolist())}\n")


if __name__ == "__main__":
    dict(curve=curve, samples=samples)[sys.argv[1]](*sys.argv[2:])
