"""Gradient rules of soberano/ops/loss.py."""

from typing import Any

from soberano.backends.homes import namespace
from soberano.core.types import Array
from soberano.ops.softmax import softmax


def cross_entropy(grad: Array, result: Array, logits: Array, targets: Array, *, ignore: int = -100) -> tuple[Any, ...]:
    """(softmax - one at the target) / number of targets; nothing for an ignored one."""
    xp = namespace(logits)
    used = targets != ignore
    places = xp.arange(logits.shape[-1]) == targets[..., None]
    slope = xp.where(used[..., None], softmax(logits) - places, 0.0)
    return slope * (grad / xp.maximum(xp.sum(used), 1)), None


def with_slope(grad: Array, result: Array, value: Array, x: Array, slope: Array) -> tuple[Any, ...]:
    """What was computed before."""
    return None, grad * slope, None
