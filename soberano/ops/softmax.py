"""softmax, log_softmax and logsumexp over an axis, in float32 and without overflow.

A slice of nothing but -inf holds no distribution: its softmax is 0 everywhere (so a fully masked row of attention adds
nothing), its log_softmax is -inf everywhere and its logsumexp is -inf. NaN or +inf in a slice makes all of it NaN.
"""

from soberano.backends.dispatch import op
from soberano.backends.homes import namespace
from soberano.core.errors import ShapeError
from soberano.core.types import Array


@op
def softmax(x: Array, *, axis: int = -1) -> Array:
    """Compute exp(x) / sum(exp(x)) along an axis. x floating -> like x. Raises ShapeError.

    >>> import numpy as np
    >>> softmax(np.log(np.array([1.0, 3.0], np.float32))).round(2).tolist()
    [0.25, 0.75]
    """
    shifted, total, _ = _parts("softmax", x, axis)
    return (namespace(x).exp(shifted) / total).astype(x.dtype)


@op
def log_softmax(x: Array, *, axis: int = -1) -> Array:
    """Compute log(softmax(x)) along an axis, right even where softmax rounds to 0. x floating -> like x.

    Raises ShapeError.
    """
    shifted, total, _ = _parts("log_softmax", x, axis)
    return (shifted - namespace(x).log(total)).astype(x.dtype)


@op
def logsumexp(x: Array, *, axis: int = -1) -> Array:
    """Compute log(sum(exp(x))) along an axis, which is dropped. x floating -> like x. Raises ShapeError."""
    xp = namespace(x)
    _, total, top = _parts("logsumexp", x, axis)
    return xp.squeeze(top + xp.log(total), axis=axis).astype(x.dtype)


def _parts(name: str, x: Array, axis: int) -> tuple[Array, Array, Array]:
    """(x - max, sum of exp(x - max), max), axis kept; for a slice of -inf (-inf, 1, -inf), whose gradient is 0."""
    xp = namespace(x)
    if not -x.ndim <= axis < x.ndim:
        raise ShapeError(
            f"{name}: axis is {axis}, but x {x.shape} has {x.ndim} axes; pass one from {-x.ndim} to {x.ndim - 1}"
        )
    if x.shape[axis] == 0:
        raise ShapeError(
            f"{name}: x {x.shape} is empty along axis {axis}, so there is nothing to sum; pass at least one number"
        )
    wide = x.astype(xp.float32)
    top = xp.max(wide, axis=axis, keepdims=True)
    shifted = wide - xp.where(top == -xp.inf, 0.0, top)
    total = xp.sum(xp.exp(shifted), axis=axis, keepdims=True)
    return shifted, xp.where(total == 0, 1.0, total), top
