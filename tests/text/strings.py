# ruff: noqa: RUF001  the texts are full of look-alikes on purpose
"""Texts on which tokenizers differ, and a vocabulary that shows every cut between words."""

import zlib
from itertools import product
from typing import Any

from tests.tiny import byte_spelling

WORDS = [
    "",
    " ",
    "a",
    "Hello world",
    " Hello",
    "Hello  world",
    "The quick brown fox jumps over the lazy dog.",
    "don't can't I'll we've they're I'm he'd it's",
    "DON'T CAN'T I'LL WE'VE THEY'RE I'M HE'D IT'S",
    "Don'T we'Ve 'tis 'S 'll ''s",
    "camelCase HTMLParser snake_case kebab-case SCREAMING_CASE",
    "aB fooBar abCd XmlHttpRequest iOS getID ABc AbC aBcDeFgHiJ",
    "naïve café Ångström",
    "nai\u0308ve cafe\u0301 a\u0301\u0302\u0303",
    "straße STRASSE \u1e9e \u017f'\u017f K",
    "ǅ ʰ ª º ß \u0131 İ",
]
SPACES = [
    "  ",
    "   ",
    " " * 7,
    " " * 64,
    "a  b   c    d",
    "\t",
    "\t\t\tx",
    " \t x",
    "\n",
    "\n\n",
    "\n\n\n\nx",
    " \n",
    "\n ",
    " \n \n x",
    "x \n",
    "x\n ",
    "\r\n",
    "\r",
    "a\r\nb\r\n\r\nc",
    "a \r\n b",
    "\x0b\x0c",
    "\u00a0",
    "a\u00a0b",
    "\u00a0\u00a0x",
    "\u3000あ\u3000",
    "\u2003\u2003x",
    "\u2028\u2029x",
    "x\u0085y",
    "\u200bx\u200b",
    "\ufeffx",
    "x    1    y",
    "  leading",
    "trailing  ",
    "a \u00a0 b",
    "\x1c\x1d\x1e\x1f",
]
NUMBERS = [
    "0",
    "12",
    "123",
    "1234",
    "1234567890",
    " 1 22 333 4444",
    "3.14159",
    "1,234,567.89",
    "0x1F 0b101 1e-9",
    "2026-11-21T20:45:00Z",
    "+44 20 7946 0958",
    "a1b2c3",
    "١٢٣٤٥",
    "०१२३",
    "½ ⅔ ² Ⅷ ①",
    "10%",
    "$5 €6 £7 ¥8",
]
SIGNS = [
    "!",
    "!!!",
    "...",
    "…",
    " ...",
    "hello, world; (yes) [no] {maybe}",
    "a+b=c-d*e/f^g|h~i<j>k",
    "`code` ```block```",
    "@user #tag &amp; \\n",
    "\"quoted\" 'single' “curly” ‘marks’",
    "—–‒‐ − ×",
    "→←↑↓ ∑∏∫ ≤≥≠",
    "™®©",
    "。，、！？「」",
    "؟ ، ؛",
    "._.",
    " ?!",
    "!\n/\n/x",
    "\n!",
    "!\n\n",
    "!\r\n!",
    "#include <stdio.h>\n",
]
SCRIPTS = [
    "Привет, мир!",
    "Ελληνικά γράμματα",
    "你好，世界",
    "我喜欢编程123次",
    "日本語のテキスト、カタカナ",
    "ひらがなカタカナ漢字",
    "한국어 문장입니다",
    "한",
    "العربية من اليمين",
    "שָׁלוֹם עוֹלָם",
    "हिन्दी में लिखा",
    "ภาษาไทยไม่มีช่องว่าง",
    "Tiếng Việt có dấu",
    "ქართული Հայերեն አማርኛ",
    "ᏣᎳᎩ ᐃᓄᒃᑎᑐᑦ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛",
    "𠀀𠀁𪜀",
    "龥龦 ࠀ ퟿",
    "Zażółć gęślą jaźń",
    "İstanbul'da",
]
PICTURES = [
    "😀",
    "😀😃😄",
    "👍🏽",
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈 🏴‍☠️",
    "🇪🇸🇩🇪",
    "a😀b",
    " 😀 ",
    "❤️ ☎ ☺︎",
    "\U0001f9d1\u200d\U0001f4bb codes",
    "\u0e01\u0e33\u0e4a",
    "\U000e0067\U000e007f",
]
CONTROLS = [
    "\x00",
    "a\x00b",
    "\x01\x02\x03",
    "\x7f",
    "\x1b[31mred\x1b[0m",
    "\x80\x9f",
    "\ufffd",
    "\ufdd0\uffff",
    "\ue000",
    "\u202eabc\u202c",
    "\u0378",
    "\U0010ffff",
]
CODE = [
    "def f(x):\n    return x + 1\n",
    "if (a && b) {\n\treturn !c;\n}\n",
    'print("Hello, \\"World\\"")\n',
    "for i in range(10):\n        pass\n\n\n",
    "SELECT * FROM t WHERE a='b';",
    '<div class="x">\n  <p>Hi</p>\n</div>',
    "https://example.org/a/b?c=d&e=%20f#g",
    "C:\\Users\\name\\file.txt",
    "git commit -m 'x' && git push",
    '{"key": [1, 2.5, null, true], "k2": {"a": "b"}}',
    "\\frac{1}{2} \\alpha_{i}^{2}",
    "import numpy as np\r\nx = np.zeros((3, 4))\r\n",
    "a->b::c<d>(e)[f]",
    "##    Title\n\n* one\n* two\n\n> quote",
    "x = 0xFF_FF # comment\n",
]
SPECIALS = [
    "<|im_start|>user\nHi<|im_end|>\n",
    "<|im_end|>",
    "a<|im_end|>b",
    "<|im_end|><|im_end|>",
    "<|im_end",
    "<|im_<|im_end|>end|>",
    " <|endoftext|> ",
    "<|endoftext|>\n\n<|im_start|>",
    "<repo_name>x<file_sep>y",
    "<|IM_END|>",
    "<|im_end |>",
    "<empty_output>",
]
LONG = [
    "a" * 300,
    "ab" * 150,
    "1" * 200,
    "!" * 100,
    "\n" * 50,
    " \n" * 40,
    "The cat sat on the mat. " * 20,
    "你好" * 60,
    "😀" * 30,
    "word" * 64 + " " + "x" * 64,
]
HARD = [*WORDS, *SPACES, *NUMBERS, *SIGNS, *SCRIPTS, *PICTURES, *CONTROLS, *CODE, *SPECIALS, *LONG]
"""About 150 texts for the real vocabulary."""

