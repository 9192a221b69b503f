"""Random numbers that are a function of (seed, position, lane): the same on every home and in every batch.

Philox is counter-based: nothing is carried from draw to draw. A request keeps its numbers when it is batched with
others, interrupted and resumed, or moved to another device. Token id i of position p is lane i. Source: Salmon, Moraes,
Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3" (Random123).
"""

import numpy as np

from soberano.backends.dispatch import op
from soberano.backends.homes import home_of, namespace
from soberano.core.errors import ShapeError
from soberano.core.types import Array
from soberano.ops.words import wide_product

_MULTIPLIERS = np.uint32(0xD2511F53), np.uint32(0xCD9E8D57)
_WEYL = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)


def seed_words(seed: int) -> tuple[int, int]:
    """Split a seed, taken modulo 2**64, into the (low, high) words that the functions here take as a row of `seed`.

    >>> seed_words(2**32 + 7)
    (7, 1)
    """
    return seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF


@op
def philox(counter: Array, key: Array) -> Array:
    """Apply Philox4x32-10: four random words for each counter.

    counter (..., 4) uint32, key (..., 2) uint32 -> (..., 4) uint32. Leading axes broadcast. Raises ShapeError.
    """
    home = home_of(counter, key)
    if counter.shape[-1:] != (4,) or key.shape[-1:] != (2,):
        raise ShapeError(
            f"philox: counter is {counter.shape} and key {key.shape}; their last axes must be 4 and 2 words"
        )
    lead = np.broadcast_shapes(counter.shape[:-1], key.shape[:-1])
    words = tuple(home.xp.broadcast_to(counter[..., i : i + 1], (*lead, 1)) for i in range(4))

    def one_round(_: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        a, b, c, d, low, high = state
        a_high, a_low = wide_product(a, _MULTIPLIERS[0])
        c_high, c_low = wide_product(c, _MULTIPLIERS[1])
        return c_high ^ b ^ low, c_low, a_high ^ d ^ high, a_low, low + _WEYL[0], high + _WEYL[1]

    state = home.loop(10, one_round, (*words, key[..., 0:1], key[..., 1:2]))
    return home.xp.concatenate(state[:4], axis=-1)


@op
def uniform(seed: Array, position: Array, n: int, *, stream: int = 0) -> Array:
    """Draw lanes 0 to n - 1 of each row, in (0, 1). seed (B, 2) uint32, position (B,) int32 -> (B, n) float32.

    Streams are independent: one for each purpose that a position may have. Raises ShapeError.
    """
    xp = namespace(seed)
    blocks = xp.arange((n + 3) // 4, dtype=xp.uint32)[None, :]  # a block is four lanes
    return _open_interval(_words("uniform", seed, position, blocks, stream).reshape(seed.shape[0], -1)[:, :n])


@op
def uniform_at(seed: Array, position: Array, lanes: Array, *, stream: int = 0) -> Array:
    """Draw the named lanes only: uniform(...)[b, lanes[b, i]]. lanes (B, N) int32 -> (B, N) float32."""
    xp = namespace(seed)
    words = _words("uniform_at", seed, position, (lanes >> 2).astype(xp.uint32), stream)
    return _open_interval(xp.take_along_axis(words, (lanes & 3)[..., None], axis=-1)[..., 0])


@op
def gumbel(seed: Array, position: Array, n: int, *, stream: int = 0) -> Array:
    """Draw lanes 0 to n - 1 from Gumbel's distribution: the largest of logits + gumbel is a draw from softmax(logits).

    seed (B, 2) uint32, position (B,) int32 -> (B, n) float32. Raises ShapeError.
    """
    return _gumbel(uniform(seed, position, n, stream=stream))


@op
def gumbel_at(seed: Array, position: Array, lanes: Array, *, stream: int = 0) -> Array:
    """Draw the named lanes only: gumbel(...)[b, lanes[b, i]]. lanes (B, N) int32 -> (B, N) float32."""
    return _gumbel(uniform_at(seed, position, lanes, stream=stream))


def _words(name: str, seed: Array, position: Array, blocks: Array, stream: int) -> Array:
    """blocks (B or 1, N) uint32 -> (B, N, 4) uint32."""
    xp = namespace(seed)
    if seed.ndim != 2 or seed.shape[1] != 2 or position.shape != seed.shape[:1]:
        raise ShapeError(
            f"{name}: seed is {seed.shape} and position {position.shape}; pass (B, 2) words and (B,) positions"
        )
    shape = (seed.shape[0], blocks.shape[1])
    where = xp.broadcast_to(position.astype(xp.uint32)[:, None], shape)
    zeros = xp.zeros(shape, dtype=xp.uint32)
    counter = xp.stack([xp.broadcast_to(blocks, shape), where, zeros, zeros + np.uint32(stream)], axis=-1)
    return philox(counter, seed[:, None, :])


def _open_interval(words: Array) -> Array:
    """uint32 -> float32 in [2**-33, 1 - 2**-24]: all 32 bits count near 0, and neither end is ever reached."""
    xp = namespace(words)
    return xp.minimum((words.astype(xp.float32) + 0.5) * np.float32(2.0**-32), np.float32(1 - 2.0**-24))


def _gumbel(uniform: Array) -> Array:
    """-log(exponential), where log1p keeps the many bits of a small uniform: unlikely tokens get their exact share."""
    xp = namespace(uniform)
    return -xp.log(-xp.log1p(-uniform))
