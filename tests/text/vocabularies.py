"""Tokenizers for tests that need no model."""

from typing import Any

from soberano.formats.gguf import Typed
from soberano.text.tokenizer import Tokenizer, from_metadata
from tests.tiny import tokenizer_metadata


def tiny_metadata(**changes: Any) -> dict[str, Any]:
    """The metadata of the tiny model's tokenizer, with keys (under tokenizer.ggml.) changed, or dropped where None."""
    metadata = {k: v.value if isinstance(v, Typed) else v for k, v in tokenizer_metadata().items()}
    for name, value in changes.items():
        metadata[f"tokenizer.ggml.{name}"] = value
    return {k: v for k, v in metadata.items() if v is not None}


def tiny() -> Tokenizer:
    """The tiny model's tokenizer: every byte is a token, 3 control tokens."""
    return from_metadata(tiny_metadata())


def with_tokens(*rows: tuple[str, int], **changes: Any) -> Tokenizer:
    """The tiny tokenizer with more tokens, (spelling, kind) each."""
    metadata = tiny_metadata(**changes)
    metadata["tokenizer.ggml.tokens"] += [spelling for spelling, _ in rows]
    metadata["tokenizer.ggml.token_type"] += [kind for _, kind in rows]
    return from_metadata(metadata)


def added(text: str, token: int, *, special: bool = False, **changes: bool) -> dict[str, Any]:
    """An added token of a tokenizer.json."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": text, "special": special, **flags, **changes}


def bytes_json(*more: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The tokenizer.json of the tiny model's byte-level BPE, with more added tokens and with parts changed."""
    metadata = tiny_metadata()
    tokens = metadata["tokenizer.ggml.tokens"]
    special = [added(text, i, special=True) for i, text in enumerate(tokens[:3])]
    return {
        "version": "1.0",
        "added_tokens": [*special, *more],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": metadata["tokenizer.ggml.merges"],
        },
        **changes,
    }


def wordpieces() -> list[str]:
    """A WordPiece vocabulary that spells Latin and Cyrillic letter by letter, with a few words and endings."""
    latin, cyrillic = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLM0123456789", [chr(c) for c in range(0x430, 0x450)]
    letters = [*latin, *cyrillic]
    marks = [*"éïüß한あ", "\u0301", "\u0308", "\u0627", "\u0644"]
    words = ["the", "quick", "brown", "fox", "hello", "world", "naive", "cafe", "Hello", *"你好世界😀", "編程"]
    endings = ["ing", "ed", "er", "ox", "ick", *letters, *"你好éß", "\u0301"]
    signs = [*"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~。、—"]
    spelt = [*letters, *marks, *words, *signs, *(f"##{ending}" for ending in endings)]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *spelt]


def wordpiece_metadata(tokens: list[str], **changes: Any) -> dict[str, Any]:
    """What llama.cpp's converter writes: a word begins with U+2581, what continues one is bare."""
    control = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    spelt = [
        token if token in control else token[2:] if token.startswith("##") else f"\u2581{token}" for token in tokens
    ]
    named = {"unknown": "[UNK]", "seperator": "[SEP]", "padding": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    metadata: dict[str, Any] = {
        "model": "bert",
        "pre": "bert-bge",
        "tokens": spelt,
        "token_type": [3 if token in control else 1 for token in tokens],
        "token_type_count": 2,
        **{f"{name}_token_id": tokens.index(text) for name, text in named.items() if text in tokens},
        **changes,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in metadata.items() if value is not None}


def wordpiece_json(tokens: list[str], **changes: Any) -> dict[str, Any]:
    """The tokenizer.json of a WordPiece vocabulary, with parts changed."""
    special = [text for text in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if text in tokens]
    begin, text, end = {"id": "[CLS]", "type_id": 0}, {"id": "A", "type_id": 0}, {"id": "[SEP]", "type_id": 0}
    frame = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": begin}, {"Sequence": text}, {"SpecialToken": end}],
        "pair": [
            {"SpecialToken": begin},
            {"Sequence": text},
            {"SpecialToken": end},
            {"Sequence": {"id": "B", "type_id": 1}},
            {"SpecialToken": end | {"type_id": 1}},
        ],
        "special_tokens": {
            token: {"id": token, "ids": [tokens.index(token)], "tokens": [token]}
            for token in ("[CLS]", "[SEP]")
            if token in tokens
        },
    }
    plain = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": {"max_length": 8, "strategy": "LongestFirst", "stride": 0},  # how it was called last: not read
        "padding": None,
        "added_tokens": [{"id": tokens.index(text), "content": text} | plain for text in special],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": frame,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: i for i, token in enumerate(tokens)},
        },
        **changes,
    }
