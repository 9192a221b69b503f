"""Gradient rules of soberano/ops/norm.py."""

from typing import Any

from soberano.backends.homes import namespace
from soberano.core.types import Array
from soberano.ops.norm import rms_norm_back


def rms_norm(grad: Array, result: Array, x: Array, weight: Array, *, eps: float) -> tuple[Any, ...]:
    """Of x, an op of its own, which has a kernel; of the weight, the sum of grad * x / size over rows."""
    xp = namespace(x)
    r = 1 / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + eps)
    return rms_norm_back(grad, x, weight, eps=eps), xp.sum((grad * x * r).reshape(-1, x.shape[-1]), axis=0)


def layer_norm(
    grad: Array, result: Array, x: Array, weight: Array, bias: Array | None, *, eps: float
) -> tuple[Any, ...]:
    """With n the normalised vector: dx = r * (g - mean(g) - n * mean(g * n)) for g = grad * weight."""
    xp = namespace(x)
    centred = x - xp.mean(x, axis=-1, keepdims=True)
    r = 1 / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + eps)
    n, g = centred * r, grad * weight
    dx = r * (g - xp.mean(g, axis=-1, keepdims=True) - n * xp.mean(g * n, axis=-1, keepdims=True))
    rows = grad.reshape(-1, x.shape[-1])
    return dx, xp.sum(rows * n.reshape(rows.shape), axis=0), None if bias is None else xp.sum(rows, axis=0)
