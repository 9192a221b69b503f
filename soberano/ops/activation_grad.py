"""Gradient rules of soberano/ops/activation.py."""

import math
from typing import Any

from soberano.backends.homes import namespace
from soberano.core.types import Array
from soberano.ops import activation as ops
from soberano.ops.activation import Form


def silu(grad: Array, result: Array, x: Array) -> tuple[Any, ...]:
    """d silu = s + silu * (1 - s) for s = sigmoid(x)."""
    xp = namespace(x)
    small = xp.exp(-abs(x))  # never overflows
    s = xp.where(x >= 0, 1.0, small) / (1 + small)
    return (grad * (s + result * (1 - s)),)


def swiglu(grad: Array, result: Array, gate: Array, up: Array) -> tuple[Any, ...]:
    """An op of its own, which has a kernel."""
    return ops.swiglu_back(grad, gate, up)


def gelu(grad: Array, result: Array, x: Array, *, form: Form = "tanh") -> tuple[Any, ...]:
    """By the slope of the form."""
    return (grad * _gelu_slope(x, form),)


def geglu(grad: Array, result: Array, gate: Array, up: Array, *, form: Form = "tanh") -> tuple[Any, ...]:
    """The product rule."""
    return grad * up * _gelu_slope(gate, form), grad * ops.gelu(gate, form=form)


def soft_cap(grad: Array, result: Array, x: Array, *, cap: float) -> tuple[Any, ...]:
    """d tanh = 1 - tanh^2."""
    return (grad if cap == 0 else grad * (1 - (result / cap) ** 2),)


def _gelu_slope(x: Array, form: Form) -> Array:
    """P(z < x) + x * its slope, or the slope of its tanh form."""
    xp = namespace(x)
    if form == "tanh":
        c, cubic = math.sqrt(2 / math.pi), 0.044715
        t = xp.tanh(c * (x + cubic * x**3))
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * cubic * x * x)
    density = xp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    near = 0.5 + x / math.sqrt(2 * math.pi)  # of x near 0, where gelu(x) / x is 0 / 0
    below = xp.where(abs(x) > 1e-3, ops.gelu(x, form="erf") / xp.where(x == 0, 1.0, x), near)
    return below + x * density
