#!/usr/bin/env python3
"""Writes oracle.txt: what the Python packages `gguf` and `safetensors` see in the tiny checkpoints of Tests/Fixtures/tiny.

One line per checkpoint: path, number of tensors, FNV-1a 64 over "name type shape\\n" and the first and last 64 bytes of every
tensor, sorted by name.
Run with a Python that has both packages:  python make_fixtures.py
"""
import os

import gguf

HERE = os.path.dirname(os.path.abspath(__file__))
TINY = os.path.join(HERE, "..", "tiny")


def fnv(state, data):
    for byte in data:
        state = ((state ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return state


def digest(tensors):
    state = 0xCBF29CE484222325
    for name, type_name, shape, data in sorted(tensors):
        state = fnv(state, f"{name} {type_name} {','.join(map(str, shape))}\n".encode())
        state = fnv(state, data[:64] + data[-64:])
    return len(tensors), state


def from_gguf(path):
    return [(t.name, t.tensor_type.name, [int(n) for n in reversed(t.shape)], t.data.tobytes()) for t in gguf.GGUFReader(path).tensors]


def from_safetensors(path):
    # safe_open gives names and shapes; raw bytes (FP8 has no numpy type) come from safetensors' own deserialize.
    from safetensors import deserialize
    with open(path, "rb") as f:
        return [(name, t["dtype"], list(t["shape"]), bytes(t["data"])) for name, t in deserialize(f.read())]


lines = []
for folder in sorted(os.listdir(TINY)):
    full = os.path.join(TINY, folder)
    if os.path.exists(os.path.join(full, "config.json")):
        tensors = [t for f in sorted(os.listdir(full)) if f.endswith(".safetensors") for t in from_safetensors(os.path.join(full, f))]
        lines.append((folder, *digest(tensors)))
for f in sorted(os.listdir(os.path.join(TINY, "gguf"))):
    if f.endswith(".gguf"):
        lines.append((f"gguf/{f}", *digest(from_gguf(os.path.join(TINY, "gguf", f)))))
with open(os.path.join(HERE, "oracle.txt"), "w") as out:
    for path, count, state in lines:
        out.write(f"{path} {count} {state:016x}\n")
