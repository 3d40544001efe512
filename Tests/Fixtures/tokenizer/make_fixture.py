#!/usr/bin/env python3
"""Writes the fixtures of TokenizerTests beside itself: a small trained vocabulary under each pre-tokenizer, and what the
`tokenizers` package answers with it.

    python make_fixture.py

deepseek-llm.json, deepseek-coder.json, deepseek-v3.json, gpt-2.json: one vocabulary, four pre-tokenizers.
cases.bin, little endian: u32 cases; per case u32 byte count, UTF-8, then for each of the four files in the order above the
u32 FNV-1a hash of the ids (over whole 32-bit ids). utf8.bin: u32 cases; per case u32 byte count, bytes, u32 byte count, and
what Python's bytes.decode("utf-8", errors="replace") makes of them.
"""
import json
import pathlib
import random
import struct

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

import corpus

HERE = pathlib.Path(__file__).parent
CASES = 2600
VOCABULARY = 700
EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
WIDE_PUNCTUATION = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
# As in the published tokenizer.json of DeepSeek-V2 (SPEC 4.2).
CASED = (
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 3A3-3F5 3F7-481 48A-52F 531-556 "
    "10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D "
    "1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 "
    "2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F "
    "A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
CASED_LETTERS = "\\s?[" + "".join("-".join(chr(int(c, 16)) for c in r.split("-")) for r in CASED.split()) + "]+"
WORDS = (
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
)
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
DIGITS = {"type": "Digits", "individual_digits": True}
SCHEMES = {
    "deepseek-llm": ["[\r\n]", CASED_LETTERS, WIDE_PUNCTUATION, "\\s+$", EAST_ASIAN, DIGITS],
    # Code points and newlines as escapes of the regular expression: another spelling of the same patterns.
    "deepseek-coder": ["[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", "[\\u4e00-\\u9fa5\\u0800-\\u4e00\\uac00-\\ud7ff]+", DIGITS],
    "deepseek-v3": ["\\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", WORDS],
}
# Seen often in training, so that there are merges across these borders: of other scripts and trailing spaces, punctuation and newlines.
BORDERS = [a + b for a in ["\u00b1", "\U0001f680", "\u20ac", "\u00bd", "\u2211", "x.", ")"] for b in [" ", "  ", "\n", "\r\n", "\n\n", " \n"]]
# (text, special, normalized). The @ tokens overlap, and `normalized` decides which are looked for first.
ADDED = [
    ("<｜begin▁of▁sentence｜>", True, False), ("<｜end▁of▁sentence｜>", True, False), ("<｜▁pad▁｜>", True, False), ("<think>", False, True),
    ("</think>", False, True), ("<｜User｜>", False, True), ("<｜Assistant｜>", False, True), ("<|EOT|>", True, True),
    ("<｜place▁holder▁no▁7｜>", True, False), ("@@", False, True), ("@@@", False, True), ("@#", True, False), ("ø", False, True),
]


def pre_tokenizer(name):
    if name == "gpt-2":
        return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    split = lambda p: {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split(s) if isinstance(s, str) else s for s in SCHEMES[name]] + [BYTE_LEVEL]}


def train():
    tokenizer = tokenizers.Tokenizer(models.BPE())
    # Trained on blocks of 12 characters whatever they are, so that merges cross every border a pre-tokenizer could draw: a wrong border shows.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("[\\s\\S]{1,12}"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    # Without the glyphs of bytes that UTF-8 cannot hold, as in DeepSeek LLM: there "ø" is an added token.
    alphabet = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set("øöúÿõ÷ûýÀùÁþü"))
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    lines = [line for line in corpus.lines(6000, seed=7) if "@" not in line] + BORDERS * 400
    tokenizer.train_from_iterator(lines, trainer)
    return json.loads(tokenizer.to_str())


def fnv(ids):
    value = 2166136261
    for i in ids:
        value = (value ^ i) * 16777619 % 2**32
    return value


def main():
    base = train()
    size = len(base["model"]["vocab"])
    base["added_tokens"] = [
        {"id": size + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": normalized, "special": special}
        for i, (text, special, normalized) in enumerate(ADDED)
    ]
    built = []
    for name in ["deepseek-llm", "deepseek-coder", "deepseek-v3", "gpt-2"]:
        base["pre_tokenizer"] = pre_tokenizer(name)
        text = json.dumps(base, ensure_ascii=name == "gpt-2", separators=(",", ":"))
        if name == "deepseek-v3":  # merges as in older files
            old = dict(base, model=dict(base["model"], merges=[" ".join(m) for m in base["model"]["merges"]]))
            text = json.dumps(old, ensure_ascii=False, separators=(",", ":"))
        (HERE / f"{name}.json").write_text(text)
        built.append(tokenizers.Tokenizer.from_file(str(HERE / f"{name}.json")))
    borders = BORDERS + [a + b for a in BORDERS for b in ["x", " x", "\u20ac", ".", "1"]]
    lines = list(dict.fromkeys(corpus.lines(CASES, seed=11, longest=26) + borders + corpus.NUMBERS + corpus.SPACES + corpus.SPECIALS))
    with open(HERE / "cases.bin", "wb") as file:
        file.write(struct.pack("<I", len(lines)))
        for text in lines:
            data = text.encode()
            hashes = [fnv(t.encode(text, add_special_tokens=False).ids) for t in built]
            file.write(struct.pack("<I", len(data)) + data + struct.pack("<4I", *hashes))
    rng = random.Random(3)
    leads = [0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0xFF]
    texts = [bytes(rng.choice(leads) for _ in range(rng.randrange(9))) for _ in range(1500)]
    with open(HERE / "utf8.bin", "wb") as file:
        file.write(struct.pack("<I", len(texts)))
        for data in texts:
            good = data.decode("utf-8", errors="replace").encode()
            file.write(struct.pack("<I", len(data)) + data + struct.pack("<I", len(good)) + good)
    print(f"{size} tokens, {len(lines)} cases, tokenizers {tokenizers.__version__}")


main()
