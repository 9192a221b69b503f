"""From the vectors of a text's tokens to the vector of the text."""

from typing import Literal, get_args

from soberano.backends.dispatch import op
from soberano.backends.homes import home_of
from soberano.core.errors import InputError
from soberano.core.types import Array

Pooling = Literal["none", "mean", "cls", "last"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


@op
def pool(x: Array, lengths: Array, *, how: Pooling) -> Array:
    """Make one vector of each text: x (B, T, D), lengths (B,) int32 of 1 or more -> (B, D) float32.

    mean: of all tokens; cls: the first; last: the last one; none: x as it is. Raises InputError for any other.

    >>> import numpy as np
    >>> pool(np.array([[[1.0], [3.0], [9.0]]], np.float32), np.array([2]), how="mean").tolist()
    [[2.0]]
    """
    xp = home_of(x).xp
    x = x.astype(xp.float32)
    if how == "none":
        return x
    if how == "cls":
        return x[:, 0]
    if how == "last":
        return xp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)[:, 0]
    if how == "mean":
        inside = xp.arange(x.shape[1]) < lengths[:, None]  # (B, T)
        return xp.sum(xp.where(inside[..., None], x, 0.0), axis=1) / lengths[:, None].astype(xp.float32)
    raise InputError(f"pool: how is {how!r}; pass one of {', '.join(POOLINGS)}")
