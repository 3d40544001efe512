#!/usr/bin/env python3
"""Writes what the `tokenizers` package answers on a corpus, for CorpusTests.swift to compare (issue 2, must hold 3).

    python compare_tokenizers.py TOKENIZER.json OUT.bin [LINES]     # default 24,000 lines, and every Unicode scalar
    QUIRE_TOKENIZER_JSON=TOKENIZER.json QUIRE_TOKENIZER_CORPUS=OUT.bin swift test -c release --filter CorpusTests

The test prints the number of lines and of differences; it fails when one differs. Format of OUT.bin, little endian:
u32 lines, then per line u32 byte count, UTF-8, u32 id count, i32 ids.
"""
import struct
import sys

import tokenizers

import corpus


def main():
    path, out = sys.argv[1:3]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 24000
    tokenizer = tokenizers.Tokenizer.from_file(path)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    lines = corpus.lines(count, seed=20261124)
    lines += corpus.every_scalar() + corpus.long_runs() + ["".join(lines)]
    with open(out, "wb") as file:
        file.write(struct.pack("<I", len(lines)))
        total = 0
        for text in lines:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            data = text.encode()
            file.write(struct.pack("<I", len(data)) + data + struct.pack(f"<I{len(ids)}i", len(ids), *ids))
            total += len(ids)
    print(f"{len(lines)} lines, {total} ids, tokenizers {tokenizers.__version__}")


main()
