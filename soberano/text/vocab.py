# ruff: noqa: RUF001  some tokens are spelt with fullwidth signs
"""The vocabulary that a GGUF file describes: tokens, what kind each one is, and which ids mean something.

Facts about keys and defaults are those of llama.cpp (src/llama-vocab.cpp), so that both read a file alike; what it only
warns about (ids out of range, lists of different lengths) is an error here that names the key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

from soberano.core.errors import FileError

LONGEST = 65_536
"""Characters of the longest token that we believe; real vocabularies stay below 1,000."""


class Kind(IntEnum):
    """What `tokenizer.ggml.token_type` says about a token."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Spellings that end a turn or a text, whatever the file says about them; such a token is a control token.
END_TEXTS = """
    <|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <|flush|> <|calls|> <end_of_turn> <|endoftext|> </s> <|eom_id|>
    <EOT> _<EOT> [EOT] [EOS] <|end_of_text|> <end_of_utterance> <eos> <turn|> <|tool_response> <｜end▁of▁sentence｜>
    [e~[
""".split()  # noqa: SIM905  a table of names

# Tokens of fill-in-the-middle: (keys, spellings tried in order where no key says it, whether the token ends a text).
_FILL: tuple[tuple[str, str, bool], ...] = (
    (
        "fim_pre prefix",
        "<|fim_prefix|> <fim-prefix> <fim_prefix> <｜fim▁begin｜> <PRE> ▁<PRE> <|code_prefix|> <|prefix|>",
        False,
    ),
    (
        "fim_suf suffix",
        "<|fim_suffix|> <fim-suffix> <fim_suffix> <｜fim▁hole｜> <SUF> ▁<SUF> <|code_suffix|> <|suffix|>",
        False,
    ),
    (
        "fim_mid middle",
        "<|fim_middle|> <fim-middle> <fim_middle> <｜fim▁end｜> <MID> ▁<MID> <|code_middle|> <|middle|>",
        False,
    ),
    ("fim_pad", "<|fim_pad|> <fim-pad> <fim_pad> <PAD> [PAD]", True),
    ("fim_rep", "<|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame>", True),
    ("fim_sep", "<|file_sep|>", True),
)


@dataclass(frozen=True)
class Vocab:
    """A checked vocabulary. Ids index `tokens` and `kinds`."""

    tokens: list[str]
    kinds: list[int]
    ids: dict[str, int]  # spelling -> id
    control: frozenset[int]  # parsed only on request, never part of decoded text
    user: frozenset[int]  # parsed always, spelt as they are
    bos: int | None
    eos: int | None
    stop: frozenset[int]  # ids that end a generation
    add_bos: bool | None  # what the file says, None if it does not
    add_eos: bool
    greedy: frozenset[int] = frozenset()  # special tokens that take the white space after them along


def read_vocab(metadata: Mapping[str, Any]) -> Vocab:
    """Check the `tokenizer.ggml.*` keys and gather them. Raises FileError naming the key that is missing or wrong."""
    tokens = strings(metadata, "tokenizer.ggml.tokens")
    if not tokens:
        raise FileError("the metadata key 'tokenizer.ggml.tokens' is empty; a model needs a vocabulary")
    tokens = [token or f"[EMPTY_{i}]" for i, token in enumerate(tokens)]
    ids = dict(zip(tokens, range(len(tokens)), strict=True))
    if len(ids) != len(tokens):
        i = next(i for i, token in enumerate(tokens) if ids[token] != i)
        text = tokens[i]
        raise FileError(
            f"tokenizer.ggml.tokens spells two tokens alike: {i} and {ids[text]} are {text[:40]!r}; the file is damaged"
        )
    kinds = metadata.get("tokenizer.ggml.token_type")
    if kinds is None:
        kinds = [int(Kind.NORMAL)] * len(tokens)
    if not isinstance(kinds, list) or set(map(type, kinds)) - {int}:
        raise FileError("the metadata key 'tokenizer.ggml.token_type' is not a list of integers; the file is damaged")
    if len(kinds) != len(tokens):
        raise FileError(
            f"tokenizer.ggml.token_type has {len(kinds)} entries, but tokenizer.ggml.tokens has {len(tokens)}; "
            "they must be as long as each other"
        )
    unheard = set(kinds) - set(Kind)
    if unheard:
        kinds = [Kind.UNDEFINED.value if kind in unheard else kind for kind in kinds]
    rest: dict[int, list[int]] = {kind: [] for kind in set(kinds)}  # ids of each kind but normal, which most are
    for i, kind in enumerate(kinds):
        if kind != 1:
            rest[kind].append(i)
    stop, forced = _ends(metadata, ids)
    control = forced.union(rest.get(Kind.CONTROL, ()), rest.get(Kind.UNKNOWN, ()))
    bos, eos = (token_id(metadata, name, len(tokens)) for name in ("bos", "eos"))
    return Vocab(
        tokens=tokens,
        kinds=kinds,
        ids=ids,
        control=frozenset(control),
        user=frozenset(rest.get(Kind.USER_DEFINED, ())) - control,
        bos=bos,
        eos=eos,
        stop=frozenset(stop),
        add_bos=flag(metadata, "tokenizer.ggml.add_bos_token"),
        add_eos=bool(flag(metadata, "tokenizer.ggml.add_eos_token")),
    )


