"""Text to token ids and back, for any vocabulary that a GGUF file brings with it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from soberano.core.errors import ContextError, FileError, InputError, UnsupportedModel
from soberano.text import bpe, sentencepiece, wordpiece
from soberano.text.detokenize import Detokenizer
from soberano.text.pretokenize import split_named
from soberano.text.special import Spellings
from soberano.text.vocab import Vocab, read_vocab

SLICE = 16_384
"""Characters, at least, that are encoded at a time to see whether a longer text can fit."""


class Tokenizer:
    """A vocabulary, and the function that encodes the text between its special tokens.

    Special tokens are of two kinds. *Control* tokens (<|im_end|>) are parsed only on request and are no part of decoded
    text; *user-defined* tokens (<tool_call>, runs of spaces) are parsed always and are text.

    `space_before` says that encode_plain puts a space before every text that it gets; decode takes it away again.
    """

    def __init__(
        self,
        vocab: Vocab,
        encode_plain: Callable[[str], list[int]],
        piece: Callable[[str, int], bytes],
        *,
        add_bos: bool,
        space_before: bool = False,
    ) -> None:
        self.vocab = vocab
        self.size = len(vocab.tokens)
        self.bos, self.eos = vocab.bos, vocab.eos
        self.stop_ids = vocab.stop
        self.add_bos = add_bos
        self.add_eos = vocab.add_eos
        # Bytes of text that one token can stand for, at most: no spelling is shorter than what it says.
        self.longest = max(len(spelling.encode()) for spelling in vocab.tokens)
        self.control_texts = frozenset(vocab.tokens[i] for i in vocab.control)
        self._encode_plain = encode_plain
        self._piece = piece  # (spelling, kind) -> bytes
        self._space_before = space_before
        # Longest first, by bytes: where two special tokens overlap, llama.cpp lets the longer one win.
        by_length = sorted(vocab.control | vocab.user, key=lambda i: (-len(vocab.tokens[i].encode()), i))
        greedy = frozenset(vocab.tokens[i] for i in vocab.greedy)
        self._special = Spellings((vocab.tokens[i] for i in by_length), greedy)
        self._user = Spellings((vocab.tokens[i] for i in by_length if i in vocab.user), greedy)
        self._slice = max(SLICE, 64 * max(map(len, vocab.tokens)))

    def encode(
        self, text: str, *, special: bool = False, add_bos: bool | None = None, most: int | None = None
    ) -> list[int]:
        """Encode a text. `special` also parses control tokens; `add_bos` None does what the file says.

        Raises ContextError, without encoding the rest, as soon as it is certain that there will be more than `most`
        tokens. It is not certain for every such text, so who has a limit still looks at what comes back.

        Characters that are no Unicode text (lone surrogates) are read as U+FFFD; bytes for which the vocabulary has no
        token are dropped, as in llama.cpp. A file's wish for an eos at the end is left to the caller (`add_eos`).
        """
        if add_bos is None:
            add_bos = self.add_bos
        if add_bos and self.bos is None:
            raise InputError("a text cannot begin with a bos token: the file has none; encode with add_bos=False")
        ids = [self.bos] if add_bos and self.bos is not None else []
        for part in self.partition(_unicode(text), special=special):
            if isinstance(part, int):
                ids.append(part)
                continue
            if most is not None:
                self._refuse_long(part, most)
            ids.extend(self._encode_plain(part))
        return ids

    def sequence(self, text: str, longest: int | None = None) -> list[int]:
        """What an encoder reads of a text: bos, as many of its tokens as fit into `longest` in all, eos.

        Special tokens inside the text stay text. Bos and eos are there where the vocabulary wants them.
        """
        begin = [self.bos] if self.add_bos and self.bos is not None else []
        end = [self.eos] if self.add_eos and self.eos is not None else []
        whole = begin + self.encode(text, add_bos=False) + end
        return whole if longest is None else self.cut(whole, longest)

    def pair(self, first: str, second: str, longest: int) -> tuple[list[int], bool]:
        """What a cross-encoder reads of two texts: bos, the first, eos, the second, eos -> (tokens, whether cut).

        As much of the second as fits into `longest` in all. Models whose eos is spelt </s> (RoBERTa and its kin) were
        trained with two of them in between. Raises ContextError where the first leaves no room for the second.
        """
        begin = [self.bos] if self.add_bos and self.bos is not None else []
        end = [] if self.eos is None else [self.eos]
        between = 2 * end if self.eos is not None and self.vocab.tokens[self.eos] == "</s>" else end
        before = begin + self.encode(first, add_bos=False) + between
        room = longest - len(before) - len(end)
        if room < 1:
            raise ContextError(
                f"the query is {len(before) - len(begin + between)} tokens, which leaves no room for documents: the "
                f"model reads {longest} of both; shorten it"
            )
        rest = self.encode(second, add_bos=False)
        return before + rest[:room] + end, len(rest) > room

    def cut(self, sequence: list[int], longest: int) -> list[int]:
        """What `sequence` made, as if asked for at most `longest`, 2 or more."""
        if len(sequence) <= longest:
            return sequence
        end = int(self.add_eos and self.eos is not None)
        return sequence[: longest - end] + sequence[len(sequence) - end :]

    def _refuse_long(self, text: str, most: int) -> None:
        """Raise ContextError when `text` is certainly more than `most` tokens.

        A slice is far longer than any token, so a text in slices has a few tokens more than as a whole, and never
        twice as many.
        """
        count = 0
        for start in range(0, len(text) if len(text) > self._slice else 0, self._slice):
            count += len(self._encode_plain(text[start : start + self._slice]))
            if count > 2 * most:
                raise ContextError(f"the text is longer than the {most} tokens that there is room for; shorten it")

    def partition(self, text: str, *, special: bool) -> list[int | str]:
        """Cut a text at its special tokens: ids, and the non-empty texts between them."""
        parts = list[int | str]()
        start = 0
        for at, stop, spelling in (self._special if special else self._user).cut(text):
            parts += [text[start:at]] if at > start else []
            parts.append(self.vocab.ids[spelling])
            start = stop
        return [*parts, text[start:]] if start < len(text) else parts

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Decode ids; bytes that are no UTF-8 become U+FFFD. `special` writes control tokens as they are spelt.

        A space that `encode` put before a text is taken away again: what was encoded comes back as it was.
        """
        return b"".join(self._whole(ids, special)).decode("utf-8", "replace")

    def _whole(self, ids: Iterable[int], special: bool) -> Iterator[bytes]:
        begins = self._space_before
        for i in ids:
            data = self._bytes(i, special)
            if i in self.vocab.control or i in self.vocab.user:
                begins = self._space_before
            elif begins:
                data, begins = data.removeprefix(b" "), False
            yield data

    def bytes_of(self, token: int) -> bytes:
        """The bytes that a token adds to a text; none for control tokens. Raises InputError for an id out of range."""
        return self._bytes(token, False)

    def text_of(self, token: int) -> str:
        """One token as text, for people: U+FFFD for parts of characters, control tokens as they are spelt."""
        return self._bytes(token, True).decode("utf-8", "replace")

    def stream(self, *, special: bool = False) -> Detokenizer:
        """Decode ids as they arrive, as the continuation of a text: the first one keeps its space."""
        return Detokenizer(lambda token: self._bytes(token, special))

    def _bytes(self, token: int, special: bool) -> bytes:
        if not 0 <= token < self.size:
            raise InputError(f"token {token} does not exist; this vocabulary has ids 0 to {self.size - 1}")
        spelling = self.vocab.tokens[token]
        if token in self.vocab.control:
            return spelling.encode() if special else b""
        return self._piece(spelling, self.vocab.kinds[token])


