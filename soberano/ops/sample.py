"""Choose the next token: penalties, then the filters top-k, top-p and min-p, then temperature, then one seeded draw.

The order is llama.cpp's: the filters see the logits before temperature. Parameters are arrays, one number a row, so
that requests with different settings share a batch and a compiled program. Tokens of equal logit stand or fall
together: a tie at a threshold is kept whole.

A filter keeps every token whose logit reaches a threshold. Nearly always that lies among the 128 best, which are
sorted; where it does not, it is found by bisection over all logits. A row's answer depends on that row alone, never on
which way the rest of its batch took: probabilities are summed in fixed point, so no order of summation, batch or home
changes which tokens are kept.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from soberano.backends.base import Home
from soberano.backends.dispatch import op
from soberano.backends.homes import home_of, namespace
from soberano.core.errors import ShapeError
from soberano.core.types import Array
from soberano.ops.random import gumbel, gumbel_at
from soberano.ops.topk import top_k
from soberano.ops.words import ordered

CANDIDATES = 128
"""How many of the best logits are sorted. Enough for every common setting, and cheap."""


class Sampling(NamedTuple):
    """How each row draws; all arrays are (B,)."""

    temperature: Array  # float32; 0 takes the best token, the lowest id among equals
    top_k: Array  # int32; keep the k best; 0 keeps all
    top_p: Array  # float32; keep the fewest tokens that hold this share of what top_k kept; 1 keeps all
    min_p: Array  # float32; keep tokens at least this likely relative to the best; 0 keeps all


class _Wanted(NamedTuple):
    """What the filters ask of each row, as (B, 1) columns."""

    best: Array  # the largest logit
    count: Array  # of top_k; V means all
    share: Array  # of top_p
    floor: Array  # the lowest logit that min_p allows


@op
def greedy(logits: Array) -> Array:
    """Take the best token of each row, the lowest id among equals. logits (B, V) floating -> (B,) int32.

    Raises ShapeError. NaN is never taken. A row of nothing but NaN gives token 0.

    >>> import numpy as np
    >>> greedy(np.array([[1.0, 3.0, 3.0]])).tolist()
    [1]
    """
    xp = namespace(logits)
    _check_logits("greedy", logits)
    x = _clean(logits)
    best = xp.max(x, axis=-1, keepdims=True)
    ids = xp.arange(x.shape[-1], dtype=xp.int32)
    return xp.min(xp.where(x == best, ids, x.shape[-1]), axis=-1).astype(xp.int32)  # on XLA half the time of argmax


@op
def sample(logits: Array, params: Sampling, seed: Array, position: Array) -> Array:
    """Draw a token of each row. logits (B, V) floating, seed (B, 2) uint32, position (B,) int32 -> (B,) int32.

    The draw is a function of the row's logits, parameters, seed and position alone. NaN and anything below -1e30 counts
    as -inf, which is drawn only from a row that has nothing else (its token 0). Raises ShapeError.
    """
    home = home_of(logits)
    xp = home.xp
    _check_logits("sample", logits)
    size = logits.shape[1]
    for name, part in (("seed", seed[..., 0]), ("position", position), *params._asdict().items()):
        if part.shape != logits.shape[:1]:
            raise ShapeError(
                f"sample: {name} has {part.shape} rows for logits {logits.shape}; pass ({logits.shape[0]},), one a row"
            )
    x = _clean(logits)
    wanted = _wanted(x, params)

    values, ids = top_k(x, min(CANDIDATES, size))
    keep, complete = _keep_of_best(x, values, wanted)
    place = xp.argmax(_scores(values, keep, gumbel_at(seed, position, ids), wanted.best, params.temperature), axis=-1)
    drawn = xp.take_along_axis(ids, place[:, None], axis=-1)[:, 0]
    if values.shape == x.shape:
        return drawn

    def from_all() -> Array:
        keep = _keep_of_all(home, x, wanted)
        scores = _scores(x, keep, gumbel(seed, position, size), wanted.best, params.temperature)
        return xp.where(complete, drawn, xp.argmax(scores, axis=-1).astype(xp.int32))

    return home.switch(xp.any(~complete).astype(xp.int32), [lambda: drawn, from_all])


@op
def kept(logits: Array, params: Sampling) -> Array:
    """Say which tokens `sample` may draw. logits (B, V) floating -> (B, V) bool. Raises ShapeError."""
    _check_logits("kept", logits)
    x = _clean(logits)
    return _keep_of_all(home_of(logits), x, _wanted(x, params)) & (x > -namespace(x).inf)


@op
def penalise(
    logits: Array,
    counts_prompt: Array,
    counts_output: Array,
    repeat: Array,
    presence: Array,
    frequency: Array,
    bias: Array | None = None,
) -> Array:
    """Make tokens that were used already less likely, after adding a bias.

    logits (B, V) floating; counts_prompt, counts_output (B, V) int32: how often each token occurs there; repeat,
    presence, frequency (B,) float32; bias (B, V) float32 or None -> (B, V) float32. `repeat` divides positive logits
    and multiplies negative ones of every token in prompt or output (Keskar et al. 2019, arXiv 1909.05858); 1 is off.
    `presence`, and `frequency` times the count, are subtracted for tokens in the output (OpenAI's); 0 is off. Raises
    ShapeError.
    """
    xp = namespace(logits)
    _check_logits("penalise", logits)
    for name, counts in (("counts_prompt", counts_prompt), ("counts_output", counts_output), ("bias", bias)):
        if counts is not None and counts.shape != logits.shape:
            raise ShapeError(
                f"penalise: {name} is {counts.shape}, but logits is {logits.shape}; pass one number for each logit"
            )
    x = logits.astype(xp.float32)
    if bias is not None:
        x = x + bias
    factor = xp.where(counts_prompt + counts_output > 0, repeat[:, None], 1.0)
    x = xp.where(x > 0, x / factor, x * factor)
    x = x - presence[:, None] * (counts_output > 0) - frequency[:, None] * counts_output
    return x.astype(xp.float32)


def _check_logits(name: str, logits: Array) -> None:
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise ShapeError(
            f"{name}: logits is {logits.shape}; pass (B, V) with at least one token, and logits[None] for a single row"
        )


def _clean(logits: Array) -> Array:
    """float32, each within 1e30 or -inf: differences and quotients of such numbers do not overflow."""
    xp = namespace(logits)
    x = logits.astype(xp.float32)
    return xp.where(x >= -1e30, xp.minimum(x, 1e30), -xp.inf).astype(xp.float32)


def _wanted(x: Array, params: Sampling) -> _Wanted:
    xp = namespace(x)
    size = x.shape[1]
    best = xp.max(x, axis=-1, keepdims=True)
    count, low = xp.where(params.temperature > 0, params.top_k, 1)[:, None], params.min_p[:, None]
    count = xp.where((count <= 0) | (count > size), size, count)
    floor = xp.where(low > 0, best + xp.log(xp.maximum(low, np.float32(1e-37))), -xp.inf)
    return _Wanted(best, count, params.top_p[:, None], xp.minimum(floor, best))


def _keep_of_best(x: Array, values: Array, wanted: _Wanted) -> tuple[Array, Array]:
    """Filter the sorted best (B, K): which are kept, and (B,) whether nothing beyond them can be."""
    xp = namespace(x)
    few, size = values.shape[1], x.shape[1]
    kth = xp.take_along_axis(values, xp.minimum(wanted.count, few) - 1, axis=-1)
    kth = xp.where(wanted.count <= few, kth, -xp.inf)
    sums = _mass([xp.cumsum(part, axis=-1, dtype=xp.uint32) for part in _fixed(values, wanted.best, size)], size)
    parts = _fixed(x, wanted.best, size)
    whole = _mass([xp.sum(part, axis=-1, keepdims=True, dtype=xp.uint32) for part in parts], size)
    total = xp.where(wanted.count == size, whole, xp.max(xp.where(values >= kth, sums, 0), axis=-1, keepdims=True))
    reached = (sums >= wanted.share * total) & (wanted.share < 1)
    pth = xp.max(xp.where(reached, values, -xp.inf), axis=-1, keepdims=True)
    least = xp.maximum(xp.maximum(kth, pth), wanted.floor)
    lowest = values[:, -1:]
    missed = (wanted.count < size) & (lowest >= kth)  # top_k keeps more than these, and `total` lacks the rest
    beyond = ((lowest >= least) | missed) & (lowest > -xp.inf)
    return values >= least, ~beyond[:, 0]


def _keep_of_all(home: Home, x: Array, wanted: _Wanted) -> Array:
    """Filter all logits (B, V) by bisection for each threshold: which are kept."""
    xp = home.xp
    size = x.shape[1]
    words, parts = ordered(x), _fixed(x, wanted.best, size)

    def many(word: Array) -> Array:
        return xp.count_nonzero(words >= word, axis=-1)[:, None] >= wanted.count

    def mass(word: Array) -> Array:
        reaching = (xp.where(words >= word, part, np.uint32(0)) for part in parts)
        return _mass([xp.sum(part, axis=-1, keepdims=True, dtype=xp.uint32) for part in reaching], size)

    kth = _largest_word(home, wanted.count < size, many)
    total = mass(kth)
    pth = _largest_word(home, wanted.share < 1, lambda word: mass(word) >= wanted.share * total)
    pth = xp.minimum(pth, ordered(wanted.best))  # a share of 0 keeps the best
    return words >= xp.maximum(xp.maximum(kth, pth), ordered(wanted.floor))


def _largest_word(home: Home, used: Array, holds: Callable[[Array], Array]) -> Array:
    """The largest word of each row that `holds`, as all smaller ones must too; 0 where not `used`. (B, 1) uint32."""
    xp = home.xp
    zero = xp.zeros(used.shape, dtype=xp.uint32)

    def one_bit(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        word, bit = state
        return xp.where(holds(word | bit), word | bit, word), bit >> 1

    def search() -> Array:
        return home.loop(32, one_bit, (zero, zero + np.uint32(2**31)))[0]

    return xp.where(used, home.switch(xp.any(used).astype(xp.int32), [lambda: zero, search]), zero)


def _half(size: int) -> int:
    """The bits of a word of a fixed-point weight, so few that the sum of `size` of them fits 32 bits."""
    return min(14, 31 - (size - 1).bit_length())


def _fixed(x: Array, best: Array, size: int) -> tuple[Array, Array]:
    """exp(x - best) as fixed point: (high, low) words of _half(size) bits each, uint32. The best weighs 1."""
    xp = namespace(x)
    weight = xp.exp(x - xp.where(best == -xp.inf, 0.0, best)) * np.float32(4.0 ** _half(size))
    weight = (weight + np.float32(0.5)).astype(xp.uint32)
    return weight >> _half(size), weight & (2 ** _half(size) - 1)


def _mass(words: Sequence[Array], size: int) -> Array:
    """The float32 nearest to a sum of fixed-point weights, up to one rounding of each word."""
    high, low = words
    xp = namespace(high)
    return high.astype(xp.float32) * np.float32(2.0 ** _half(size)) + low.astype(xp.float32)


def _scores(x: Array, keep: Array, noise: Array, best: Array, temperature: Array) -> Array:
    """What argmax sees: logits over temperature plus noise; bare logits at temperature 0; -inf if not kept."""
    xp = namespace(x)
    hot = temperature[:, None] > 0
    cooled = (x - xp.where(best == -xp.inf, 0.0, best)) / xp.where(hot, xp.maximum(temperature[:, None], 1e-6), 1.0)
    return xp.where(keep, xp.where(hot, cooled + noise, x), -xp.inf)
