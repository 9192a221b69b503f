"""F32, F16 and BF16: numbers as they are, as formats of one weight a block."""

from typing import ClassVar

import numpy as np

from soberano.backends.base import Home
from soberano.core.types import Array
from soberano.quant.blocks import BlockFormat


class Plain(BlockFormat):
    """A format without codes; `dequantize` is a cast."""

    block = 1
    group = 1
    plain: ClassVar[bool] = True


class F32(Plain, ggml=0):
    """IEEE single precision."""

    layout = np.dtype([("w", "<f4")])
    bits = 32

    @classmethod
    def dequantize(cls, home: Home, raw: Array) -> Array:
        cls.check(raw)
        return home.bitcast(raw, np.dtype("<f4"))


class F16(Plain, ggml=1):
    """IEEE half precision: 5 bits of exponent, 10 of fraction."""

    layout = np.dtype([("w", "<f2")])
    bits = 16

    @classmethod
    def dequantize(cls, home: Home, raw: Array) -> Array:
        cls.check(raw)
        with np.errstate(invalid="ignore"):  # the cast of a signalling NaN
            return home.bitcast(raw, np.dtype("<f2")).astype(home.xp.float32)


class BF16(Plain, ggml=30):
    """The upper half of a single: 8 bits of exponent, 7 of fraction."""

    layout = np.dtype([("w", "<u2")])  # NumPy has no such float; the bits are all we need
    bits = 16

    @classmethod
    def dequantize(cls, home: Home, raw: Array) -> Array:
        pairs = raw.reshape(*raw.shape[:-1], cls.check(raw), 2)
        words = home.xp.concatenate([home.xp.zeros_like(pairs), pairs], axis=-1)  # low half of the single is 0
        return home.bitcast(words.reshape(*raw.shape[:-1], 2 * raw.shape[-1]), np.dtype("<f4"))