def from_metadata(metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer that the `tokenizer.ggml.*` keys describe.

    Raises FileError naming a key that is missing or inconsistent, UnsupportedModel naming a kind of tokenizer or a way
    to split text that is not known here.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model is None:
        raise FileError("the metadata key 'tokenizer.ggml.model' is missing; the file brings no tokenizer")
    if not isinstance(model, str) or model not in _KINDS:
        known = ", ".join(f"{name!r} ({what})" for name, (what, _) in _KINDS.items())
        raise UnsupportedModel(f"the file's tokenizer (tokenizer.ggml.model) is {model!r:.60}; known here are {known}")
    return _KINDS[model][1](metadata)


def _of_bytes(metadata: Mapping[str, Any]) -> Tokenizer:
    vocab = read_vocab(metadata)
    add_bos = vocab.add_bos if vocab.add_bos is not None else split_named(bpe.pre_name(metadata)).add_bos
    if vocab.add_bos and vocab.bos is None:
        raise FileError("tokenizer.ggml.add_bos_token is true, but 'tokenizer.ggml.bos_token_id' is missing")
    return Tokenizer(vocab, bpe.build(metadata, vocab), bpe.piece, add_bos=add_bos and vocab.bos is not None)


def _of_scores(metadata: Mapping[str, Any]) -> Tokenizer:
    metadata = sentencepiece.with_default_ids(metadata)
    vocab = sentencepiece.read(metadata)
    return Tokenizer(
        vocab,
        sentencepiece.build(metadata, vocab),
        sentencepiece.piece,
        add_bos=vocab.add_bos is not False and vocab.bos is not None,
        space_before=sentencepiece.space_before(metadata),
    )


def of_words(vocab: Vocab, unknown: int, rules: wordpiece.Rules) -> Tokenizer:
    """Build the tokenizer of a WordPiece vocabulary."""
    return Tokenizer(vocab, wordpiece.build(vocab, unknown, rules), wordpiece.piece, add_bos=bool(vocab.add_bos))


_KINDS: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], Tokenizer]]] = {
    "gpt2": ("byte-level BPE", _of_bytes),
    "llama": ("SentencePiece", _of_scores),
    "bert": ("WordPiece", lambda metadata: of_words(*wordpiece.from_gguf(metadata))),
}
"""What each `tokenizer.ggml.model` is, and how it is built."""


def _unicode(text: str) -> str:
    """Join surrogate pairs and replace lone ones, which no UTF-8 can hold."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
