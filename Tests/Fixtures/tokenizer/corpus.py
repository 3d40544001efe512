"""A deterministic corpus for comparing tokenizers: lines of every kind that pre-tokenizers treat differently.

Used by compare_tokenizers.py (20,000 lines and more) and make_fixture.py (a few thousand short ones).
"""
import keyword
import random
import unicodedata

PROSE = {
    "english": "It is a truth universally acknowledged, that a single man in possession of a good fortune must be in want of a wife. "
    "However little known the feelings or views of such a man may be, don't you think he'll've heard? I'd say we're O'Neill's; THEY'RE it's.",
    "german": "Für die Straße nach Köln brauchen wir größere Füße, sagte der Bär; öffne die Tür! „Ja“, »nein«, äöüß ÄÖÜẞ.",
    "french": "Où est l'été ? L'œuvre d'art naïve coûte vingt-cinq euros ; ça ira, garçon… « Oui », dit-elle. Noël, ÿ, æ.",
    "polish": "Zażółć gęślą jaźń, proszę pana. Łódź, święto, źdźbło.",
    "turkish": "İstanbul'da ılık bir akşam; şeker, ğ, ç, Iğdır.",
    "vietnamese": "Tiếng Việt có nhiều dấu: ắ ằ ẳ ẵ ặ, ế ề ể ễ ệ, ơ ư đ.",
    "greek": "Η γρήγορη αλεπού πηδάει πάνω από το σκυλί· Ἀθῆναι, ᾧ, ΐ.",
    "russian": "Быстрая коричневая лиса прыгает через ленивую собаку. Ёлка, ѣ, Ҋ, ԯ.",
    "chinese": "你好，世界！今天天气很好，我们去公园散步吧。龥龦鿿〇㐀𠀀𠮷《红楼梦》第1回：甄士隐梦幻识通灵。",
    "japanese": "吾輩は猫である。名前はまだ無い。カタカナー・ひらがなゝヿゟ、々〆〤ｶﾞ ㌔ 「引用」第２章。",
    "korean": "안녕하세요, 세계! 오늘은 날씨가 좋습니다. ㄱㄴㄷ 힣ힰퟻ 한국어 띄어쓰기.",
    "arabic": "مرحبا بالعالم، كيف حالك؟ ١٢٣٤٥٦ ٪ لا إله، بِسْمِ ٱللَّهِ ﷺ ـــ.",
    "hebrew": "שלום עולם! בְּרֵאשִׁית בָּרָא, ״ציטוט״ ׳.",
    "hindi": "नमस्ते दुनिया, आप कैसे हैं? १२३४५ क्षत्रिय ज्ञान श्री। ॐ ॥",
    "bengali": "আমার সোনার বাংলা, ০১২৩ ৳ ৴ ক্ষ।",
    "tamil": "வணக்கம் உலகம், ௧௨௩ ௰ ௱ ஸ்ரீ.",
    "thai": "สวัสดีชาวโลก ๑๒๓ ฿ กำลัง น้ำ ฯลฯ ๏.",
    "georgian": "გამარჯობა ᲒᲐᲛᲐᲠᲯᲝᲑᲐ ႠႡ ⴀⴁ.",
    "armenian": "Բարեւ աշխարհ։ և ՙ ՚.",
    "amharic": "ሰላም ለዓለም፡ ፩፪፫ ።",
    "tibetan": "བོད་སྐད་ ༠༡༢ ༄༅།",
    "khmer": "សួស្តី ០១២ ៛ ។",
    "cherokee": "ᏣᎳᎩ ꭰꭱ ᏸᏽ.",
    "deseret": "𐐀𐐁𐑏 𐒰𐓓𐓘 𐲀𐳀 𑢠𑣟 𞤀𞥃 𞥐.",
    "math": "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β = ¬(¬α ∨ β), 𝐀𝑎𝟙𝟚 ½ ⅔ ² ³ ₁ Ⅳ ⅷ ① ⑩ ㊿ ㈱ ∑∏√∞≠≤≥±×÷.",
    "zalgo": "Z̸̧̢̛͓a̷l̶g̵o̴ é e\u0301 a\u0308 ñ n\u0303 q\u0307\u0323 \u0301\u0302 ḍ̇ 각 \u1100\u1161\u11a8.",
    "emoji": "😀😃🚀 👨‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 🇩🇪🇫🇷🇨 1️⃣ #️⃣ ❤️ ☎︎ 🧑‍⚕️ 👁️‍🗨️ ☺ ©️ ™ ‼️ 🏴󠁧󠁢󠁥󠁮󠁧󠁿 🫠🪿.",
    "punctuation": "…—–-‐‑‒―‘’“”‚„†‡•‰′″‹›※‽⁂⁇⁈⸮、。〈〉【】〔〕！？（）～：；｛｝￥￠€£¥¢₹₿$^`~|\\/@#%&*+=<>_.",
}
CODE = [
    "def f(x):\n\treturn x+1\n", "for (int i = 0; i < n; ++i) {\n    a[i] = b[i] * 2.5e-3f;\n}\r\n", "if __name__ == '__main__':\n    main()\n\n\n",
    "SELECT * FROM t WHERE a>=10 AND b!='x''y';--c", "<a href=\"https://e.org/?q=1&r=%20\">T&eacute;st</a>", "{\"k\": [1, 2.0, -3e+4, null], \"s\": \"\\u00e9\\n\"}",
    "#include <stdio.h>\n#define X(a, b) ((a)##b)\n", "fn main() -> Result<(), Box<dyn Error>> { let x = vec![0u8; 16]; Ok(()) }",
    "let s = \"\\(name)\"; guard let v = try? f() else { return }", "a.b.c->d::e<f<g>>(h)|i&j^k~l!m", "\t\tx\t=\ty\t\t// comment\t",
    "$ rm -rf ./build && make -j$(nproc) 2>&1 | tee log.txt", "% \\frac{a}{b} \\alpha_{i,j}^{2} $$x$$", "@decorator\nclass A(B):\n  '''doc'''\n  x: int = 0",
    "lambda x:x**2;x//=3;y<<=4", "0xDEADBEEF 0b1010 1_000_000 1e10 .5 5. 0o777", "user@example.com 192.168.0.1:8080 2026-11-24T03:15:00Z +49 (0)30 1234567",
    "\x1b[31mred\x1b[0m\x00\x01\x7f", "--flag=value -x --long-option 'quoted arg' \"dq\"", "    indented\n        more\n    less\n",
]
SPACES = [" ", "  ", "   ", "    ", "\t", "\t\t", "\n", "\n\n", "\r", "\r\n", "\r\n\r\n", " \n", "\n ", " \r\n ", "\x0b", "\x0c", "\x85", "\xa0", "\u1680", "\u2000",
          "\u2003", "\u2009", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\u200b", "\ufeff", "\u180e", "\u2060", "\u200d", "\u200c"]
NUMBERS = ["0", "1", "12", "123", "1234", "12345", "123456", "1234567890", "007", "3.14", "1,000,000", "٠١٢٣", "१२३४", "½", "²", "Ⅻ", "①②③④", "１２３４", "𝟘𝟙𝟚𝟛", "〇一二", "௧௰", "𐄇𐄈", "\U00011de0\U00011de1", "𞣇", "1st", "2²", "10€"]
SPECIALS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<think>", "</think>", "<｜User｜>", "<｜Assistant｜>", "<|EOT|>", "<｜fim▁hole｜>",
            "<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>", "<｜place▁holder▁no▁7｜>", "<｜place▁holder▁no▁799｜>", "<｜place▁holder▁no▁9999｜>", "<|User|>", "<｜User|>",
            "<｜ User｜>", "<｜user｜>", "<think", "think>", "<<think>>", "< think>", "<｜", "｜>", "<｜｜>", "</", "<|EOT", "▁", "｜", "<｜Assistant｜", "Assistant｜>",
            "<｜table｜>", "<｜/table>｜", "｜DSML｜", "<dsml:", "<｜begin▁sys｜>", "<｜image｜>", "ø", "ö", "ü", "ÿ", "þ", "</s>", "<s>", "<unk>", "[PAD3]", "Ġ", "Ċ", "ġ", "@@", "@@@", "@@#", "@#", "@@@@#"]


