# ruff: noqa: RUF001  patterns name look-alikes on purpose
"""Byte-level BPE from a tokenizer.json: the file's own steps, built one by one from those that are known.

The engine is the library that such files are written for. A file comes from outside, so two things differ: special
tokens are no part of the engine, which keeps what users write from becoming one; and a pattern that cuts text into
words must be one of those below, for a hostile one takes any amount of time.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers

from soberano.core.errors import FileError, UnsupportedModel
from soberano.text import bpe
from soberano.text.hugging_face_parts import NAME, added_tokens, frame, get, id_of, in_frame, short, steps, vocabulary
from soberano.text.pretokenize import GPT2
from soberano.text.tokenizer import Tokenizer

_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

PATTERNS = frozenset(
    (
        *GPT2,
        # Llama 3, Qwen 2 and 3, Qwen 3.5, MiniCPM 5.
        rf"{_CONTRACTION}|{_BEFORE}\p{{L}}+|\p{{N}}{{1,3}}|{_SIGNS}|{_LINES}",
        rf"{_CONTRACTION}|{_BEFORE}\p{{L}}+|\p{{N}}|{_SIGNS}|{_LINES}",
        rf"{_CONTRACTION}|{_BEFORE}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_LINES}",
        rf"{_CONTRACTION}|{_BEFORE}\p{{L}}+|\p{{N}}+|{_SIGNS}|{_LINES}",
        # GPT-4o and Tekken.
        rf"{_BEFORE}{_UPPER}*{_LOWER}+{_CONTRACTION}?|{_BEFORE}{_UPPER}+{_LOWER}*{_CONTRACTION}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES}",
        rf"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_LINES}",
        # DeepSeek: Coder, then V3.
        *(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"),
        "[一-龥\u3040-ゟ゠-ヿ]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
        "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
        # Digits.
        *(r"\p{N}{1,3}", r"\p{N}", "[0-9][0-9][0-9]", r"\d"),
    )
)
"""Every pattern that is known, in the spelling of the files. None of them tries a text in more than a few ways."""

_BEHAVIOURS = {
    "Isolated": "isolated",
    "Removed": "removed",
    "Contiguous": "contiguous",
    "MergedWithPrevious": "merged_with_previous",
    "MergedWithNext": "merged_with_next",
}

_NORMALIZERS: Mapping[str, Callable[[], normalizers.Normalizer]] = {
    "NFC": normalizers.NFC,
    "NFD": normalizers.NFD,
    "NFKC": normalizers.NFKC,
    "NFKD": normalizers.NFKD,
    "Lowercase": normalizers.Lowercase,
    "StripAccents": normalizers.StripAccents,
}


def build(file: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer of a tokenizer.json whose model is BPE. Raises FileError, UnsupportedModel."""
    model = get(file, "model", dict)
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            raise UnsupportedModel(
                f"{NAME}: the {name} of the model is {short(model[name])}; only without one is known"
            )
    added = added_tokens(file)
    vocab = vocabulary(get(model, "vocab", dict), added)
    unknown = get(model, "unk_token", str, None)
    if unknown is not None:
        id_of(vocab, unknown)
    # Special tokens are left out, so that no text whatever is encoded as one.
    ids = {text: i for text, i in vocab.ids.items() if i not in vocab.control or text == unknown}
    engine = bpe.engine_of(
        ids, _merges(model), f"{NAME}: merges", whole_words=get(model, "ignore_merges", bool, False), unknown=unknown
    )
    chain = normalizer(file)
    if chain is not None:
        engine.normalizer = chain
    engine.pre_tokenizer = splitter(file)
    engine.add_tokens(
        [
            AddedToken(
                t.text,
                single_word=t.single_word,
                lstrip=t.lstrip,
                rstrip=t.rstrip,
                normalized=t.normalized,
                special=False,
            )
            for t in added
            if not t.special
        ]
    )
    vocab = in_frame(vocab, frame(get(file, "post_processor", dict, None)))
    # The engine finds the user-defined tokens, some of them in normalized text.
    return Tokenizer(replace(vocab, user=frozenset()), bpe.encoder(engine), bpe.piece, add_bos=vocab.bos is not None)


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    merges = []
    for merge in get(model, "merges", list):
        if isinstance(merge, str):
            merges.append(bpe.pair(merge, f"{NAME}: merges"))
        elif isinstance(merge, list) and len(merge) == 2 and all(isinstance(half, str) for half in merge):
            merges.append((merge[0], merge[1]))
        else:
            raise FileError(f"{NAME}: one of the merges is {short(merge)}; a merge is two tokens; get it again")
    return merges


def normalizer(file: Mapping[str, Any]) -> normalizers.Normalizer | None:
    """The normalizer of a file, None where it has none. Raises UnsupportedModel for a step that is not known."""
    chain = []
    for step in steps(get(file, "normalizer", dict, None), "normalizers"):
        kind = step.get("type")
        if not isinstance(kind, str) or kind not in _NORMALIZERS:
            raise UnsupportedModel(f"{NAME}: the normalizer is {short(kind)}; known are {', '.join(_NORMALIZERS)}")
        chain.append(_NORMALIZERS[kind]())
    return normalizers.Sequence(chain) if chain else None


def splitter(file: Mapping[str, Any]) -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer of a file. Raises UnsupportedModel for a step that is not known, or if none makes bytes."""
    parts = steps(get(file, "pre_tokenizer", dict, None), "pretokenizers")
    if [part.get("type") for part in parts].count("ByteLevel") != 1:
        raise UnsupportedModel(
            f"{NAME}: the pre_tokenizer has no ByteLevel, or two; of BPE only byte-level BPE is known"
        )
    return pre_tokenizers.Sequence([_step(part) for part in parts])


def _step(part: Mapping[str, Any]) -> pre_tokenizers.PreTokenizer:
    kind = part.get("type")
    if kind == "ByteLevel":
        return pre_tokenizers.ByteLevel(
            add_prefix_space=get(part, "add_prefix_space", bool), use_regex=get(part, "use_regex", bool, True)
        )
    if kind == "Digits":
        return pre_tokenizers.Digits(individual_digits=get(part, "individual_digits", bool))
    if kind == "Punctuation":
        return pre_tokenizers.Punctuation(_behaviour(part, "Isolated"))
    if kind == "Split":
        pattern = get(part, "pattern", dict).get("Regex")
        if not isinstance(pattern, str) or pattern not in PATTERNS:
            raise UnsupportedModel(
                f"{NAME}: the pre_tokenizer splits at the pattern {short(pattern)}, which is not among those known here"
            )
        return pre_tokenizers.Split(Regex(pattern), _behaviour(part, None), invert=get(part, "invert", bool, False))
    raise UnsupportedModel(
        f"{NAME}: the pre_tokenizer is {short(kind)}; known are ByteLevel, Digits, Punctuation, Split and Sequence"
    )


def _behaviour(part: Mapping[str, Any], default: str | None) -> str:
    named = get(part, "behavior", str, default) if default else get(part, "behavior", str)
    if named not in _BEHAVIOURS:
        raise UnsupportedModel(f"{NAME}: the behavior is {short(named)}; known are {', '.join(_BEHAVIOURS)}")
    return _BEHAVIOURS[named]
