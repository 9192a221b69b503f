"""SentencePiece with scores (tokenizer.ggml.model "llama"): text -> characters -> merges, best score first -> ids.

A space is spelt U+2581. Of all neighbours that together are a token, those with the best score are merged, the leftmost
where scores are equal, until none are left; what is no token then is spelt in bytes. The rules are those of llama.cpp
(src/llama-vocab.cpp, llm_tokenizer_spm), whose ids are the ones to reproduce; the idea is that of Kudo and Richardson
2018 (arXiv:1808.06226).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np

from soberano.core.errors import FileError
from soberano.text.vocab import Kind, Vocab, flag, read_vocab, token_id

SPACE = "\u2581"
_DEFAULT_IDS = {"bos": 1, "eos": 2, "unknown": 0}
_PHI3_SPARED = ("<unk>", "<s>", "<|endoftext|>")  # the special tokens of Phi-3 that take no white space along

_REMEMBERED, _WORD = 1 << 16, 64
"""Stretches whose ids are remembered, and the characters that such a stretch may have."""

_PLACE = 32
"""Bits of a place in a text; the rank of a merge stands above them."""


def with_default_ids(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata with the ids that llama.cpp assumes for this kind of vocabulary where a file does not say them."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    size = len(tokens) if isinstance(tokens, list) else 0
    return {f"tokenizer.ggml.{name}_token_id": i for name, i in _DEFAULT_IDS.items() if i < size} | dict(metadata)


def read(metadata: Mapping[str, Any]) -> Vocab:
    """The vocabulary, with what is known of a family by its name alone. Raises FileError naming a key that is wrong."""
    vocab = read_vocab(metadata)
    name = metadata.get("general.name")
    if isinstance(name, str) and re.search("phi-?3", name.lower()):
        spared = {vocab.ids.get(text) for text in _PHI3_SPARED}
        return replace(vocab, greedy=(vocab.control | vocab.user) - spared)
    return vocab


def space_before(metadata: Mapping[str, Any]) -> bool:
    """Whether a space is put before every text, and before what follows a special token."""
    return flag(metadata, "tokenizer.ggml.add_space_prefix") is not False


def piece(token: str, kind: int) -> bytes:
    """The bytes that a token of this spelling and kind (other than control) adds to a text; unused ones add none.

    >>> piece("\u2581fox", 1), piece("<0x0A>", 6)
    (b' fox', b'\\n')
    """
    if kind in (Kind.UNUSED, Kind.UNDEFINED):
        return b""
    if kind == Kind.BYTE and re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return (token if kind == Kind.USER_DEFINED else token.replace(SPACE, " ")).encode()


def build(metadata: Mapping[str, Any], vocab: Vocab) -> Callable[[str], list[int]]:
    """Make the function from plain text (without special tokens) to ids.

    Raises FileError for scores that are malformed or no numbers.
    """
    merge = _merging(vocab, _ranks(metadata, vocab), _speller(metadata, vocab))
    remembered = lru_cache(_REMEMBERED)(merge)
    stretches = _stretches(vocab.tokens)
    before = SPACE if space_before(metadata) else ""

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        for stretch in stretches(before + text.replace(" ", SPACE)):
            ids += remembered(stretch) if len(stretch) <= _WORD else merge(stretch)
        return ids

    return encode


def _merging(vocab: Vocab, ranks: list[int], spell: Callable[[str], list[int]]) -> Callable[[str], tuple[int, ...]]:
    """The function from a stretch of text to its ids. `ranks` says which merge is first, -1 which is none."""
    token = vocab.ids.get

    def merge(text: str) -> tuple[int, ...]:
        # A symbol is a piece of the text, named by where it starts: ends[start] is where the next one starts, or -1
        # for a symbol that was merged into the one before it.
        size = len(text)
        ends, befores = list(range(1, size + 1)), list(range(-1, size - 1))

        def key(left: int, stop: int) -> int:
            """The place in the queue of a merge that makes text[left:stop] a token, -1 if that is none."""
            i = token(text[left:stop])
            return -1 if i is None or ranks[i] < 0 else ranks[i] << _PLACE | left

        queue = [found for left in range(size - 1) if (found := key(left, left + 2)) >= 0]
        heapify(queue)
        while queue:
            first = heappop(queue)
            left = first & (1 << _PLACE) - 1
            middle = ends[left]
            if middle < 0 or middle == size or key(left, ends[middle]) != first:
                continue  # one of the two was merged with another neighbour since
            stop = ends[left] = ends[middle]
            ends[middle] = -1
            if stop < size:
                befores[stop] = left
                if (found := key(left, ends[stop])) >= 0:
                    heappush(queue, found)
            if (before := befores[left]) >= 0 and (found := key(before, stop)) >= 0:
                heappush(queue, found)

        ids: list[int] = []
        start = 0
        while start < size:
            symbol, start = text[start : ends[start]], ends[start]
            i = token(symbol)
            ids += spell(symbol) if i is None or ranks[i] < 0 else (i,)
        return tuple(ids)

    return merge


def _speller(metadata: Mapping[str, Any], vocab: Vocab) -> Callable[[str], list[int]]:
    """The function from a character that is no token to the tokens of its bytes, or to the unknown one."""
    of_bytes = [vocab.ids.get(f"<0x{byte:02X}>", vocab.ids.get(chr(byte), -1)) for byte in range(0x80)]
    of_bytes += [vocab.ids.get(f"<0x{byte:02X}>", -1) for byte in range(0x80, 0x100)]
    unknown = token_id(metadata, "unknown", len(vocab.tokens))

    def spell(character: str) -> list[int]:
        ids = [of_bytes[byte] for byte in character.encode()]
        return ids if -1 not in ids else [] if unknown is None else [unknown]

    return spell


def _ranks(metadata: Mapping[str, Any], vocab: Vocab) -> list[int]:
    """The rank of each token, 0 for the best score, alike where scores are; -1 for control tokens.

    Control tokens take no part in merges, so that no text whatever is encoded as one.
    """
    key = "tokenizer.ggml.scores"
    values = metadata.get(key)
    if values is None:
        values = [0.0] * len(vocab.tokens)  # as llama.cpp: then only places matter
    if not isinstance(values, list) or set(map(type, values)) - {int, float}:
        raise FileError(f"the metadata key {key!r} is not a list of numbers; the file is damaged")
    if len(values) != len(vocab.tokens):
        raise FileError(
            f"{key} has {len(values)} entries, but tokenizer.ggml.tokens has {len(vocab.tokens)}; they must be as long "
            f"as each other"
        )
    scores = np.array(values, np.float32)
    unknown = np.flatnonzero(np.isnan(scores))
    if unknown.size:
        raise FileError(f"{key} holds {values[int(unknown[0])]!r}, which is no number to compare with")
    ranks = np.unique(-scores, return_inverse=True)[1].reshape(-1)
    ranks[list(vocab.control)] = -1
    return ranks.tolist()


_TABLE = 1 << 20


def _stretches(tokens: list[str]) -> Callable[[str], Iterator[str]]:
    """The function that cuts a text where no merge can reach across: between two characters that no token has so.

    Neighbours are looked up by a hash: where two collide a stretch is longer than it need be, and its ids are the same.
    """
    together = np.zeros(_TABLE, bool)
    together[_neighbours("\0".join(tokens))] = True

    def stretches(text: str) -> Iterator[str]:
        start = 0
        for seam in np.flatnonzero(~together[_neighbours(text)]).tolist():
            yield text[start : seam + 1]
            start = seam + 1
        if start < len(text):
            yield text[start:]

    return stretches


def _neighbours(text: str) -> np.ndarray:
    """A number below _TABLE for each character but the last and the one after it."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    return (codes[:-1] * np.uint32(65_599) + codes[1:]) % np.uint32(_TABLE)
