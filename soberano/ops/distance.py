"""Compare every row of one set with every row of another: dot, cosine, l2 (squared) and hamming."""

from soberano.backends.dispatch import op
from soberano.backends.homes import namespace
from soberano.core.errors import InputError, ShapeError
from soberano.core.types import Array


@op
def dot(a: Array, b: Array) -> Array:
    """Compute all inner products. a (N, D), b (M, D) of any number type -> (N, M) float32. Raises ShapeError."""
    a, b = _rows("dot", a, b)
    return a @ b.T


@op
def cosine(a: Array, b: Array) -> Array:
    """Compute all cosines of the angles between rows: 1 is the same direction; 0 where either row is all zeros.

    a (N, D), b (M, D) of any number type -> (N, M) float32. Raises ShapeError.
    """
    a, b = _rows("cosine", a, b)
    return unit(a) @ unit(b).T


@op
def l2(a: Array, b: Array) -> Array:
    """Compute all squared Euclidean distances. a (N, D), b (M, D) of any number type -> (N, M) float32.

    As |a|^2 - 2ab + |b|^2, one matrix product: its error is relative to the lengths of the vectors, not to a small
    distance. Raises ShapeError.

    >>> import numpy as np
    >>> l2(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]])).tolist()
    [[25.0]]
    """
    xp = namespace(a, b)
    a, b = _rows("l2", a, b)
    squares = xp.sum(a * a, axis=-1)[:, None] + xp.sum(b * b, axis=-1)[None, :]
    return xp.maximum(squares - 2 * (a @ b.T), 0)


@op
def hamming(a: Array, b: Array) -> Array:
    """Count the bits in which rows of packed bits differ. a (N, D), b (M, D) uint8 -> (N, M) int32.

    Raises InputError, ShapeError.
    """
    xp = namespace(a, b)
    for name, packed in (("a", a), ("b", b)):
        if packed.dtype != xp.uint8:
            raise InputError(
                f"hamming: {name} is {packed.dtype}; pass bits packed into uint8, eight a byte (numpy.packbits does it)"
            )
    _check("hamming", a, b)
    x = a[:, None, :] ^ b[None, :, :]  # (N, M, D)
    x = x - (
        x >> 1 & 0x55
    )  # the sum of each two bits, then of each four, then of all eight; not every CuPy has bitwise_count
    x = (x & 0x33) + (x >> 2 & 0x33)
    return xp.sum((x + (x >> 4)) & 0x0F, axis=-1, dtype=xp.int32)


def unit(rows: Array) -> Array:
    """Divide rows (N, D) float32 by their lengths; a row of zeros stays one."""
    xp = namespace(rows)
    largest = xp.max(xp.abs(rows), axis=-1, keepdims=True)
    rows = rows / xp.where(
        largest == 0, 1, largest
    )  # so that squares of tiny or huge numbers neither vanish nor overflow
    square = xp.sum(rows * rows, axis=-1, keepdims=True)
    return rows / xp.sqrt(xp.where(square == 0, 1, square))


def _rows(name: str, a: Array, b: Array) -> tuple[Array, Array]:
    xp = namespace(a, b)
    _check(name, a, b)
    return a.astype(xp.float32), b.astype(xp.float32)


def _check(name: str, a: Array, b: Array) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"{name}: a is {a.shape} and b {b.shape}; pass (N, D) and (M, D), and x[None] for a single vector"
        )
