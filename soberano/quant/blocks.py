"""What a block format is: a packed NumPy dtype (the bytes of one block) and one small family of integer codes.

A weight matrix in a file is rows of blocks. Every format of the file decodes into the same `Parts`, and every weight is

    w = (d * sub) * (codes - zero) - (m * submin)

or, for a format with a codebook, (d * sub) * codebook[codes]; so kernels are written for that family and never for a
file format. A subclass gives `block`, `layout`, `group`, `zero` or `codebook`, `bits` and `parts`; sizes, the GGUF
reader's checks, random test blocks and `dequantize` follow from them.

All products above are exact in float32: d and m have 11 significant bits, and a code times its scale has at most 13.
So only the subtraction rounds, and neither the order of the products nor a fused multiply-add can change a bit.
"""

import functools
import pkgutil
from importlib import import_module
from typing import ClassVar, NamedTuple

import numpy as np

import soberano.quant
from soberano.backends.base import Home
from soberano.core.errors import InputError, ShapeError, Unsupported, UnsupportedModel
from soberano.core.types import Array

FORMATS: dict[int, type["BlockFormat"]] = {}
"""ggml type id -> format. A format enters when its class is made; `all_formats()` makes them all."""


class Parts(NamedTuple):
    """N blocks, taken apart. Codes are unsigned; what is None does not take part in the formula."""

    codes: Array  # (N, block) uint8, 0 .. 2**bits - 1
    d: Array  # (N, 1) float16 or float32
    sub: Array | None = None  # (N, block / group) uint8 or int8: a scale per group, times d
    m: Array | None = None  # (N, 1) float16, subtracted
    submin: Array | None = None  # (N, block / group) uint8: a minimum per group, times m


class BlockFormat:
    """A format of weights in a file. Never instantiated: the class is the value."""

    name: ClassVar[str]
    ggml: ClassVar[int]  # the type id in GGUF files
    block: ClassVar[int]  # weights in a block
    layout: ClassVar[np.dtype]  # the bytes of a block, in file order
    group: ClassVar[int]  # weights that share a scale
    zero: ClassVar[int] = 0  # the code that means 0
    codebook: ClassVar[tuple[int, ...] | None] = None  # or what each code means
    bits: ClassVar[int]  # bits of a code
    plain: ClassVar[bool] = False  # numbers as they are: no codes, no parts
    block_bytes: ClassVar[int]
    bits_per_weight: ClassVar[float]

    def __init_subclass__(cls, *, ggml: int | None = None) -> None:
        if ggml is None:
            return
        assert ggml not in FORMATS, f"ggml type {ggml} is already {FORMATS[ggml].__name__}"
        cls.name, cls.ggml = cls.__name__, ggml
        cls.block_bytes = cls.layout.itemsize
        cls.bits_per_weight = 8 * cls.block_bytes / cls.block
        FORMATS[ggml] = cls

    @classmethod
    def row_bytes(cls, weights: int) -> int:
        """The bytes of a row of that many weights. Raises ShapeError unless it is whole blocks."""
        if weights % cls.block:
            raise ShapeError(
                f"{cls.name}: a row of {weights} weights is no multiple of the {cls.block}-weight block; "
                f"pad the row or use a format with a smaller block"
            )
        return weights // cls.block * cls.block_bytes

    @classmethod
    def row_weights(cls, row_bytes: int) -> int:
        """The weights in a row of that many bytes. Raises ShapeError unless it is whole blocks."""
        if row_bytes % cls.block_bytes:
            raise ShapeError(
                f"{cls.name}: a row of {row_bytes} bytes is no multiple of the {cls.block_bytes}-byte block; "
                f"pass whole rows"
            )
        return row_bytes // cls.block_bytes * cls.block

    @classmethod
    def check(cls, raw: Array) -> int:
        """The weights in a row of raw (..., row bytes). InputError unless uint8, ShapeError as row_weights."""
        if raw.dtype != np.uint8:
            raise InputError(f"{cls.name}: raw blocks are {raw.dtype}, not uint8; pass the bytes of the file")
        return cls.row_weights(raw.shape[-1])

    @classmethod
    def fields(cls, home: Home, raw: Array) -> dict[str, Array]:
        """Cut raw (..., row bytes) uint8 into the fields of `layout`: each (N, values per block), N blocks in all."""
        cls.check(raw)
        blocks = raw.reshape(-1, cls.block_bytes)
        cut = {}
        for name, (kind, start, *_) in (cls.layout.fields or {}).items():
            values = blocks[:, start : start + kind.itemsize]
            cut[name] = values if kind.base == np.uint8 else home.bitcast(values, kind.base)
        return cut

    @classmethod
    def parts(cls, home: Home, raw: Array) -> Parts:
        """Take raw (..., row bytes) uint8 apart, on any home. Raises Unsupported for a plain format: it has none."""
        raise Unsupported(f"{cls.name} is plain numbers without codes; use dequantize")

    @classmethod
    def dequantize(cls, home: Home, raw: Array) -> Array:
        """Decode raw (..., row bytes) uint8 to float32 (..., row weights), bit for bit what ggml decodes.

        The result may share memory with `raw` where the format is F32. The payload of a NaN is not kept everywhere.
        """
        with np.errstate(invalid="ignore", over="ignore"):  # as ggml: a hostile block's infinity times 0 is NaN
            w = decode_parts(home, cls.parts(home, raw), cls.group, cls.zero, cls.codebook)
        return w.reshape(*raw.shape[:-1], cls.check(raw))


def decode_parts(home: Home, parts: Parts, group: int, zero: int = 0, codebook: tuple[int, ...] | None = None) -> Array:
    """The formula of the family: parts of N blocks -> float32 (N, block)."""
    f32 = home.xp.float32
    scale = parts.d.astype(f32) if parts.sub is None else parts.d.astype(f32) * parts.sub.astype(f32)
    count, block = parts.codes.shape
    codes = parts.codes.reshape(count, block // group, group)
    if codebook is None:
        w = scale[..., None] * (codes.astype(f32) - float(zero))
    else:
        w = scale[..., None] * home.xp.asarray(np.array(codebook, np.float32))[codes]
    if parts.m is not None:
        low = parts.m.astype(f32) if parts.submin is None else parts.m.astype(f32) * parts.submin.astype(f32)
        w = w - low[..., None]
    return w.reshape(count, block)


def all_formats() -> list[type[BlockFormat]]:
    """Every format we know, in the order of their ggml ids."""
    _meet_formats()
    return [FORMATS[ggml] for ggml in sorted(FORMATS)]


@functools.cache
def _meet_formats() -> None:
    """Import the files beside this one, since a format is known by its class; but no kernels, which import a home."""
    names = {module.name for module in pkgutil.iter_modules(soberano.quant.__path__)}
    for name in sorted(names):
        if name.rpartition("_")[0] not in names:  # the kernels of x.py for a home lie in x_<home>.py
            import_module(f"soberano.quant.{name}")


def format_named(name: str) -> type[BlockFormat]:
    """The format called Q4_K, q4_k, F16 and so on. Raises UnsupportedModel for another name.

    >>> format_named("Q4_K").bits_per_weight
    4.5
    """
    known = {each.name: each for each in all_formats()}
    if name.upper() not in known:
        raise UnsupportedModel(f"no weight format is called {name!r}; there are {', '.join(known)}")
    return known[name.upper()]
