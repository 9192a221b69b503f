"""Gradient rules of soberano/ops/norm.py."""

from typing import Any

from soberano.backends.homes import namespace
from soberano.core.types import Array


def rms_norm(grad: Array, result: Array, x: Array, weight: Array, *, eps: float) -> tuple[Any, ...]:
    """With r = 1 / size: dx = r * (g - x * r^2 * mean(g * x)) for g = grad * weight; dweight = sum of grad * x * r."""
    xp = namespace(x)
    r = 1 / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + eps)
    g = grad * weight
    dx = r * (g - x * (r * r * xp.mean(g * x, axis=-1, keepdims=True)))
    return dx, xp.sum((grad * x * r).reshape(-1, x.shape[-1]), axis=0)


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
