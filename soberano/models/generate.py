"""From a prompt to tokens to text, one device step at a time.

A Generation is driven from outside: whoever calls `step` decides whose turn it is, so a command line drives one and a
server many. It holds its cache pages from start to close, and knows when it is done: an end token, a stop string, or
its length.
"""

import secrets
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from soberano.core.errors import CapacityError, ContextError, InputError, SoberanoError
from soberano.models.options import Options
from soberano.models.step import NO_TOKEN, Draw, Penalties
from soberano.ops.random import seed_words
from soberano.ops.sample import Sampling
from soberano.ops.softmax import log_softmax
from soberano.ops.topk import top_k

if TYPE_CHECKING:
    from soberano.models.model import Model


class TokenLogprob(NamedTuple):
    """The log-probability of a token, before penalties and filters, and of its best alternatives."""

    token: int
    text: str
    logprob: float
    top: tuple[tuple[int, str, float], ...]


class Piece(NamedTuple):
    """Some text that is final, and the tokens that it came from."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]


class Generation:
    """One answer in the making. Made by Model.start; `step` until `done`, then `close`."""

    def __init__(self, model: "Model", prompt: list[int], options: Options) -> None:
        if not prompt:
            raise InputError("the prompt is empty: it has no token; write something to continue")
        size = model.tokenizer.size
        for what, tokens in (("the prompt", prompt), ("logit_bias", [token for token, _ in options.logit_bias])):
            bad = [token for token in tokens if not 0 <= token < size]
            if bad:
                raise InputError(
                    f"{what} holds token {bad[0]}, but ids go from 0 to {size - 1}; use this model's tokenizer"
                )
        if len(prompt) >= model.context:
            trained = model.config.context
            more = f", or load with a larger context (--context, up to {trained})" if trained > model.context else ""
            raise ContextError(
                f"the prompt is {len(prompt)} tokens, but the context holds {model.context}, the answer included; "
                f"shorten it{more}"
            )
        room = model.context - len(prompt)
        self.options = options
        self.limit = room if options.max_tokens is None else min(options.max_tokens, room)
        self.prompt_tokens, self.completion_tokens, self.prefill_tokens_done = len(prompt), 0, 0
        self.done, self.finish_reason = self.limit == 0, "length" if self.limit == 0 else None
        self.seed = secrets.randbits(63) if options.seed is None else options.seed % 2**64
        self.timings: dict[str, float] = {}
        self._model, self._prompt, self._epoch = model, prompt, model.epoch
        self._started = self._first = time.perf_counter()
        self._text = _StopText(options.stop)
        self._stream = model.tokenizer.stream()
        self._held: list[tuple[int, TokenLogprob | None]] = []
        self._send_settings()
        self._pages = model.pages.take(len(prompt) + self.limit)  # last: what raises above holds none

    def _send_settings(self) -> None:
        """Put what does not change from step to step on the device, once."""
        o, home = self.options, self._model.home
        row = lambda value, kind: home.asarray(np.array([value], kind))  # noqa: E731
        params = Sampling(
            row(o.temperature, np.float32),
            row(min(o.top_k, 2**31 - 1), np.int32),
            row(o.top_p, np.float32),
            row(o.min_p, np.float32),
        )
        self._draw = Draw(params, home.asarray(np.array([seed_words(self.seed)], np.uint32)))
        self._zero = home.asarray(np.zeros(1, np.int32))
        self._position = home.asarray(np.array([self.prompt_tokens], np.int32))  # of the token that is drawn next
        self._token = self._zero  # the last one drawn
        self._table_width, self._table_sent = 0, self._zero
        if o.penalised:
            size = self._model.tokenizer.size
            bias = np.zeros((1, size), np.float32)
            for token, value in o.logit_bias:
                bias[0, token] = value
            counts = np.bincount(self._prompt, minlength=size).astype(np.int32)[None]
            self._draw = self._draw._replace(penalties=Penalties(
                home.asarray(counts), home.asarray(np.zeros_like(counts)), row(o.repeat_penalty, np.float32),
                row(o.presence_penalty, np.float32), row(o.frequency_penalty, np.float32), home.asarray(bias),
            ))  # fmt: skip

    def step(self) -> list[Piece]:
        """Do one device step, a chunk of the prompt or a token; return the text that became final: a piece or none.

        Whatever it raises, the generation is done. Raises CapacityError when the cache was lost since the last step,
        SoberanoError when the model computes no numbers to draw from.
        """
        if self.done:
            return []
        try:
            if self._epoch != self._model.epoch:
                raise CapacityError("the cache was lost when another request's step failed; start again")
            return self._step()
        except BaseException:
            self.done = True
            raise

    def _step(self) -> list[Piece]:
        if self.prefill_tokens_done == self.prompt_tokens:
            return self._take(*self._decode())
        logits = self._prefill()
        if self.prefill_tokens_done < self.prompt_tokens:
            return []
        sampled = self.options.temperature > 0
        return self._take(logits, *self._model.programs.draw(logits, self._draw, self._position, sampled=sampled))

    def _prefill(self) -> Any:
        chunk, count = self._model.programs.prompt(self._prompt, self.prefill_tokens_done, self._table)
        logits = self._model.forward(chunk, "prompt", adapter=self.options.adapter)
        self.prefill_tokens_done += count
        return logits

    def _decode(self) -> Any:
        table = self._table(self.prompt_tokens + self.completion_tokens)  # the last token drawn is counted already
        sampled = self.options.temperature > 0
        last = self._token, self._position, table, self._draw
        return self._model.decode(*last, sampled=sampled, adapter=self.options.adapter)

    def _table(self, tokens: int) -> Any:
        """The page table for a step that ends at `tokens` tokens; sent again only when its width changes."""
        model = self._model
        width = model.programs.table_width(tokens, model.context)
        if self._table_width != width:
            self._table_width = width
            self._table_sent = model.home.asarray(model.programs.table(self._pages, width))
        return self._table_sent

    def _take(self, logits: Any, drawn: Any, position: Any, penalties: Penalties | None) -> list[Piece]:
        """Count a token that was drawn (1,) from logits (1, V), and turn it into text."""
        o = self.options
        self._token, self._position = drawn, position
        self._draw = self._draw._replace(penalties=penalties)
        token = int(self._model.home.to_numpy(self._token)[0])
        if token == NO_TOKEN:
            raise SoberanoError(
                f"{self._model.path.name} computed logits that are not finite, so there is no next token: its weights "
                f"are damaged or a kernel is wrong; `soberano verify {self._model.path}` finds the layer"
            )
        now = time.perf_counter()
        if self.completion_tokens == 0:
            self._first = now
            self.timings["first_token_s"] = self.timings["prefill_s"] = now - self._started
            self.timings["prefill_tps"] = self.prompt_tokens / max(now - self._started, 1e-9)
        self.completion_tokens += 1
        if self.completion_tokens > 1:
            self.timings["decode_s"] = now - self._first
            self.timings["decode_tps"] = (self.completion_tokens - 1) / max(now - self._first, 1e-9)
        if token in self._model.tokenizer.stop_ids and not o.ignore_eos:
            return self._finish("stop")
        self._held.append((token, self._logprob(logits, token) if o.logprobs is not None else None))
        text, hit = self._text.push(self._stream.push(token))
        if hit:
            return self._release(text, end="stop")
        if self.completion_tokens >= self.limit:
            rest, hit = self._text.push(self._stream.finish())
            return self._release(text + rest + self._text.finish(hit), end="stop" if hit else "length")
        return self._release(text) if text else []

    def _finish(self, reason: str) -> list[Piece]:
        text, hit = self._text.push(self._stream.finish())
        return self._release(text + self._text.finish(hit), end=reason)

    def _release(self, text: str, end: str | None = None) -> list[Piece]:
        held, self._held = self._held, []
        if end:
            self.done, self.finish_reason = True, end
        if not text and not held:
            return []
        return [Piece(text, tuple(t for t, _ in held), tuple(p for _, p in held if p is not None))]

    def _logprob(self, logits: Any, token: int) -> TokenLogprob:
        model, count = self._model, self.options.logprobs or 0
        row = log_softmax(model.home.to_numpy(logits).astype(np.float32))[0]
        top: tuple[tuple[int, str, float], ...] = ()
        if count:
            values, ids = top_k(row[None], count)
            top = tuple(
                (int(i), model.tokenizer.text_of(int(i)), float(p)) for p, i in zip(values[0], ids[0], strict=True)
            )
        return TokenLogprob(token, model.tokenizer.text_of(token), float(row[token]), top)

    def close(self) -> None:
        """Give the cache pages back. Closing twice is fine; a closed generation is done."""
        pages, self._pages = self._pages, []
        self._model.pages.give_back(pages)
        self.done = True

    def __iter__(self) -> Iterator[Piece]:
        """Step until done, yielding every piece, and close."""
        try:
            while not self.done:
                yield from self.step()
        finally:
            self.close()


class _StopText:
    """Text on its way out: holds back what may be the beginning of a stop string."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops, self._held = stops, ""

    def push(self, text: str) -> tuple[str, bool]:
        """(text that is final, whether a stop string was reached; it and what follows is dropped)."""
        if not self._stops:
            return text, False
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stops) if at >= 0]
        if found:
            out, self._held = self._held[: min(found)], ""
            return out, True
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out, False

    def finish(self, stopped: bool) -> str:
        """What was held back, at the end of a text in which no stop string came."""
        out, self._held = ("" if stopped else self._held), ""
        return out


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` may begin `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