def of_tokens(tokens: list[str], kinds: Mapping[int, Kind]) -> Vocab:
    """A vocabulary from its spellings and the kinds of those that are not normal.

    Raises FileError where two are spelt alike.
    """
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        twice = next(token for i, token in enumerate(tokens) if ids[token] != i)
        raise FileError(f"the vocabulary spells two tokens alike: {twice[:40]!r}; the file is damaged")
    control, user = (
        frozenset(i for i, found in kinds.items() if found == kind) for kind in (Kind.CONTROL, Kind.USER_DEFINED)
    )
    said = [int(kinds.get(i, Kind.NORMAL)) for i in range(len(tokens))]
    return Vocab(tokens, said, ids, control, user, None, None, frozenset(), None, False)


def framed(vocab: Vocab, begin: int | None, end: int | None) -> Vocab:
    """The vocabulary of texts that stand between two tokens, neither of which ends a generation."""
    return replace(vocab, bos=begin, eos=end, add_bos=begin is not None, add_eos=end is not None, stop=frozenset())


def _ends(metadata: Mapping[str, Any], ids: dict[str, int]) -> tuple[set[int], set[int]]:
    """(ids that end a generation, ids that are control tokens because of their spelling)."""
    forced = {ids[text] for text in END_TEXTS if text in ids}
    stop = set(forced)
    for keys, texts, ends in _FILL:
        named = [i for key in keys.split() if (i := token_id(metadata, key, len(ids))) is not None]
        found = [ids[text] for text in texts.split() if text in ids][:1]
        forced.update(found if not named else ())
        stop.update((named or found) if ends else ())
    stop |= {i for name in ("eos", "eot", "eom") if (i := token_id(metadata, name, len(ids))) is not None}
    # Harmony-like formats: <|end|> closes a part of an answer where other tokens close the answer.
    if "<|end|>" in ids and ids.keys() & {"<|call|>", "<|calls|>"} and ids.keys() & {"<|return|>", "<|flush|>"}:
        stop.discard(ids["<|end|>"])
    if "</s>" in ids and ids.keys() & {"<|tool_response>", "<|plamo:eos|>"}:
        stop.discard(ids["</s>"])  # here it is markup, not an end
        forced.discard(ids["</s>"])
    return stop, forced


def strings(metadata: Mapping[str, Any], key: str) -> list[str]:
    """The list of strings at `key`. Raises FileError when it is missing, of another type, or no text."""
    value = metadata.get(key)
    if value is None:
        raise FileError(f"the metadata key {key!r} is missing; without it text cannot be turned into tokens")
    if not isinstance(value, list) or set(map(type, value)) - {str}:
        raise FileError(f"the metadata key {key!r} is not a list of strings; the file is damaged")
    return believed(value, key)


def believed(texts: list[str], where: str) -> list[str]:
    """The texts, if all can be tokens. Raises FileError where one is too long or no Unicode."""
    longest = max(map(len, texts), default=0)
    if longest > LONGEST:
        raise FileError(
            f"{where} holds a string of {longest} characters; more than {LONGEST} is not believed of any token"
        )
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as why:
        raise FileError(
            f"{where} holds {why.object[why.start]!r}, which is not Unicode text; the file is damaged"
        ) from None
    return texts


def token_id(metadata: Mapping[str, Any], name: str, size: int) -> int | None:
    key = f"tokenizer.ggml.{name}_token_id"
    value = metadata.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < size:
        raise FileError(f"{key} is {value!r}; it must be an id from 0 to {size - 1}, the tokens of this file")
    return value


def flag(metadata: Mapping[str, Any], key: str) -> bool | None:
    value = metadata.get(key)
    if value is not None and type(value) is not bool:
        raise FileError(f"{key} is {value!r}; it must be true or false")
    return value
