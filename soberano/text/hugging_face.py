"""Tokenizers as Hugging Face folders describe them: tokenizer.json, or vocab.txt with tokenizer_config.json.

WordPiece so far. A tokenizer.json is a list of parts, each of a named type; a part that is not understood is refused by
name. What it says of truncation and padding is how its author called it last, no property of the tokenizer, and is not
read.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from soberano.core.errors import FileError, UnsupportedModel
from soberano.text.tokenizer import Tokenizer, of_words
from soberano.text.vocab import LONGEST
from soberano.text.wordpiece import CONTINUES, Rules, framed, of_tokens

LONGEST_WORD = 10_000
"""Characters of a word that are compared with tokens; every known file says 100."""


def from_tokenizer_json(file: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer of a tokenizer.json. Raises FileError; UnsupportedModel for other kinds."""
    model = _part(file, "model", "WordPiece")
    if model.get("continuing_subword_prefix") != CONTINUES:
        raise UnsupportedModel(
            f"tokenizer.json: continuing_subword_prefix is {_short(model.get('continuing_subword_prefix'))}; only "
            f"{CONTINUES} is known"
        )
    spellings = _get(model, "vocab", dict)
    added = _get(file, "added_tokens", list, [])
    control, user = set[int](), set[int]()
    for token in added:
        text, i = _get(token, "content", str), _get(token, "id", int)
        if spellings.setdefault(text, i) != i:
            raise FileError(f"tokenizer.json gives the token {text[:40]!r} two ids, {spellings[text]} and {i}")
        special = _get(token, "special", bool)
        if not special and (token.get("normalized") or token.get("single_word")):
            raise UnsupportedModel(
                f"tokenizer.json: the added token {text[:40]!r} is matched in normalized text, or as a single word "
                f"only; that is not supported"
            )
        (control if special else user).add(i)
    tokens = _in_order(spellings)
    vocab = of_tokens(tokens, control, user)
    unknown = _get(model, "unk_token", str)
    if unknown not in vocab.ids:
        raise FileError(f"tokenizer.json: unk_token is {unknown[:40]!r}, which is no token of its vocabulary")
    longest = _get(model, "max_input_chars_per_word", int, 100)
    if not 0 < longest <= LONGEST_WORD:
        raise FileError(f"tokenizer.json: max_input_chars_per_word is {longest}; it must be from 1 to {LONGEST_WORD}")
    _part(file, "pre_tokenizer", "BertPreTokenizer")
    rules = replace(_rules(_part(file, "normalizer", "BertNormalizer")), longest_word=longest)
    begin, end = (_id(vocab.ids, text) for text in _frame(_get(file, "post_processor", dict)))
    return of_words(framed(vocab, begin, end), vocab.ids[unknown], rules)


def from_vocab_txt(text: str, settings: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer of a vocab.txt, a token a line, and the settings of its tokenizer_config.json.

    Raises FileError for tokens that are missing or there twice.
    """
    tokens = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    names = {
        name: _get(settings, f"{name}_token", str, f"[{name.upper()}]") for name in ("cls", "sep", "unk", "pad", "mask")
    }
    ids = {token: i for i, token in enumerate(tokens)}
    begin, end, unknown = (_id(ids, names[name]) for name in ("cls", "sep", "unk"))
    vocab = of_tokens(tokens, {ids[name] for name in names.values() if name in ids}, set())
    lowercase = _get(settings, "do_lower_case", bool, True)
    accents = _get(settings, "strip_accents", bool, None)
    rules = Rules(
        lowercase=lowercase,
        strip_accents=lowercase if accents is None else accents,
        spaced_ideographs=_get(settings, "tokenize_chinese_chars", bool, True),
    )
    return of_words(framed(vocab, begin, end), unknown, rules)


def _rules(part: Mapping[str, Any]) -> Rules:
    lowercase = _get(part, "lowercase", bool)
    accents = _get(part, "strip_accents", bool, None)
    return Rules(
        lowercase=lowercase,
        strip_accents=lowercase if accents is None else accents,
        spaced_ideographs=_get(part, "handle_chinese_chars", bool),
        clean=_get(part, "clean_text", bool),
    )


def _frame(part: Mapping[str, Any]) -> tuple[str, str]:
    """The tokens before and after a text that a post-processor adds."""
    if part.get("type") == "BertProcessing":
        found = [_get(part, name, list) for name in ("cls", "sep")]
        if all(pair and isinstance(pair[0], str) for pair in found):
            return found[0][0], found[1][0]
    if part.get("type") == "TemplateProcessing":
        pieces = [
            next(iter(piece.items())) for piece in _get(part, "single", list) if isinstance(piece, dict) and piece
        ]
        if [kind for kind, _ in pieces] == ["SpecialToken", "Sequence", "SpecialToken"]:
            return _get(pieces[0][1], "id", str), _get(pieces[2][1], "id", str)
    raise UnsupportedModel(
        f"tokenizer.json: the post_processor is {_short(part.get('type'))}, or does not put a text between two tokens; "
        f"only that is known"
    )


def _in_order(spellings: Mapping[str, Any]) -> list[str]:
    """The tokens by id. Raises FileError unless the ids are 0 .. n - 1, each once."""
    tokens: list[str | None] = [None] * len(spellings)
    for text, i in spellings.items():
        if type(i) is not int or not 0 <= i < len(tokens) or tokens[i] is not None:
            raise FileError(
                f"tokenizer.json gives the token {text[:40]!r} the id {_short(i)}; the ids of {len(tokens)} tokens "
                f"must be 0 to {len(tokens) - 1}, each once"
            )
        if len(text) > LONGEST:
            raise FileError(
                f"tokenizer.json holds a token of {len(text)} characters; no more than {LONGEST} is believed"
            )
        tokens[i] = text
    return [token for token in tokens if token is not None]


def _part(file: Mapping[str, Any], name: str, kind: str) -> Mapping[str, Any]:
    part = _get(file, name, dict)
    if part.get("type", kind) != kind:
        raise UnsupportedModel(f"tokenizer.json: the {name} is {_short(part['type'])}; only {kind} is known")
    return part


def _id(ids: Mapping[str, int], token: str) -> int:
    if token not in ids:
        raise FileError(f"the vocabulary has no token {token[:40]!r}, between which a text should stand; get it again")
    return ids[token]


_REQUIRED: Any = object()


def _get(part: Any, name: str, kind: type, default: Any = _REQUIRED) -> Any:
    """part[name] of a type, or the default where it is missing or null. Raises FileError, naming it."""
    value = part.get(name) if isinstance(part, dict) else None
    if value is None and default is not _REQUIRED:
        return default
    if type(value) is not kind:
        raise FileError(f"the tokenizer's {name} is {_short(value)}, and must be of type {kind.__name__}; get it again")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
