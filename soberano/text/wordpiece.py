"""WordPiece, the tokenizer of BERT: clean a text, cut it into words and signs, spell each by the longest tokens.

The engine is the `tokenizers` library; this file says what it is built from. A token that continues a word is spelt
##like; GGUF files spell it the other way round (a word begins with U+2581, what continues it is bare) and are read here
into the spelling of the paper.
Sources: arXiv:1810.04805; google-research/bert tokenization.py; llama.cpp src/llama-vocab.cpp and conversion/bert.py.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tokenizers import Tokenizer as Engine
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from soberano.core.errors import FileError
from soberano.text.vocab import Kind, Vocab, flag, framed, read_vocab, token_id

CONTINUES = "##"
_WORD = "\u2581"


@dataclass(frozen=True)
class Rules:
    """How a text is prepared. The defaults are those of the uncased BERT."""

    lowercase: bool = True
    strip_accents: bool = True
    spaced_ideographs: bool = True  # every Chinese character is a word
    clean: bool = True  # control characters go, every kind of white space is a space
    longest_word: int = 100  # characters; a longer word is unknown


def build(vocab: Vocab, unknown: int, rules: Rules) -> Callable[[str], list[int]]:
    """Make the function from plain text (without special tokens) to ids; a word that cannot be spelt is `unknown`."""
    text = vocab.tokens[unknown]
    # Control tokens are left out, so that no text whatever is encoded as one.
    ids = {token: i for token, i in vocab.ids.items() if i not in vocab.control} | {text: unknown}
    engine = Engine(
        WordPiece(ids, unk_token=text, continuing_subword_prefix=CONTINUES, max_input_chars_per_word=rules.longest_word)
    )
    engine.normalizer = BertNormalizer(
        clean_text=rules.clean,
        handle_chinese_chars=rules.spaced_ideographs,
        strip_accents=rules.strip_accents,
        lowercase=rules.lowercase,
    )
    engine.pre_tokenizer = BertPreTokenizer()

    def encode(text: str) -> list[int]:
        return engine.encode(text, add_special_tokens=False).ids

    return encode


def piece(token: str, kind: int) -> bytes:
    """The bytes that a token adds to a text: what begins a word has a space before it, for the real one is forgotten.

    >>> piece("fox", 1), piece("##es", 1)
    (b' fox', b'es')
    """
    if kind == Kind.USER_DEFINED:
        return token.encode()
    return token.removeprefix(CONTINUES).encode() if token.startswith(CONTINUES) else f" {token}".encode()


def from_gguf(metadata: Mapping[str, Any]) -> tuple[Vocab, int, Rules]:
    """(vocabulary, unknown token, rules) that the `tokenizer.ggml.*` keys describe.

    Raises FileError naming a key that is missing or wrong.
    """
    read = read_vocab(metadata)
    tokens = [token if i in read.control else _respelt(token) for i, token in enumerate(read.tokens)]
    vocab = replace(read, tokens=tokens, ids={token: i for i, token in enumerate(tokens)})
    lowercase = flag(metadata, "tokenizer.ggml.normalizer.lowercase")
    accents = flag(metadata, "tokenizer.ggml.normalizer.strip_accents")
    rules = Rules(lowercase=lowercase is not False)
    rules = replace(rules, strip_accents=rules.lowercase if accents is None else accents)
    begin, end, unknown = (
        _special(metadata, vocab, names.split(), spelling)
        for names, spelling in (("cls bos", "[CLS]"), ("seperator eos", "[SEP]"), ("unknown", "[UNK]"))
    )
    return framed(vocab, begin, end), unknown, rules


def _respelt(token: str) -> str:
    return token.removeprefix(_WORD) if token.startswith(_WORD) else CONTINUES + token


def _special(metadata: Mapping[str, Any], vocab: Vocab, names: list[str], spelling: str) -> int:
    """The id that one of the keys says (the format itself misspells one), else that of the usual spelling."""
    said = (token_id(metadata, name, len(vocab.tokens)) for name in names)
    found = next((i for i in said if i is not None), vocab.ids.get(spelling))
    if found is None:
        raise FileError(
            f"neither 'tokenizer.ggml.{names[0]}_token_id' nor a token {spelling} is there; no text can be encoded"
        )
    return found
