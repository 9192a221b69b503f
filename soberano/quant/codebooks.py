"""Formats whose 4-bit codes are names of sixteen numbers, closer together where weights are.

A nibble is looked up in a table of small integers, so the product stays one of integers. Source: ggml-quants.c,
dequantize_row_iq4_nl, _iq4_xs, _mxfp4; for MXFP4 also the OCP Microscaling Formats specification 1.0.
"""

import numpy as np

from soberano.backends.base import Home
from soberano.core.types import Array
from soberano.quant.blocks import BlockFormat, Parts
from soberano.quant.kquants import halves

_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # floats of 4 bits, doubled


def half_powers(home: Home, e: Array) -> Array:
    """e uint8 -> 2**(e - 128) float32, put together from bytes. The two least are subnormal, which XLA takes for 0."""
    xp = home.xp
    small, less = e < 2, e - 1
    third, last = xp.where(small, 32 << (e & 1), (less & 1) << 7), xp.where(small, 0, less >> 1)
    none = xp.zeros_like(e)
    words = xp.stack([none, none, third.astype(np.uint8), last.astype(np.uint8)], axis=-1)
    return home.bitcast(words, np.dtype("<f4"))[..., 0]


class IQ4_NL(BlockFormat, ggml=20):
    """w = d codebook[q]."""

    block = group = 32
    layout = np.dtype([("d", "<f2"), ("q", "u1", 16)])
    bits, codebook = 4, _IQ4

    @classmethod
    def parts(cls, home: Home, raw: Array) -> Parts:
        f = cls.fields(home, raw)
        return Parts(halves(home, f["q"], 16), f["d"])


class IQ4_XS(BlockFormat, ggml=23):
    """w = d sub codebook[q] in groups of 32; sub + 32 has 6 bits, four in a nibble of `low` and two in `high`."""

    block, group = 256, 32
    layout = np.dtype([("d", "<f2"), ("high", "u1", 2), ("low", "u1", 4), ("q", "u1", 128)])
    bits, codebook = 4, _IQ4

    @classmethod
    def parts(cls, home: Home, raw: Array) -> Parts:
        f = cls.fields(home, raw)
        high = (f["high"][..., None] >> home.xp.asarray(np.array([0, 2, 4, 6], np.uint8))) & 3
        sub = halves(home, f["low"], 1) | (high.reshape(-1, 8) << 4)
        return Parts(halves(home, f["q"], 16), f["d"], sub.astype(np.int8) - np.int8(32))


class MXFP4(BlockFormat, ggml=39):
    """w = 2**(e - 128) codebook[q]: floats of 4 bits, doubled, times half a power of two."""

    block = group = 32
    layout = np.dtype([("e", "u1", 1), ("q", "u1", 16)])
    bits, codebook = 4, _E2M1

    @classmethod
    def parts(cls, home: Home, raw: Array) -> Parts:
        f = cls.fields(home, raw)
        return Parts(halves(home, f["q"], 16), half_powers(home, f["e"]))
