"""Byte-level byte-pair encoding (tokenizer.ggml.model "gpt2"): text -> words -> bytes -> merges -> ids.

The engine is the `tokenizers` library, built from the file's tokens and merges; this file adds what makes its ids those
of llama.cpp: vocabularies that lack a byte, words that are tokens, merges said twice.
Sources: Sennrich et al. 2016 (arXiv:1508.07909); GPT-2's byte spelling; llama.cpp src/llama-vocab.cpp.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from tokenizers import Tokenizer as Engine
from tokenizers.models import BPE

from soberano.core.errors import FileError
from soberano.text.pretokenize import split_named, splitter
from soberano.text.vocab import Kind, Vocab, strings

_MERGES = "tokenizer.ggml.merges"

LONG = 4096
"""Characters from which a text goes to the engine as a batch of one: only for batches does it let go of Python's lock,
and a long text would hold up every other thread for a second."""


def byte_spelling() -> list[str]:
    """The character that stands for each byte: itself where it prints, else the next free one from U+0100 on.

    >>> byte_spelling()[0x20], byte_spelling()[0x41]
    ('Ġ', 'A')
    """
    prints = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = iter(range(0x100, 0x200))
    return [chr(byte if byte in prints else next(hidden)) for byte in range(256)]


_BYTES = {char: byte for byte, char in enumerate(byte_spelling())}


def piece(token: str, kind: int) -> bytes:
    """The bytes that a token of this spelling and kind (other than control) adds to a text; unused ones add none."""
    if kind in (Kind.UNUSED, Kind.UNDEFINED):
        return b""
    if kind == Kind.BYTE and re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
        return bytes([int(token[3:5], 16)])
    if kind != Kind.USER_DEFINED:
        # A character that spells no byte: some converter added this token in plain text.
        with suppress(KeyError):
            return bytes([_BYTES[char] for char in token])
    return token.encode()


def build(metadata: Mapping[str, Any], vocab: Vocab) -> Callable[[str], list[int]]:
    """Make the function from plain text (without special tokens) to ids.

    Raises FileError for merges that are missing, malformed or name tokens that are not there, UnsupportedModel for a
    way to split text that is not known.
    """
    split = split_named(pre_name(metadata))
    # Control tokens are left out, so that no text whatever is encoded as one.
    ids = dict(vocab.ids)
    for i in vocab.control:
        if vocab.kinds[i] in (Kind.CONTROL, Kind.UNKNOWN):  # not those that are control by their spelling alone
            del ids[vocab.tokens[i]]
    # A byte without a token is dropped, but must not bring its neighbours together: it gets an id past the end.
    size = len(vocab.tokens)
    absent = [char for char in byte_spelling() if char not in ids]
    ids |= {char: size + i for i, char in enumerate(absent)}
    merges = dict.fromkeys(pair(merge, _MERGES) for merge in strings(metadata, _MERGES))
    engine = engine_of(ids, list(merges), _MERGES, whole_words=split.whole_words)
    engine.pre_tokenizer = splitter(split.patterns)
    encode = encoder(engine)
    return (lambda text: [i for i in encode(text) if i < size]) if absent else encode


def engine_of(
    ids: Mapping[str, int], merges: list[tuple[str, str]], where: str, *, whole_words: bool, unknown: str | None = None
) -> Engine:
    """The library's engine for a vocabulary.

    Raises FileError, naming where they stand, for merges that name or make tokens that are not there.
    """
    try:
        return Engine(BPE(dict(ids), merges, ignore_merges=whole_words, unk_token=unknown))
    except Exception as why:  # the library raises plain Exception for them
        raise FileError(f"{where} does not fit the tokens of the vocabulary: {str(why)[:200]}") from None


def encoder(engine: Engine) -> Callable[[str], list[int]]:
    """The function from text to ids; other threads can work while it encodes a long one."""

    def encode(text: str) -> list[int]:
        if len(text) < LONG:
            return engine.encode(text, add_special_tokens=False).ids
        return engine.encode_batch_fast([text], add_special_tokens=False)[0].ids

    return encode


def pre_name(metadata: Mapping[str, Any]) -> str:
    """The value of tokenizer.ggml.pre; "default" where the file is too old to have one."""
    name = metadata.get("tokenizer.ggml.pre", "default")
    if not isinstance(name, str):
        raise FileError(f"tokenizer.ggml.pre is {name!r}; it must be the name of a pre-tokenizer")
    return name or "default"


def pair(merge: str, where: str) -> tuple[str, str]:
    """The two tokens of a merge. Raises FileError, naming where it stands, for what is not two.

    >>> pair("Ġ t", "merges")
    ('Ġ', 't')
    """
    left, _, right = merge.partition(" ")
    if not left or not right or " " in right:
        raise FileError(f"{where} holds {merge[:40]!r}; a merge is two tokens with one space between")
    return left, right
