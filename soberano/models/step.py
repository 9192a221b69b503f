"""One step on the device: tokens in, logits and the next token out; compiled once per shape, where the home compiles.

Prompts go through in chunks padded to a few lengths, so that a handful of programs serves every prompt; a generated
token is a chunk of one. Programs know the plan and the role of their tokens, so a kernel is chosen by the key of the
program and by nothing else: a token's arithmetic does not depend on how a prompt was cut, nor on its batch.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, get_args

import numpy as np

from soberano.backends.base import Home
from soberano.backends.homes import home
from soberano.backends.plan import Plan, Role, using
from soberano.core.types import Array
from soberano.models.architecture import architecture
from soberano.models.cache import PAGE, Cache
from soberano.models.layers import pick_tokens
from soberano.ops.attention import kernel_serves
from soberano.ops.sample import Sampling, greedy, penalise, sample

CHUNKS = (16, 64, 256, 512)
"""The lengths of a prompt's chunks, where a length costs a compilation."""

NO_TOKEN = -1
"""What is drawn from logits that are not all finite."""

compiled: Counter[tuple[Any, ...]] = Counter()
"""How often each program was traced: tests assert that traffic adds nothing."""


class Chunk(NamedTuple):
    """Some tokens of each row of a batch on their way through the model."""

    tokens: Array  # (B, T) int32
    positions: Array  # (B, T) int32; below 0: padding
    table: Array  # (B, N) int32: the pages of each row, see soberano.ops.attention
    last: Array  # (B,) int32: the token of each row whose logits are wanted


class Penalties(NamedTuple):
    """What changes logits before they are filtered; rows of a batch."""

    prompt: Array  # (B, V) int32: how often each token is in the prompt
    output: Array  # (B, V) int32: how often it was generated
    repeat: Array  # (B,)
    presence: Array  # (B,)
    frequency: Array  # (B,)
    bias: Array  # (B, V)


class Draw(NamedTuple):
    """How the next token of each row is chosen."""

    params: Sampling
    seed: Array  # (B, 2) uint32
    penalties: Penalties | None = None


class Key(NamedTuple):
    """What a program is compiled for, besides the shapes."""

    architecture: str
    config: Any
    plan: Plan  # with the role of the tokens
    tokens: int  # that the tokenizer knows: many a model pads its embedding, and what is no token is never drawn
    every: bool  # logits of all tokens, not of the last ones


def _forward(key: Key, weights: Any, k: Array, v: Array, chunk: Chunk) -> Any:
    module, plan = architecture(key.architecture), key.plan
    compiled["forward", plan.backend, plan.role, tuple(chunk.tokens.shape), tuple(chunk.table.shape), key.every] += 1
    with using(plan):
        cache = Cache(k, v, chunk.positions, chunk.table)
        x, cache = module.forward(weights, chunk.tokens, cache, key.config)
        logits = module.logits(weights, x if key.every else pick_tokens(x, chunk.last), key.config)
    return logits[..., : key.tokens], cache.k, cache.v


def _draw(key: tuple[Plan, bool], logits: Array, draw: Draw, position: Array) -> Any:
    plan, sampled = key
    compiled["draw", plan.backend, tuple(logits.shape), sampled, draw.penalties is not None] += 1
    with using(plan):
        token, penalties = _choose(plan, sampled, logits, draw, position)
    return token, position + 1, penalties


def _choose(plan: Plan, sampled: bool, logits: Array, draw: Draw, position: Array) -> tuple[Array, Penalties | None]:
    here, p = home_of_plan(plan), draw.penalties
    finite = here.xp.all(here.xp.isfinite(logits), axis=-1)
    if p is not None:
        logits = penalise(logits, p.prompt, p.output, p.repeat, p.presence, p.frequency, p.bias)
    token = sample(logits, draw.params, draw.seed, position) if sampled else greedy(logits)
    if p is not None:
        rows = here.xp.arange(token.shape[0], dtype=here.xp.int32)
        p = p._replace(output=here.put(p.output, (rows, token), p.output[rows, token] + 1))
    return here.xp.where(finite, token, NO_TOKEN).astype(here.xp.int32), p


def _decode(
    key: tuple[Key, bool], weights: Any, k: Array, v: Array, token: Array, position: Array, table: Array, draw: Draw
) -> Any:
    forward, sampled = key
    xp = home_of_plan(forward.plan).xp
    chunk = Chunk(token[:, None], position[:, None] - 1, table, xp.zeros_like(position))
    logits, k, v = _forward(forward, weights, k, v, chunk)
    with using(forward.plan):
        token, penalties = _choose(forward.plan, sampled, logits, draw, position)
    return logits, token, position + 1, penalties, k, v


