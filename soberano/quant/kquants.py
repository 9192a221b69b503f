"""The k-quants of ggml: 256 weights, scales in two levels. Source: ggml-quants.c, dequantize_row_q*_K."""

import numpy as np

from soberano.backends.base import Home
from soberano.core.types import Array
from soberano.quant.blocks import BlockFormat, Parts


def halves(home: Home, q: Array, run: int) -> Array:
    """(N, n) bytes -> (N, 2 n) codes of 4 bits: of each `run` bytes first the low nibbles, then the high ones."""
    count, size = q.shape
    q = q.reshape(count, size // run, 1, run)
    return home.xp.concatenate([q & 15, q >> 4], axis=2).reshape(count, 2 * size)


def _scales_and_minima(home: Home, packed: Array) -> tuple[Array, Array]:
    """(N, 12) bytes -> (N, 8) scales and (N, 8) minima of 6 bits.

    Bytes 0-3 and 4-7 hold the first four of each in their low 6 bits; their top 2 bits are the top bits of the last
    four, whose low nibbles share bytes 8-11.
    """
    a, b, c = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = home.xp.concatenate([a & 63, (c & 15) | ((a >> 6) << 4)], axis=-1)
    minima = home.xp.concatenate([b & 63, (c >> 4) | ((b >> 6) << 4)], axis=-1)
    return scales, minima


class Q4_K(BlockFormat, ggml=12):
    """w = d sub q - m submin, in groups of 32."""

    block, group = 256, 32
    layout = np.dtype([("d", "<f2"), ("m", "<f2"), ("scales", "u1", 12), ("q", "u1", 128)])
    bits = 4

    @classmethod
    def parts(cls, home: Home, raw: Array) -> Parts:
        f = cls.fields(home, raw)
        sub, submin = _scales_and_minima(home, f["scales"])
        return Parts(halves(home, f["q"], 32), f["d"], sub, f["m"], submin)


class Q5_K(BlockFormat, ggml=13):
    """Q4_K with a fifth bit: bit g of the byte high[i] belongs to weight i of group g."""

    block, group = 256, 32
    layout = np.dtype([("d", "<f2"), ("m", "<f2"), ("scales", "u1", 12), ("high", "u1", 32), ("q", "u1", 128)])
    bits = 5

    @classmethod
    def parts(cls, home: Home, raw: Array) -> Parts:
        f = cls.fields(home, raw)
        sub, submin = _scales_and_minima(home, f["scales"])
        high = (f["high"][:, None, :] >> home.xp.arange(8, dtype=np.uint8)[:, None]) & 1
        codes = halves(home, f["q"], 32) | (high.reshape(-1, 256) << 4)
        return Parts(codes, f["d"], sub, f["m"], submin)


class Q6_K(BlockFormat, ggml=14):
    """w = d sub (q - 32) with signed `sub`, in groups of 16; the top two bits of each code apart from its low four."""

    block, group = 256, 16
    layout = np.dtype([("low", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), ("d", "<f2")])
    zero, bits = 32, 6

    @classmethod
    def parts(cls, home: Home, raw: Array) -> Parts:
        f = cls.fields(home, raw)
        pairs = f["high"].reshape(-1, 2, 1, 32) >> home.xp.asarray(np.array([0, 2, 4, 6], np.uint8))[:, None]
        codes = halves(home, f["low"], 64) | ((pairs & 3).reshape(-1, 256) << 4)
        return Parts(codes, f["d"], f["scales"])
