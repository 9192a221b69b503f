"""Sets of vectors as a scan reads them: N rows of one width, in float32, bfloat16, bytes or single bits.

    float32    the numbers themselves; for cosine, rows of length 1
    bfloat16   their upper halves, rounded
    int8       x is about scale * code, codes from -127 to 127, a scale for each row
    bit        x is about scale * sign(x), the scale of a row its mean absolute value

A packed row x' is near its original x, and how near is stored with it: `error` is such that for every query q, on every
home, the float32 score of x is at most the score of x' + |q| error. That is what lets ops/certified.py prove answers.

It lives beside the quantised tensor and not in it: a weight has a format from a file, groups along its row and layers
in a stack, while a row here has one scale, a distance to its original, and a metric.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import ml_dtypes
import numpy as np

from soberano.backends.base import Home
from soberano.backends.tree import node
from soberano.core.errors import InputError, ShapeError
from soberano.core.types import Array
from soberano.quant.plain import BF16

Kind = Literal["float32", "bfloat16", "int8", "bit"]
Metric = Literal["dot", "cosine", "l2"]

TINY = 1e-16
"""Added to lengths and errors that are bounds, so that they stay bounds where float32 underflows to 0."""
LONGEST = 1e18
"""A vector may be so long, and no longer: scores are of the order of its square, which float32 must hold."""
_CHUNK = 16384  # rows packed at a time, so that float64 copies stay small


@node(static=("kind", "metric", "width"))
@dataclass(frozen=True)
class Vectors:
    """N vectors of D = `width` numbers, to be searched by one metric.

    `data` is float32 (N, D), uint8 (N, 2 D) for bfloat16, int8 (N, D), or uint8 (N, ceil(D / 8)) for bit, where the
    lowest bit comes first and a set bit means x >= 0. The rest is float32 (N,), and None where there is no need:
    `scale` for int8 and bit, `error` for all but float32, and `half` = |x|^2 / 2 of the original for l2.
    """

    data: Array
    scale: Array | None
    error: Array | None
    half: Array | None
    kind: Kind
    metric: Metric
    width: int

    def __len__(self) -> int:
        return self.data.shape[0]

    def rows(self, home: Home, ids: Array) -> Array:
        """Decode the rows `ids` (...) int32 -> float32 (..., D)."""
        xp, data = home.xp, self.data[ids]
        if self.kind == "bfloat16":
            return BF16.dequantize(home, data)
        if self.kind == "bit":
            bits = (data[..., None] >> xp.arange(8, dtype=xp.uint8)) & 1
            data = bits.reshape(*data.shape[:-1], -1)[..., : self.width].astype(xp.float32) * 2 - 1
        if self.scale is not None:
            data = data.astype(xp.float32) * self.scale[ids][..., None]
        return data

    def packed(self, kind: Kind) -> "Vectors":
        """The same vectors in a smaller kind; on NumPy. Raises InputError for rows that are packed already."""
        if kind not in get_args(Kind):
            raise InputError(f"vectors: kind is {kind!r}; pass one of {', '.join(get_args(Kind))}")
        if self.kind not in ("float32", "bfloat16") or not isinstance(self.data, np.ndarray):
            raise InputError(
                f"vectors: {self.kind} on {type(self.data).__name__} cannot be packed; keep the float32 vectors, on "
                "NumPy, and pack those"
            )
        if kind == self.kind:
            return self
        if kind == "float32":
            return replace(self, data=np.concatenate([x for _, x in self._chunks()]), error=None, kind=kind)
        n, shape = len(self), {"bfloat16": 2 * self.width, "int8": self.width, "bit": -(-self.width // 8)}
        data = np.empty((n, shape[kind]), np.int8 if kind == "int8" else np.uint8)
        scale, error = np.ones(n, np.float32), np.empty(n, np.float32)
        for at, x in self._chunks():
            data[at], near = _ENCODERS[kind](x, scale[at])
            error[at] = _bound(x.astype(np.float64), near)
        return Vectors(data, None if kind == "bfloat16" else scale, error, self.half, kind, self.metric, self.width)

    def _chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        from soberano.backends.numpy_ import HOME

        for start in range(0, len(self), _CHUNK):
            at = slice(start, min(start + _CHUNK, len(self)))
            yield at, self.rows(HOME, np.arange(at.start, at.stop))


def vectors(base: np.ndarray, metric: Metric = "cosine") -> Vectors:
    """Take N vectors (N, D) of any float type for searches by `metric`, as float32; for cosine, rows are normalised.

    Raises InputError for a metric that is none, or numbers that are NaN, infinite or too large; ShapeError.
    """
    if metric not in get_args(Metric):
        raise InputError(f"vectors: metric is {metric!r}; pass one of {', '.join(get_args(Metric))}")
    if base.ndim != 2 or 0 in base.shape:
        raise ShapeError(f"vectors: base is {base.shape}; pass (N, D), a vector a row, at least one of each")
    if base.dtype.kind != "f" and base.dtype != ml_dtypes.bfloat16:
        raise InputError(f"vectors: base is {base.dtype}; pass floating-point numbers, base.astype(numpy.float32) say")
    with np.errstate(over="ignore"):  # infinities are found below
        data = np.ascontiguousarray(base, np.float32)
    half = np.empty(len(data), np.float32)
    if metric == "cosine":
        data = np.array(data)  # its own, to be normalised in place
    for start in range(0, len(data), _CHUNK):
        part = data[start : start + _CHUNK]
        wide = part.astype(np.float64)
        squares = np.einsum("nd,nd->n", wide, wide)
        bad = ~(squares <= LONGEST**2)  # so that NaN is bad too
        if bad.any():
            raise InputError(
                f"vectors: row {start + int(bad.argmax())} holds NaN, an infinity or numbers so large that its length "
                f"exceeds {LONGEST:g}; leave it out or scale the vectors down"
            )
        half[start : start + _CHUNK] = squares / 2
        if metric == "cosine":
            part[:] = wide / np.sqrt(np.where(squares == 0, 1, squares))[:, None]
    return Vectors(data, None, None, half if metric == "l2" else None, "float32", metric, data.shape[1])


def _bfloat16(x: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    near = x.astype(ml_dtypes.bfloat16)
    return near.view(np.uint8), near.astype(np.float64)


def _int8(x: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    largest = np.abs(x).max(axis=1)
    scale[:] = np.where(largest < 1e-30, 0, largest / np.float32(127))  # what is smaller underflows: all error
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.where(scale[:, None] > 0, np.rint(x / scale[:, None]), 0).clip(-127, 127).astype(np.int8)
    return codes, codes * scale[:, None].astype(np.float64)


def _bit(x: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale[:] = np.abs(x).mean(axis=1, dtype=np.float64)
    positive = x >= 0
    return np.packbits(positive, axis=1, bitorder="little"), np.where(positive, 1.0, -1.0) * scale[:, None]


_ENCODERS = {"bfloat16": _bfloat16, "int8": _int8, "bit": _bit}


def _bound(x: np.ndarray, near: np.ndarray) -> np.ndarray:
    """What |q| must be multiplied by to cover everything that parts a score of x' from the float32 score of x.

    By Cauchy and Schwarz |q.x - q.x'| <= |q| |x - x'|. Then there is rounding, relative to |q| |x|: of the query to 15
    bits, at most half a step of max|q| / 16256 in each of D columns; and of two float32 sums, of D and of 2 D terms in
    any order, each at most 2^-24 a term. The last factor covers the arithmetic here.
    """
    width = x.shape[1]
    length = np.maximum(np.linalg.norm(x, axis=1), np.linalg.norm(near, axis=1))
    rounding = np.sqrt(width) / (2 * 16256) + (3 * width + 64) * 2.0**-24
    exact = np.linalg.norm(x - near, axis=1) + rounding * length
    return np.nextafter((exact * (1 + 1e-6) + TINY).astype(np.float32), np.float32(np.inf))
