"""Tokenizers as Hugging Face folders describe them: tokenizer.json, or vocab.txt with tokenizer_config.json."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from soberano.core.errors import FileError, UnsupportedModel
from soberano.text import hugging_face_bpe
from soberano.text.hugging_face_parts import NAME, added_tokens, frame, get, id_of, in_frame, short, vocabulary
from soberano.text.tokenizer import Tokenizer, of_words
from soberano.text.vocab import Kind, framed, of_tokens
from soberano.text.wordpiece import CONTINUES, Rules

LONGEST_WORD = 10_000
"""Characters of a word that are compared with tokens; every known file says 100."""


def from_tokenizer_json(file: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer of a tokenizer.json. Raises FileError; UnsupportedModel for what is not known here."""
    model = get(file, "model", dict)
    kind = model.get("type", "BPE" if "merges" in model else "WordPiece")  # files of old do not say it
    if not isinstance(kind, str) or kind not in _KINDS:
        raise UnsupportedModel(f"{NAME}: the model is {short(kind)}; only {' and '.join(_KINDS)} are known")
    return _KINDS[kind](file)


def _word_pieces(file: Mapping[str, Any]) -> Tokenizer:
    model = get(file, "model", dict)
    if model.get("continuing_subword_prefix") != CONTINUES:
        raise UnsupportedModel(
            f"{NAME}: continuing_subword_prefix is {short(model.get('continuing_subword_prefix'))}; only "
            f"{CONTINUES} is known"
        )
    added = added_tokens(file)
    for token in added:
        if not token.special and not token.plain:
            raise UnsupportedModel(
                f"{NAME}: the added token {token.text[:40]!r} is matched in normalized text, as a single word only, or "
                f"with white space; that is not supported"
            )
    vocab = vocabulary(get(model, "vocab", dict), added)
    unknown = id_of(vocab, get(model, "unk_token", str))
    longest = get(model, "max_input_chars_per_word", int, 100)
    if not 0 < longest <= LONGEST_WORD:
        raise FileError(f"{NAME}: max_input_chars_per_word is {longest}; it must be from 1 to {LONGEST_WORD}")
    _of_kind(file, "pre_tokenizer", "BertPreTokenizer")
    rules = replace(_rules(_of_kind(file, "normalizer", "BertNormalizer")), longest_word=longest)
    around = frame(get(file, "post_processor", dict))
    if None in around:
        kind = short(file["post_processor"].get("type"))
        raise UnsupportedModel(f"{NAME}: the post_processor, {kind}, does not put a text between two tokens")
    return of_words(in_frame(vocab, around), unknown, rules)


def from_vocab_txt(text: str, settings: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer of a vocab.txt, a token a line, and the settings of its tokenizer_config.json.

    Raises FileError for tokens that are missing or there twice.
    """
    tokens = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    names = {
        name: get(settings, f"{name}_token", str, f"[{name.upper()}]") for name in ("cls", "sep", "unk", "pad", "mask")
    }
    special = set(names.values())
    vocab = of_tokens(tokens, {i: Kind.CONTROL for i, token in enumerate(tokens) if token in special})
    begin, end, unknown = (id_of(vocab, names[name]) for name in ("cls", "sep", "unk"))
    lowercase = get(settings, "do_lower_case", bool, True)
    accents = get(settings, "strip_accents", bool, None)
    rules = Rules(
        lowercase=lowercase,
        strip_accents=lowercase if accents is None else accents,
        spaced_ideographs=get(settings, "tokenize_chinese_chars", bool, True),
    )
    return of_words(framed(vocab, begin, end), unknown, rules)


def _rules(part: Mapping[str, Any]) -> Rules:
    lowercase = get(part, "lowercase", bool)
    accents = get(part, "strip_accents", bool, None)
    return Rules(
        lowercase=lowercase,
        strip_accents=lowercase if accents is None else accents,
        spaced_ideographs=get(part, "handle_chinese_chars", bool),
        clean=get(part, "clean_text", bool),
    )


def _of_kind(file: Mapping[str, Any], name: str, kind: str) -> Mapping[str, Any]:
    part: Mapping[str, Any] = get(file, name, dict)
    if part.get("type", kind) != kind:
        raise UnsupportedModel(f"{NAME}: the {name} is {short(part['type'])}; only {kind} is known")
    return part


_KINDS: Mapping[str, Callable[[Mapping[str, Any]], Tokenizer]] = {
    "WordPiece": _word_pieces,
    "BPE": hugging_face_bpe.build,
}
