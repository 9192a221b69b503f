"""Gradient rules of soberano/ops/linear.py. Weights are frozen: what is trained beside them is an op of its own."""

from typing import Any

from soberano.core.types import Array
from soberano.ops.linear_transposed import linears_transposed
from soberano.quant.tensor import Frozen


def products(
    grads: tuple[Array, ...], results: tuple[Array, ...], weights: tuple[Frozen, ...], x: Array
) -> tuple[Any, ...]:
    """The gradient of x passes back through each weight, packed as it is."""
    return None, linears_transposed(weights, *grads)


def low_rank(grad: Array, result: Array, x: Array, a: Array, b: Array, *, scale: float) -> tuple[Any, ...]:
    """Of y = scale * (x A^T) B^T. The inner product is computed again: it is smaller than what keeping it costs."""
    rows, back = x.reshape(-1, x.shape[-1]), (scale * grad).reshape(-1, grad.shape[-1])
    inner, outer = rows @ a.T, back @ b  # (N, R)
    return (outer @ a).reshape(x.shape), outer.T @ rows, back.T @ inner
