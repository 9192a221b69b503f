"""The first formats of ggml: 32 weights, one float16 scale, perhaps a minimum.

Low nibbles are the first 16 weights of a block and high nibbles the last 16. Source: ggml-quants.c, dequantize_row_q*.
"""

import numpy as np

from soberano.backends.base import Home
from soberano.core.types import Array
from soberano.quant.blocks import BlockFormat, Parts


def _nibbles(home: Home, q: Array) -> Array:
    """(N, 16) bytes -> (N, 32) codes of 4 bits."""
    return home.xp.concatenate([q & 15, q >> 4], axis=-1)


def _fifth_bit(home: Home, qh: Array) -> Array:
    """(N, 4) bytes -> (N, 32): bit i of the little-endian word, as the 16 of weight i's code."""
    bits = (qh[..., None] >> home.xp.arange(8, dtype=np.uint8)) & 1
    return bits.reshape(-1, 32) << 4


class Q4_0(BlockFormat, ggml=2):
    """w = d (q - 8)."""

    block = group = 32
    layout = np.dtype([("d", "<f2"), ("q", "u1", 16)])
    zero, bits = 8, 4

    @classmethod
    def parts(cls, home: Home, raw: Array) -> Parts:
        f = cls.fields(home, raw)
        return Parts(_nibbles(home, f["q"]), f["d"])


class Q4_1(BlockFormat, ggml=3):
    """w = d q + min; `m` is -min, which negation of a float makes exactly."""

    block = group = 32
    layout = np.dtype([("d", "<f2"), ("min", "<f2"), ("q", "u1", 16)])
    bits = 4

    @classmethod
    def parts(cls, home: Home, raw: Array) -> Parts:
        f = cls.fields(home, raw)
        return Parts(_nibbles(home, f["q"]), f["d"], m=-f["min"])


class Q5_0(BlockFormat, ggml=6):
    """w = d (q - 16), the fifth bits in a word of their own."""

    block = group = 32
    layout = np.dtype([("d", "<f2"), ("high", "u1", 4), ("q", "u1", 16)])
    zero, bits = 16, 5

    @classmethod
    def parts(cls, home: Home, raw: Array) -> Parts:
        f = cls.fields(home, raw)
        return Parts(_nibbles(home, f["q"]) | _fifth_bit(home, f["high"]), f["d"])


class Q5_1(BlockFormat, ggml=7):
    """w = d q + min, the fifth bits in a word of their own."""

    block = group = 32
    layout = np.dtype([("d", "<f2"), ("min", "<f2"), ("high", "u1", 4), ("q", "u1", 16)])
    bits = 5

    @classmethod
    def parts(cls, home: Home, raw: Array) -> Parts:
        f = cls.fields(home, raw)
        return Parts(_nibbles(home, f["q"]) | _fifth_bit(home, f["high"]), f["d"], m=-f["min"])


class Q8_0(BlockFormat, ggml=8):
    """w = d q with signed q; flipping the top bit makes it the unsigned q + 128."""

    block = group = 32
    layout = np.dtype([("d", "<f2"), ("q", "u1", 32)])
    zero, bits = 128, 8

    @classmethod
    def parts(cls, home: Home, raw: Array) -> Parts:
        f = cls.fields(home, raw)
        return Parts(f["q"] ^ 128, f["d"])
