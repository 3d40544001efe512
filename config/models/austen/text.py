#!/usr/bin/env python3
"""Reads the texts, cuts off the held-out parts, trains the tokenizer, writes token files.

Needs (Debian): r-base-core, r-cran-janeaustenr, bible-kjv, golang-github-klauspost-compress-dev
Needs (PyPI):   tokenizers, numpy
Writes into DIR: train.txt, extra.txt, valid-<novel>.txt, tokenizer.json, train.npy, extra.npy, valid-<novel>.npy
Run:   python text.py DIR
"""
import pathlib
import re
import subprocess
import sys

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

NOVELS = ["sensesensibility", "prideprejudice", "mansfieldpark", "emma", "northangerabbey", "persuasion"]
HELD_OUT = 0.1  # the last tenth of each novel, in bytes
VOCAB = 4096
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
TOM_SAWYER = "/usr/share/gocode/src/github.com/klauspost/compress/testdata/Mark.Twain-Tom.Sawyer.txt"
# The pre-tokenizer of DeepSeek-V3 (GGUF: tokenizer.ggml.pre = "deepseek-v3").
SPLITS = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-\u309f\u30a0-\u30ff]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]


def paragraphs(text):
    """Wrapped lines joined by one space, runs of blanks made one, one empty line between paragraphs."""
    blocks = (re.sub(r"\s+", " ", block).strip() for block in re.split(r"\n\s*\n", text))
    return "\n\n".join(block for block in blocks if block) + "\n\n"


def novel(name):
    script = f"library(janeaustenr); writeLines(get('{name}'), stdout(), useBytes=TRUE)"
    return paragraphs(subprocess.run(["Rscript", "-e", script], check=True, capture_output=True).stdout.decode())


def bible(command=("bible", "-l1000")):
    """King James Version: one paragraph for each chapter, without verse numbers."""
    text = subprocess.run([*command, "gen1:1-rev22:21"], check=True, capture_output=True, stdin=subprocess.DEVNULL).stdout.decode("latin-1")
    text = re.sub(r"(?m)^\s*\d+ ", "", text)
    return paragraphs(text)


def split(text):
    """(training part, held-out part), cut between two paragraphs."""
    cut = text.index("\n\n", int(len(text) * (1 - HELD_OUT))) + 2
    return text[:cut], text[cut:]


def make_tokenizer(text):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(s), "isolated") for s in SPLITS]
        + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    special = [AddedToken(t, normalized=False, special=True) for t in (BOS, EOS)]
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator([text], trainer)
    return tok


def main(folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: split(novel(name)) for name in NOVELS}
    texts = {"train": "".join(p[0] for p in parts.values())}
    texts |= {f"valid-{name}": p[1] for name, p in parts.items()}
    sawyer = pathlib.Path(TOM_SAWYER).read_text("utf-8", errors="replace")
    texts["extra"] = paragraphs(sawyer) + bible()
    tok = make_tokenizer(texts["train"])
    tok.save(str(folder / "tokenizer.json"))
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, "utf-8")
        ids = np.array(tok.encode(text, add_special_tokens=False).ids, dtype=np.uint16)
        assert tok.decode(ids.tolist(), skip_special_tokens=False) == text
        np.save(folder / f"{name}.npy", ids)
        print(f"{name:24} {len(text.encode()):9,} bytes {len(ids):9,} tokens {len(text.encode()) / len(ids):.3f} bytes/token")


if __name__ == "__main__":
    main(*sys.argv[1:])