CUTS = [*WORDS, *SPACES, *NUMBERS, *SIGNS, *SCRIPTS, *CODE[:8]]
"""Texts for the ways to split text, whatever the vocabulary."""


def pair_metadata(pre: str) -> dict[str, object]:
    """A vocabulary in which any two neighbouring bytes of common text merge: how a text is cut shows in its ids.

    Without cuts, bytes would pair up from the left; a cut makes the pairing begin anew. Ranks are
    mixed, so that both sides of a cut matter.
    """
    alphabet = byte_spelling()
    seen = sorted({byte for text in CUTS for byte in text.encode()})
    pairs = sorted(product(seen, seen), key=lambda pair: ((7 * pair[0] + pair[1]) % 5, pair))
    spelt = [(alphabet[a], alphabet[b]) for a, b in pairs]
    tokens = ["<|end|>", *alphabet, *(a + b for a, b in spelt)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] + [1] * (len(tokens) - 1),
        "tokenizer.ggml.merges": [f"{a} {b}" for a, b in spelt],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
    }


SCORED: dict[str, dict[str, Any]] = {
    "spaced": {},
    "bare": {"add_space_prefix": False, "remove_extra_whitespaces": True},
    "phi-3": {"name": "My Phi-3 mini"},
}
"""What is changed of scored_metadata where llama.cpp made ids."""


def scored_metadata(name: str = "scored", **changes: Any) -> dict[str, Any]:
    """A SentencePiece vocabulary of letters, pairs, threes and words in which many merges tie, as whole metadata.

    Some letters are missing, so that they are spelt in bytes. Scores are few, so that places decide, and have nothing
    to do with lengths, so that what is merged first is not always what is longest.
    """
    texts = [text.replace(" ", "\u2581") for text in CUTS]
    parts = {text[i : i + size] for text in texts for size in (1, 2, 3) for i in range(len(text) - size + 1)}
    parts |= {word for text in texts for word in text.replace("\u2581", " \u2581").split(" ")[:2]}
    mixed = {part: zlib.crc32(part.encode()) for part in sorted(parts - {""})}
    normal = [part for part, number in mixed.items() if part.isascii() or number % 4]
    rows = [
        ("<unk>", 2, 0),
        *(("<s>", 3, 0), ("</s>", 3, 0), ("<|endoftext|>", 3, 0), ("<|im_end|>", 3, 0), ("<im", 3, 0)),
        *((f"<0x{byte:02X}>", 6, 0) for byte in range(256)),
        *(("<tool>", 4, -1000), ("  ", 4, -1000), ("\n\n\n", 4, -1000), ("[gone]", 5, -1000)),
        *((part, 1, -(mixed[part] % 37)) for part in normal if part != "\n\n\n"),
    ]
    metadata: dict[str, Any] = {
        "model": "llama",
        "tokens": [spelling for spelling, _, _ in rows],
        "token_type": [kind for _, kind, _ in rows],
        "scores": [float(score) for _, _, score in rows],
        **changes,
    }
    named = {f"tokenizer.ggml.{key}": value for key, value in metadata.items() if value is not None}
    return {"general.name": name, **named}
