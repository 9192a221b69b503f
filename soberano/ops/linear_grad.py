"""Gradient rules of soberano/ops/linear.py. Weights are frozen: what is trained beside them is an op of its own."""

from typing import Any

from soberano.backends.homes import home_of
from soberano.core.types import Array
from soberano.ops.linear import Biases, by_rank
from soberano.ops.linear_transposed import linears_transposed
from soberano.quant.tensor import Frozen


def products(
    grads: tuple[Array, ...],
    results: tuple[Array, ...],
    weights: tuple[Frozen, ...],
    x: Array,
    biases: Biases | None = None,
) -> tuple[Any, ...]:
    """The gradient of x passes back through each weight, packed as it is; that of a bias is summed over the rows."""
    given = biases or (None,) * len(weights)
    sums = (None if b is None else g.reshape(-1, g.shape[-1]).sum(0) for g, b in zip(grads, given, strict=True))
    return None, linears_transposed(weights, *grads), tuple(sums) if biases else None


def low_ranks(
    grads: tuple[Array, ...],
    results: tuple[Array, ...],
    x: Array,
    pairs: tuple[tuple[Array, Array], ...],
    *,
    scales: tuple[float, ...],
) -> tuple[Any, ...]:
    """Of y = scale * (x A^T) B^T. The inner product is computed again: it is smaller than what keeping it costs."""
    xp, rows = home_of(x).xp, x.reshape(-1, x.shape[-1])
    together = xp.concatenate([a for a, _ in pairs])  # (all R, I)
    back = [(scale * grad).reshape(-1, grad.shape[-1]) for scale, grad in zip(scales, grads, strict=True)]
    outer = xp.concatenate([y @ b for y, (_, b) in zip(back, pairs, strict=True)], axis=-1)  # (N, all R)
    slopes_a = by_rank((rows.T @ outer), pairs)  # (I, R) each
    slopes_b = [y.T @ inner for y, inner in zip(back, by_rank(rows @ together.T, pairs), strict=True)]
    slopes = tuple((a.T, b) for a, b in zip(slopes_a, slopes_b, strict=True))
    return (outer @ together).reshape(x.shape), slopes
