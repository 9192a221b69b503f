"""Gradient rules of soberano/ops/low_rank.py."""

from typing import Any

from soberano.core.types import Array
from soberano.ops.low_rank import Pairs, low_ranks_back


def low_ranks(
    grads: tuple[Array, ...],
    results: tuple[Array, ...],
    x: Array,
    pairs: Pairs,
    onto: tuple[Array, ...],
    *,
    scales: tuple[float, ...],
) -> tuple[Any, ...]:
    """An op of its own, which has a kernel; what was added to gets the gradients as they are."""
    return (*low_ranks_back(grads, x, pairs, scales=scales), grads)
