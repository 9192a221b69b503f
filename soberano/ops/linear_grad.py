"""Gradient rules of soberano/ops/linear.py. Weights are frozen: what is trained beside them is in low_rank.py."""

from typing import Any

from soberano.core.types import Array
from soberano.ops.linear import Biases
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
