"""A model whose every answer is known beforehand: it says the words of its text, one a step, as slowly as told."""

import itertools
import threading
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import ClassVar

from soberano.core.errors import CapacityError, ContextError
from soberano.models.generate import Piece, TokenLogprob
from soberano.models.options import Options

TEXT = "The quick brown fox jumps over the lazy dog while the band plays on and on . "


class FakeTokenizer:
    """A token a byte."""

    size = 256
    longest = 1
    bos = eos = None
    stop_ids: frozenset[int] = frozenset()

    def encode(self, text: str, **_: object) -> list[int]:
        return list(text.encode())

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        return bytes(ids).decode(errors="replace")

    def bytes_of(self, token: int) -> bytes:
        return bytes([token])


class FakeGeneration:
    """Says `words`, and notes in the model when it steps and when it is closed."""

    def __init__(self, model: "FakeModel", number: int, prompt_tokens: int, options: Options, words: list[str]) -> None:
        self.model, self.number, self.options, self.words = model, number, options, words
        self.prompt_tokens, self.completion_tokens, self.prefill_tokens_done = prompt_tokens, 0, 0
        self.done, self.closed = False, False
        self.held: list[str] = []
        self.finish_reason: str | None = None
        self.timings: dict[str, float] = {
            "prefill_s": 0.01,
            "decode_s": 0.5,
            "first_token_s": 0.02,
            "prefill_tps": 100.0,
            "decode_tps": 50.0,
        }

    def step(self) -> list[Piece]:
        assert threading.get_ident() == self.model.thread, "the device is touched by one thread only"
        assert not self.closed, "a closed generation is never stepped"
        self.model.steps.append(self.number)
        time.sleep(self.model.delay)
        if self.prefill_tokens_done < self.prompt_tokens:
            self.prefill_tokens_done = self.prompt_tokens
            return []
        if self.completion_tokens == self.model.break_at:
            raise RuntimeError("the device caught fire")
        word = self.words[self.completion_tokens]
        self.completion_tokens += 1
        token = ord(word[0]) % 256
        limit = len(self.words) if self.options.max_tokens is None else min(self.options.max_tokens, len(self.words))
        if any(stop in word for stop in self.options.stop):
            self.done, self.finish_reason = True, "stop"
            return []
        if self.completion_tokens >= limit:
            self.done, self.finish_reason = True, "length" if limit == self.options.max_tokens else "stop"
        self.held.append(word)
        if len(self.held) < self.model.hold and not self.done:
            return []
        said, self.held = self.held, []
        top = tuple((token + i, chr(token + i), -0.5 - i) for i in range(self.options.logprobs or 0))
        scores = () if self.options.logprobs is None else (TokenLogprob(token, word, -0.5, top),)
        return [Piece("".join(said), tuple(ord(each[0]) % 256 for each in said), scores)]

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.model.pages += 1


class FakeModel:
    """The interface of a model as the server uses it."""

    adapters: ClassVar[dict[str, object]] = {}

    def __init__(
        self,
        *,
        text: str = TEXT,
        delay: float = 0.0,
        pages: int = 4,
        break_at: int = -1,
        context: int = 512,
        hold: int = 1,
    ) -> None:
        self.name, self.tokenizer, self.chat, self.context = "fake", FakeTokenizer(), object(), context
        self.plan, self.config = SimpleNamespace(backend="numpy", isa="none"), SimpleNamespace(context=2 * context)
        self.programs = SimpleNamespace(pads=False)
        self.text, self.delay, self.pages, self.break_at = text, delay, pages, break_at
        self.hold = hold  # so many words, a token each, come out as one piece
        self.generations: list[FakeGeneration] = []
        self.prompts: list[list[int]] = []
        self.steps: list[int] = []
        self.thread = 0
        self.closed = False
        self._numbers = itertools.count()

    def chat_tokens(self, messages: list[dict], **_: object) -> list[int]:
        return list("".join(f"{m['role']}: {m['content']}\n" for m in messages).encode())

    def start(self, prompt: str | list[int], options: Options) -> FakeGeneration:
        self.thread = self.thread or threading.get_ident()
        assert threading.get_ident() == self.thread, "the device is touched by one thread only"
        tokens = list(prompt.encode()) if isinstance(prompt, str) else list(prompt)
        if len(tokens) >= self.context:
            raise ContextError(f"the prompt has {len(tokens)} tokens, but the context is {self.context}; shorten it")
        if not self.pages:
            raise CapacityError("all 4 cache pages are in use; wait for one")
        self.pages -= 1
        self.prompts.append(tokens)
        words = [word + " " for word in self.text.split(" ") if word]
        made = FakeGeneration(self, next(self._numbers), len(tokens), options, words)
        self.generations.append(made)
        return made

    def close(self) -> None:
        self.closed = True
