"""Products with a weight from the other side: what the gradient of `linear` with respect to its input is made of."""

from soberano.backends.dispatch import op
from soberano.backends.homes import home_of
from soberano.core.errors import ShapeError
from soberano.core.types import Array
from soberano.quant.tensor import Choice, Frozen, QTensor


@op
def linears_transposed(weights: tuple[Frozen, ...], *ys: Array) -> Array:
    """Multiply each y (..., O) float32 by its weight (O, I), decoded to float32, and add all -> (..., I) float32.

    There is one y for each weight. Raises ShapeError when the last axis of a y is not the first of its weight.

    >>> import numpy as np
    >>> linears_transposed((np.array([[1.0, 2.0]], np.float32),), np.array([3.0], np.float32))
    array([3., 6.], dtype=float32)
    """
    total = _product(weights[0], ys[0])
    for weight, y in zip(weights[1:], ys[1:], strict=True):
        total = total + _product(weight, y)
    return total


def _product(weight: Frozen, y: Array) -> Array:
    home = home_of(y)
    if isinstance(weight, Choice):
        branches = [lambda y, option=option: _product(option, y) for option in weight.options(home)]
        return home.switch(weight.tag[weight.index], branches, y)
    if y.shape[-1] != weight.shape[0]:
        raise ShapeError(
            f"linears_transposed: the weight is {tuple(weight.shape)}, but the last axis of y {tuple(y.shape)} is "
            f"{y.shape[-1]}; pass y with {weight.shape[0]} columns"
        )
    return y @ (weight.dense(home) if isinstance(weight, QTensor) else weight.astype(home.xp.float32))
