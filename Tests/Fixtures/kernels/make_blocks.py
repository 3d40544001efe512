#!/usr/bin/env python3
"""Makes blocks.bin: rows of every weight format with random and extreme bytes, and what gguf-py (torch for E4M3) makes of them.

python make_blocks.py OUT      needs numpy, gguf, torch. Deterministic.
Record: u32 type, u32 columns, u32 byteCount, bytes, float32[columns]; little endian.
"""
import struct
import sys
import gguf
import numpy as np
import torch

# type id -> offsets of the float16 fields in a block
F16_FIELDS = {2: [0], 3: [0, 2], 6: [0], 7: [0, 2], 8: [0], 10: [80, 82], 11: [108], 12: [0, 2], 13: [0, 2], 14: [208], 20: [0], 23: [0]}
EXTREME = [0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x0400, 0x3C00]  # zero, denormals, largest, smallest normal, one


def quantised(rng, type_id, kind):
    elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(type_id)]
    blocks = 512 // elements if kind == "random" else 256 // elements
    raw = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
    if kind == "ones":
        raw[:] = 0xFF
    for at in F16_FIELDS[type_id]:
        if kind == "random":
            d = (rng.standard_normal(blocks) * 0.05).astype(np.float16).view(np.uint16)
        else:
            d = np.array(EXTREME, np.uint16)[rng.integers(0, len(EXTREME), blocks)]
        raw[:, at : at + 2] = d.view(np.uint8).reshape(blocks, 2)
    with np.errstate(all="ignore"):
        values = gguf.dequantize(raw, gguf.GGMLQuantizationType(type_id)).astype(np.float32).ravel()
    return raw.tobytes(), values


def plain(rng, type_id):
    if type_id == 0:
        v = rng.standard_normal(37).astype(np.float32)
        return v.tobytes(), v
    if type_id == 1:
        u = rng.integers(0, 0x7C00, 53).astype(np.uint16) | (rng.integers(0, 2, 53) << 15).astype(np.uint16)
        u[:8] = EXTREME
        return u.tobytes(), u.view(np.float16).astype(np.float32)
    if type_id == 30:
        u = rng.integers(0, 0x7F80, 53).astype(np.uint16) | (rng.integers(0, 2, 53) << 15).astype(np.uint16)
        return u.tobytes(), (u.astype(np.uint32) << 16).view(np.float32)
    codes = np.arange(256, dtype=np.uint8)
    codes = codes[(codes & 0x7F) != 0x7F]  # NaN codes are tested apart
    return codes.tobytes(), torch.from_numpy(codes.copy()).view(torch.float8_e4m3fn).to(torch.float32).numpy()


def main(out):
    rng = np.random.default_rng(20261124)
    with open(out, "wb") as f:
        for type_id in (0, 1, 30, 100):
            write(f, type_id, *plain(rng, type_id))
        for type_id in F16_FIELDS:
            for kind in ("random", "extreme", "ones"):
                write(f, type_id, *quantised(rng, type_id, kind))


def write(f, type_id, raw, values):
    f.write(struct.pack("<III", type_id, len(values), len(raw)) + raw + values.astype("<f4").tobytes())


main(sys.argv[1])
