"""Products with a weight: `linear(weight, x)` for every kind of weight, and `embed(weight, ids)` for its rows.

A kind of weight is a class, not a kind of model: an array, a packed QTensor, a Choice between formats. Model files call
`linear` and never ask which.
"""

from functools import partial
from typing import Any

from soberano.backends.dispatch import op
from soberano.backends.homes import home_of
from soberano.core.errors import ShapeError
from soberano.core.types import Array
from soberano.ops.low_rank import low_ranks
from soberano.quant.tensor import Adapted, Choice, Frozen, QTensor, Weight

Biases = tuple[Array | None, ...]


def linear(weight: Weight, x: Array, bias: Array | None = None, **how: Any) -> Array:
    """Multiply x (..., I) float32 by a weight (O, I) of any kind and add a bias (O,) -> (..., O) float32.

    Raises ShapeError. `how` is for the op beneath: impl="meaning", say.

    >>> import numpy as np
    >>> linear(np.array([[1.0, 2.0]], np.float32), np.array([3.0, 4.0], np.float32))
    array([11.], dtype=float32)
    """
    return linears((weight,), x, (bias,), **how)[0]


def linears(weights: tuple[Weight, ...], x: Array, biases: Biases | None = None, **how: Any) -> tuple[Array, ...]:
    """Multiply the same x (..., I) by several weights (O, I) of any kind -> (..., O) for each. Raises ShapeError.

    To each is added its bias (O,), where it has one. Together they are cheaper than one by one: x is prepared once.
    """
    results = products(tuple(w.base if isinstance(w, Adapted) else w for w in weights), x, biases, **how)
    adapted = {i: w for i, w in enumerate(weights) if isinstance(w, Adapted)}
    if not adapted:
        return results
    pairs, scales = tuple((w.a, w.b) for w in adapted.values()), tuple(w.scale for w in adapted.values())
    learnt = dict(zip(adapted, low_ranks(x, pairs, tuple(results[i] for i in adapted), scales=scales), strict=True))
    return tuple(learnt.get(i, y) for i, y in enumerate(results))


@op
def products(weights: tuple[Frozen, ...], x: Array, biases: Biases | None = None) -> tuple[Array, ...]:
    """Multiply the same x (..., I) by several frozen weights (O, I), decoded to float32 -> (..., O) for each.

    To each is added its bias (O,), where it has one. Raises ShapeError when the last axis of x is not a weight's, or a
    bias does not fit.
    """
    biases = biases or (None,) * len(weights)
    return tuple(_biased(_product(weight, x), bias) for weight, bias in zip(weights, biases, strict=True))


def _product(weight: Frozen, x: Array) -> Array:
    home = home_of(x)
    if isinstance(weight, Choice):
        branches = [partial(_product, option) for option in weight.options(home)]
        return home.switch(weight.tag[weight.index], branches, x)
    if x.shape[-1] != weight.shape[-1]:
        raise ShapeError(
            f"linear: the weight is {tuple(weight.shape)}, but the last axis of x {tuple(x.shape)} is {x.shape[-1]}; "
            f"pass x with {weight.shape[-1]} columns"
        )
    dense = weight.dense(home) if isinstance(weight, QTensor) else weight.astype(home.xp.float32)
    return x @ dense.T


def _biased(y: Array, bias: Array | None) -> Array:
    if bias is None:
        return y
    if bias.shape != y.shape[-1:]:
        raise ShapeError(
            f"linear: bias is {tuple(bias.shape)}, but the weight has {y.shape[-1]} outputs; pass that many"
        )
    return y + bias.astype(y.dtype)


@op
def embed(weight: Array | QTensor, ids: Array) -> Array:
    """Decode rows `ids` (...) int32 of a weight (V, D) -> (..., D) float32. Every id must be in 0..V-1."""
    home = home_of(ids)
    return weight.rows(home, ids) if isinstance(weight, QTensor) else weight[ids].astype(home.xp.float32)
