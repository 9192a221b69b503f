"""Products with a weight: `linear(weight, x)` for every kind of weight, and `embed(weight, ids)` for its rows.

A kind of weight is a class, not a kind of model: an array, a packed QTensor, a Choice between formats. Model files call
`linear` and never ask which.
"""

from soberano.backends.dispatch import op
from soberano.backends.homes import home_of
from soberano.core.errors import ShapeError
from soberano.core.types import Array
from soberano.quant.tensor import Choice, QTensor, Weight


def linear(weight: Weight, x: Array) -> Array:
    """Multiply x (..., I) float32 by a weight (O, I) of any kind -> (..., O) float32.

    >>> import numpy as np
    >>> linear(np.array([[1.0, 2.0]], np.float32), np.array([3.0, 4.0], np.float32))
    array([11.], dtype=float32)
    """
    if isinstance(weight, Choice):
        branches = [lambda x, w=w: product(w, x) for w in weight.weights]
        return home_of(x).switch(weight.tag, branches, x)
    return product(weight, x)


def linears(weights: tuple[Weight, ...], x: Array) -> tuple[Array, ...]:
    """Multiply the same x (..., I) by several weights: linear(w, x) for each, with less to do between them."""
    if any(isinstance(weight, Choice) for weight in weights):
        return tuple(linear(weight, x) for weight in weights)
    return products(weights, x)


def embed(weight: Weight, ids: Array) -> Array:
    """Rows `ids` (...) int32 of a weight (V, D) of any kind -> (..., D) float32."""
    if isinstance(weight, Choice):
        branches = [lambda ids, w=w: rows(w, ids) for w in weight.weights]
        return home_of(ids).switch(weight.tag, branches, ids)
    return rows(weight, ids)


@op
def product(weight: Array | QTensor, x: Array) -> Array:
    """Multiply x (..., I) by one weight (O, I): an array of any float type, or a QTensor, decoded to float32.

    Raises ShapeError when the last axis of x is not the weight's.
    """
    if x.shape[-1] != weight.shape[-1]:
        raise ShapeError(
            f"linear: the weight is {tuple(weight.shape)}, but the last axis of x {tuple(x.shape)} is {x.shape[-1]}; "
            f"pass x with {weight.shape[-1]} columns"
        )
    home = home_of(x)
    dense = weight.dense(home) if isinstance(weight, QTensor) else weight.astype(home.xp.float32)
    return x @ dense.T


@op
def products(weights: tuple[Array | QTensor, ...], x: Array) -> tuple[Array, ...]:
    """Multiply x (..., I) by each of several weights (O, I) -> (..., O) for each. Raises ShapeError."""
    return tuple(product.meaning(weight, x) for weight in weights)


@op
def rows(weight: Array | QTensor, ids: Array) -> Array:
    """Decode rows `ids` (...) int32 of one weight (V, D) -> (..., D) float32. Every id must be in 0..V-1."""
    home = home_of(ids)
    return weight.rows(home, ids) if isinstance(weight, QTensor) else weight[ids].astype(home.xp.float32)
