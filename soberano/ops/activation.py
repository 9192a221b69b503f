"""Activations of the feed-forward layer. Each is computed in float32 and returned like its input.

Every formula is written so that nothing overflows and no small result is the difference of large ones.
"""

import math
from typing import Literal

from soberano.backends.dispatch import op
from soberano.backends.homes import namespace
from soberano.core.errors import InputError, ShapeError
from soberano.core.types import Array

Form = Literal["tanh", "erf"]


@op
def relu(x: Array) -> Array:
    """Compute max(x, 0). x floating -> like x."""
    xp = namespace(x)
    return xp.where(x > 0, x, 0).astype(x.dtype)


@op
def sigmoid(x: Array) -> Array:
    """Compute 1 / (1 + exp(-x)). x floating -> like x."""
    xp = namespace(x)
    return _sigmoid(x.astype(xp.float32)).astype(x.dtype)


@op
def silu(x: Array) -> Array:
    """Compute x * sigmoid(x), also called swish. x floating -> like x.

    >>> import numpy as np
    >>> silu(np.array([0.0, 100.0], np.float32)).tolist()
    [0.0, 100.0]
    """
    xp = namespace(x)
    return _silu(x.astype(xp.float32)).astype(x.dtype)


@op
def gelu(x: Array, *, form: Form = "tanh") -> Array:
    """Compute x * P(a standard normal number < x). x floating -> like x.

    "erf" is that; "tanh" is its usual approximation, which most models were trained with (off by at most 5e-4).
    Raises InputError. Source: Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """
    return _gelu("gelu", x.astype(namespace(x).float32), form).astype(x.dtype)


@op
def soft_cap(x: Array, *, cap: float) -> Array:
    """Compute cap * tanh(x / cap), which keeps x between -cap and cap; x itself where cap is 0. x floating -> like x.

    Source: arXiv 2408.00118, section 2.
    """
    if cap == 0:
        return x
    xp = namespace(x)
    return (cap * xp.tanh(x.astype(xp.float32) / cap)).astype(x.dtype)


@op
def swiglu(gate: Array, up: Array) -> Array:
    """Compute silu(gate) * up, the gated unit of llama. Both (..., F) floating -> like gate. Raises ShapeError.

    Source: Shazeer 2020, arXiv 2002.05202.
    """
    xp = namespace(gate, up)
    _check("swiglu", gate, up)
    return (_silu(gate.astype(xp.float32)) * up.astype(xp.float32)).astype(gate.dtype)


@op
def swiglu_back(grad: Array, gate: Array, up: Array) -> tuple[Array, Array]:
    """The gradients of gate and up, from that of swiglu(gate, up): all (..., F) floating -> two like gate.

    With s = sigmoid(gate): grad * up * (s + gate * s * (1 - s)), and grad * gate * s.
    """
    xp = namespace(gate, up)
    g, wide = grad.astype(xp.float32), gate.astype(xp.float32)
    s = _sigmoid(wide)
    value = wide * s
    return (g * up.astype(xp.float32) * (s + value * (1 - s))).astype(gate.dtype), (g * value).astype(gate.dtype)


@op
def geglu(gate: Array, up: Array, *, form: Form = "tanh") -> Array:
    """Compute gelu(gate) * up, the gated unit of gemma. Both (..., F) floating -> like gate.

    Raises InputError, ShapeError.
    """
    xp = namespace(gate, up)
    _check("geglu", gate, up)
    return (_gelu("geglu", gate.astype(xp.float32), form) * up.astype(xp.float32)).astype(gate.dtype)


@op
def clamped_swiglu(gate: Array, up: Array, *, slope: float = 1.702, limit: float = 7.0) -> Array:
    """Compute g * sigmoid(slope * g) * (u + 1) of g = min(gate, limit) and of u = up, kept between -limit and limit.

    The gated unit of gpt-oss. Both (..., F) floating -> like gate. Raises ShapeError. Source: arXiv 2508.10925.
    """
    xp = namespace(gate, up)
    _check("clamped_swiglu", gate, up)
    g = xp.minimum(gate.astype(xp.float32), limit)
    u = xp.clip(up.astype(xp.float32), -limit, limit)
    return (g * _sigmoid(slope * g) * (u + 1)).astype(gate.dtype)


def _sigmoid(x: Array) -> Array:
    xp = namespace(x)
    small = xp.exp(-xp.abs(x))  # never above 1, so neither it nor its gradient overflows
    return xp.where(x >= 0, 1.0, small) / (1 + small)


def _silu(x: Array) -> Array:
    return x * _sigmoid(x)


def _gelu(name: str, x: Array, form: Form) -> Array:
    if form == "tanh":  # x/2 * (1 + tanh(u)) is x * sigmoid(2u); a true equality, and without cancellation below 0
        return x * _sigmoid(2 * math.sqrt(2 / math.pi) * (1 + 0.044715 * x * x) * x)
    if form == "erf":
        below = _normal_below_minus(x)
        return x * namespace(x).where(x >= 0, 1 - below, below)
    raise InputError(f"{name}: form is {form!r}; pass 'tanh' or 'erf'")


# P(normal < -y) = exp(-y*y/2) * t * polynomial(t) with t = 1 / (1 + y / 3.125), which maps 0 .. infinity to 1 .. 0.
# Fitted here: the polynomial that meets the exact value at the ten Chebyshev points of [0, 1]; relative error 4e-8.
_TAIL = (
    0.127661538,
    0.12765991,
    0.114647028,
    0.0875935304,
    0.0597993262,
    -0.0125339992,
    0.0704682611,
    -0.151607695,
    0.0979352152,
    -0.0216231323,
)


def _normal_below_minus(x: Array) -> Array:
    """P(a standard normal number < -|x|). NumPy has no erf, and a relative error keeps gelu's long left tail right."""
    xp = namespace(x)
    t = 1 / (1 + xp.abs(x) / 3.125)
    value = _TAIL[-1]
    for coefficient in _TAIL[-2::-1]:
        value = value * t + coefficient
    return xp.exp(-x * x / 2) * t * value


def _check(name: str, gate: Array, up: Array) -> None:
    if gate.shape != up.shape:
        raise ShapeError(f"{name}: gate is {gate.shape}, but up is {up.shape}; pass two arrays of one shape")
