"""The parts of a tokenizer.json that every kind of tokenizer has: added tokens, ids, and what stands around a text.

A tokenizer.json is a list of parts, each of a named type; a part that is not understood is refused by name. What it
says of truncation and padding is how its author called it last, no property of the tokenizer, and is not read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from soberano.core.errors import FileError, UnsupportedModel
from soberano.text.vocab import Kind, Vocab, believed, framed, of_tokens

HOLES = 1024
"""Ids without a token that are believed; some files leave a few free."""

NAME = "tokenizer.json"


@dataclass(frozen=True)
class Added:
    """A token that is found in a text before anything else is done to it."""

    text: str
    id: int
    special: bool
    normalized: bool  # found in the normalized text
    single_word: bool
    lstrip: bool  # takes the white space before it along
    rstrip: bool

    @property
    def plain(self) -> bool:
        """Whether it is found wherever it is spelt."""
        return not (self.normalized or self.single_word or self.lstrip or self.rstrip)


def added_tokens(file: Mapping[str, Any]) -> list[Added]:
    """The added tokens. Of special ones only the spelling counts: where they are parsed, white space stays as it is."""
    found = []
    for token in get(file, "added_tokens", list, []):
        flags = {name: get(token, name, bool, False) for name in ("normalized", "single_word", "lstrip", "rstrip")}
        text = get(token, "content", str)
        if not text:
            raise FileError(f"{NAME} adds a token that is spelt with no letter; get it again")
        found.append(Added(text, get(token, "id", int), get(token, "special", bool), **flags))
    return found


def vocabulary(spellings: Mapping[str, Any], added: list[Added]) -> Vocab:
    """The vocabulary of a model's tokens and those that are added. Raises FileError where ids or spellings clash."""
    whole = dict(spellings)
    for token in added:
        if whole.setdefault(token.text, token.id) != token.id:
            raise FileError(
                f"{NAME} gives the token {token.text[:40]!r} two ids, {short(whole[token.text])} and {token.id}"
            )
    special = {token.id for token in added if token.special}
    user = {token.id for token in added if not token.special}
    tokens, holes = _in_order(whole)
    return of_tokens(tokens, dict.fromkeys(user, Kind.USER_DEFINED) | dict.fromkeys(special, Kind.CONTROL) | holes)


def _in_order(spellings: Mapping[str, Any]) -> tuple[list[str], dict[int, Kind]]:
    """(the tokens by id, the ids that have none). Raises FileError for an id that is no such thing, or there twice."""
    size = max((i for i in spellings.values() if type(i) is int), default=-1) + 1
    most = len(believed(list(spellings), NAME)) + HOLES
    tokens: list[str | None] = [None] * min(size, most)
    for text, i in spellings.items():
        if type(i) is not int or not 0 <= i < len(tokens) or tokens[i] is not None:
            raise FileError(
                f"{NAME} gives the token {text[:40]!r} the id {short(i)}; the ids of {len(spellings)} tokens must be "
                f"from 0 to {most - 1}, each once"
            )
        tokens[i] = text
    holes = {i: Kind.UNUSED for i, token in enumerate(tokens) if token is None}
    return [f"[EMPTY_{i}]" if token is None else token for i, token in enumerate(tokens)], holes


def steps(part: Mapping[str, Any] | None, inside: str) -> list[Mapping[str, Any]]:
    """The steps of a part that may be a Sequence, which holds others under the name `inside`."""
    found, waiting = list[Mapping[str, Any]](), [part] if part is not None else []
    while waiting:
        step = waiting.pop()
        if not isinstance(step, dict):
            raise FileError(f"{NAME}: one of the {inside} is {short(step)}, and must be an object; get it again")
        if step.get("type") == "Sequence":
            waiting += reversed(get(step, inside, list))
        else:
            found.append(step)
    return found


Frame = tuple[str | None, str | None]
"""The tokens that stand before and after every text, None for none."""

_ORDERS = (
    ["Sequence"],
    ["SpecialToken", "Sequence"],
    ["Sequence", "SpecialToken"],
    ["SpecialToken", "Sequence", "SpecialToken"],
)


def frame(part: Mapping[str, Any] | None) -> Frame:
    """What a post-processor puts around a text. Raises UnsupportedModel for one that does more."""
    around = [each for each in map(_frame, steps(part, "processors")) if each != (None, None)]
    if len(around) > 1:
        raise UnsupportedModel(f"{NAME}: the post_processor puts tokens around a text twice; only once is known")
    return around[0] if around else (None, None)


def _frame(part: Mapping[str, Any]) -> Frame:
    kind = part.get("type")
    if kind == "ByteLevel":  # which only says where in the text a token was
        return None, None
    if kind in ("BertProcessing", "RobertaProcessing"):
        found = [get(part, name, list) for name in ("cls", "sep")]
        if all(pair and isinstance(pair[0], str) for pair in found):
            return found[0][0], found[1][0]
    if kind == "TemplateProcessing":
        pieces = [next(iter(piece.items())) for piece in get(part, "single", list) if isinstance(piece, dict) and piece]
        names = [name for name, _ in pieces]
        if names in _ORDERS:
            ends = (pieces[0], pieces[-1])
            first, last = (get(piece, "id", str) if name == "SpecialToken" else None for name, piece in ends)
            return first, last
    raise UnsupportedModel(
        f"{NAME}: the post_processor is {short(kind)}, or does more than to put a token before and after a text; only "
        f"that is known"
    )


def in_frame(vocab: Vocab, tokens: Frame) -> Vocab:
    """The vocabulary of texts that stand between these tokens. Raises FileError for one that it has not."""
    begin, end = (None if token is None else id_of(vocab, token) for token in tokens)
    return framed(vocab, begin, end)


def id_of(vocab: Vocab, token: str) -> int:
    """The id of a token that must be there. Raises FileError."""
    if token not in vocab.ids:
        raise FileError(f"the vocabulary has no token {token[:40]!r}, which it needs; get it again")
    return vocab.ids[token]


_REQUIRED: Any = object()


def get(part: Any, name: str, kind: type, default: Any = _REQUIRED) -> Any:
    """part[name] of a type, or the default where it is missing or null. Raises FileError, naming it."""
    value = part.get(name) if isinstance(part, dict) else None
    if value is None and default is not _REQUIRED:
        return default
    if type(value) is not kind:
        raise FileError(f"the tokenizer's {name} is {short(value)}, and must be of type {kind.__name__}; get it again")
    return value


def short(value: object) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