def home_of_plan(plan: Plan) -> Home:
    """The home that a plan runs in."""
    return home(plan.home)


class Programs:
    """The programs of a model under a plan, with logits for the first `tokens` ids. A home that compiles traces each
    once per shape.

    `paged`: our attention kernel serves the heads of this model, and reads no more pages than it needs.
    """

    def __init__(self, name: str, config: Any, plan: Plan, tokens: int) -> None:
        here = home_of_plan(plan)
        self.plan, self.home = plan, here
        self._keys = {role: Key(name, config, replace(plan, role=role), tokens, False) for role in get_args(Role)}
        self.paged = plan.native and kernel_serves(config.head)
        self._forward = here.compile(_forward, static=(0,), donate=(2, 3))
        self._draw = here.compile(_draw, static=(0,))
        self._decode = here.compile(_decode, static=(0,), donate=(2, 3))

    def forward(self, weights: Any, k: Array, v: Array, chunk: Chunk, role: Role, every: bool = False) -> Any:
        """(logits of `last` of each row, or of all with `every`; k; v). Consumes k and v."""
        return self._forward(self._keys[role]._replace(every=every), weights, k, v, chunk)

    def draw(self, logits: Array, draw: Draw, position: Array, *, sampled: bool) -> Any:
        """(token (B,) or NO_TOKEN, position + 1, penalties with the token counted) from logits (B, V)."""
        return self._draw((self.plan, sampled), logits, draw, position)

    def decode(
        self, weights: Any, k: Array, v: Array, token: Array, position: Array, table: Array, draw: Draw, sampled: bool
    ) -> Any:
        """One generated token through the model and the next one drawn, in one program.

        token (B,) is the last one drawn, position (B,) that of the next. Returns (logits (B, V), token or NO_TOKEN,
        position + 1, penalties, k, v). Consumes k and v.
        """
        return self._decode((self._keys["token"], sampled), weights, k, v, token, position, table, draw)

    @property
    def cache_dtype(self) -> Any:
        """float16 where a kernel or a device reads it; else float32, which the meaning on a CPU would cast it to."""
        return np.float16 if self.paged or self.plan.platform != "cpu" else np.float32

    @property
    def pads(self) -> bool:
        """Whether shapes cost a compilation, so that chunks are padded and tables widened."""
        return self.home.compiles

    def chunk(self, left: int) -> tuple[int, int]:
        """(how many of `left` prompt tokens the next chunk takes, how long the chunk is)."""
        if not self.pads:
            return min(left, CHUNKS[-1]), min(left, CHUNKS[-1])
        below = [size for size in CHUNKS if size <= left]
        above = [size for size in CHUNKS if size >= left]
        if above and (not below or above[0] <= 2 * left):  # padding at most doubles the work
            return left, above[0]
        return below[-1], below[-1]

    def prompt(
        self, tokens: Sequence[int], start: int, table: Callable[[int], Array], *, single: bool = False
    ) -> tuple[Chunk, int]:
        """(the next chunk of a prompt of which `start` tokens have been read, how many it takes).

        table(n) is the page table (1, N) for a step that ends at n tokens. `single`: one token, as decode reads it.
        """
        count, size = (1, 1) if single else self.chunk(len(tokens) - start)
        ids, positions = np.zeros((1, size), np.int32), np.full((1, size), -1, np.int32)
        ids[0, :count], positions[0, :count] = tokens[start : start + count], np.arange(start, start + count)
        send = self.home.asarray
        return Chunk(send(ids), send(positions), table(start + count), send(np.array([count - 1], np.int32))), count

    def table_width(self, tokens: int, context: int) -> int:
        """The width of the page table of a sequence with `tokens` tokens, of at most `context`.

        Our attention kernel reads only the pages it needs, so its table has one width. The meaning gathers the whole
        table: there the width grows, in powers of two where a shape costs a compilation.
        """
        need, capacity = -(-tokens // PAGE), -(-context // PAGE)
        if self.paged:
            return capacity
        return min(capacity, 1 << max(3, (need - 1).bit_length())) if self.pads else need

    def table(self, pages: list[int], width: int) -> np.ndarray:
        """The table (1, width) of a sequence that holds `pages`."""
        row = np.zeros((1, width), np.int32)
        row[0, : min(width, len(pages))] = pages[:width]
        return row
