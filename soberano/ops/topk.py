"""The k largest numbers of each row, in order, with their places."""

from soberano.backends.dispatch import op
from soberano.backends.homes import home_of
from soberano.core.errors import InputError, ShapeError
from soberano.core.types import Array


@op
def top_k(x: Array, k: int) -> tuple[Array, Array]:
    """Find the k largest of each row: values in descending order, and their indices. Equal values: lower index first.

    x (..., N) floating -> values (..., k) like x, indices (..., k) int32. NaN has no place in this order: no NaN goes
    in. Raises InputError, ShapeError.

    >>> import numpy as np
    >>> top_k(np.array([1.0, 3.0, 2.0, 3.0]), 3)[1].tolist()
    [1, 3, 2]
    """
    home = home_of(x)
    xp = home.xp
    if x.ndim == 0:
        raise ShapeError("top_k: x is a single number; it needs a last axis to choose from, so pass x.reshape(1)")
    size = x.shape[-1]
    if not 1 <= k <= size:
        raise InputError(f"top_k: k is {k}, but a row of x {x.shape} has {size} numbers; pass a k from 1 to {size}")
    rows = x.reshape(-1, size)
    smallest = -xp.partition(-rows, k - 1, axis=-1)[:, k - 1 : k]  # (rows, 1), without a full sort
    above, equal = rows > smallest, rows == smallest
    missing = k - xp.count_nonzero(above, axis=-1)[:, None]
    chosen = above | (equal & (xp.cumsum(equal, axis=-1) <= missing))  # exactly k in every row
    # The j-th chosen number of all rows together stands where the running count first reaches j.
    count = xp.cumsum(chosen.reshape(-1).astype(xp.int32))
    found = xp.searchsorted(count, xp.arange(1, rows.shape[0] * k + 1, dtype=xp.int32)).reshape(-1, k)
    indices = (found - xp.arange(rows.shape[0])[:, None] * size).astype(xp.int32)
    values = xp.take_along_axis(rows, indices, axis=-1)
    order = home.argsort(-values)
    values, indices = (xp.take_along_axis(part, order, axis=-1) for part in (values, indices))
    return values.reshape(*x.shape[:-1], k), indices.reshape(*x.shape[:-1], k)