def scalar(rng):
    while True:
        kind = rng.random()
        if kind < 0.35:
            c = rng.randrange(0x20, 0x7F)
        elif kind < 0.55:
            c = rng.randrange(0x0, 0x800)
        elif kind < 0.8:
            c = rng.randrange(0x800, 0x10000)
        elif kind < 0.95:
            c = rng.randrange(0x10000, 0x20000)
        else:
            c = rng.randrange(0x20000, 0x110000)
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def by_category():
    """Up to 40 scalars, spread evenly, of each general category (of Python's Unicode; unassigned ones are a category too)."""
    members = {}
    for c in range(0x110000):
        if not 0xD800 <= c < 0xE000:
            members.setdefault(unicodedata.category(chr(c)), []).append(chr(c))
    return {k: v[:: max(1, len(v) // 40)] for k, v in sorted(members.items())}


def invalid_utf8(rng):
    data = bytearray(rng.choice(list(PROSE.values())).encode()[: rng.randrange(1, 40)])
    for _ in range(rng.randrange(1, 5)):
        data.insert(rng.randrange(len(data) + 1), rng.randrange(0x80, 0x100))
    return bytes(data).decode("utf-8", errors="replace")


def line(rng, categories, longest):
    kind = rng.randrange(14)
    words = lambda: rng.choice(list(PROSE.values())).split(" ")
    if kind == 0:
        text = rng.choice(list(PROSE.values()))
        start = rng.randrange(len(text))
        return text[start:start + rng.randrange(1, longest)]
    if kind == 1:
        return rng.choice(CODE)[: longest]
    if kind == 2:
        return "".join(rng.choice(SPACES) for _ in range(rng.randrange(1, 8))) + rng.choice(words())
    if kind == 3:
        return "".join(rng.choice(SPACES[:12]) if rng.random() < 0.6 else rng.choice(words()) for _ in range(rng.randrange(1, 10)))
    if kind == 4:
        return rng.choice(["", " ", ".", "-", "x", "\n"]).join(rng.choice(NUMBERS) for _ in range(rng.randrange(1, 6)))
    if kind == 5:
        return "".join(rng.choice(SPECIALS + words()[:3]) for _ in range(rng.randrange(1, 6)))
    if kind == 6:
        return invalid_utf8(rng)
    if kind == 7:
        return "".join(scalar(rng) for _ in range(rng.randrange(1, max(2, longest // 2))))
    if kind == 8:
        return "".join(rng.choice(categories[rng.choice(list(categories))]) for _ in range(rng.randrange(1, max(2, longest // 3))))
    if kind == 9:
        unit = rng.choice([rng.choice(words()) or " ", scalar(rng), rng.choice(SPACES), rng.choice(NUMBERS)])
        return (unit * rng.randrange(2, longest))[:longest]
    if kind == 10:
        pieces = []
        for _ in range(rng.randrange(1, 6)):
            pieces.append(rng.choice([rng.choice(words()), rng.choice(NUMBERS), rng.choice(SPACES), scalar(rng), rng.choice(SPECIALS)]))
        return "".join(pieces)
    if kind == 11:
        return " ".join(rng.choice(words()) for _ in range(rng.randrange(1, max(2, longest // 8))))
    if kind == 12:
        text = rng.choice(CODE) + rng.choice(list(PROSE.values()))
        text = list(text[rng.randrange(len(text)):][:longest])
        rng.shuffle(text)
        return "".join(text)
    letters = [chr(rng.randrange(0x300, 0x370)) if rng.random() < 0.4 else rng.choice("aeiounc ÅßΩК한中あ.'’1") for _ in range(rng.randrange(1, longest))]
    text = "".join(letters)
    return unicodedata.normalize(rng.choice(["NFC", "NFD", "NFKC", "NFKD"]), text)


def lines(count, seed, longest=120):
    rng = random.Random(seed)
    categories = by_category()
    out = list(PROSE.values()) + CODE + SPACES + NUMBERS + SPECIALS if longest > 60 else ["", " ", "a"]
    out += [" ".join(keyword.kwlist)] if longest > 60 else []
    while len(out) < count:
        out.append(line(rng, categories, longest))
    return out[:count]


def every_scalar():
    """Lines that together hold every Unicode scalar, each between letters, spaces and alone beside its neighbours."""
    out = []
    for start in range(0, 0x110000, 64):
        scalars = [chr(c) for c in range(start, start + 64) if not 0xD800 <= c < 0xE000]
        if scalars and (start < 0x32000 or 0xE0000 <= start < 0xE0200 or start % 0x1000 == 0):
            out.append("".join(scalars))
            out.append(" " + " ".join(scalars) + "a" + "a".join(scalars))
    return out


def long_runs():
    """Pieces that no pre-tokenizer cuts, thousands of bytes long."""
    rng = random.Random(99)
    out = ["".join(rng.choice("etaoinshrdlu") for _ in range(20000)), "".join(rng.choice("ACGT") for _ in range(20000))]
    out += [(unit * 6000)[:6000] for unit in ["a", "ab", "the", " ", "\n", "\r\n", " \n", "\t ", "=", "-*", "...", "é", "e\u0301", "你", "中文", "あ", "한", "क्ष", "🚀", "👨\u200d👩", "0", "12", "²", "<", "<think>", "\u3000", "\u2003x"]]
    return out
