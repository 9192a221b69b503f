"""Normalise the last axis: rms_norm and layer_norm. Sums are float32 whatever the dtype of x."""

from soberano.backends.dispatch import op
from soberano.backends.homes import namespace
from soberano.core.errors import ShapeError
from soberano.core.types import Array


@op
def rms_norm(x: Array, weight: Array, *, eps: float) -> Array:
    """Divide each vector by its root mean square and scale it: x / sqrt(mean(x**2) + eps) * weight.

    x (..., D) floating, weight (D,) -> (..., D) like x. Raises ShapeError. Source: Zhang and Sennrich 2019, arXiv
    1910.07467.

    >>> import numpy as np
    >>> rms_norm(np.array([3.0, -3.0], np.float32), np.ones(2, np.float32), eps=0.0).tolist()
    [1.0, -1.0]
    """
    xp = namespace(x)
    _check("rms_norm", "weight", weight, x)
    wide = x.astype(xp.float32)
    size = xp.sqrt(xp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (wide / size * weight.astype(xp.float32)).astype(x.dtype)


@op
def rms_norm_back(grad: Array, x: Array, weight: Array, *, eps: float) -> Array:
    """The gradient of x, from that of rms_norm(x, weight): grad and x (..., D) floating, weight (D,) -> like x.

    With r = 1 / sqrt(mean(x^2) + eps) and g = grad * weight: r * (g - x * r^2 * mean(g * x)).
    """
    xp = namespace(x)
    _check("rms_norm_back", "weight", weight, x)
    wide, g = x.astype(xp.float32), grad.astype(xp.float32) * weight.astype(xp.float32)
    r = 1 / xp.sqrt(xp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (r * (g - wide * (r * r * xp.mean(g * wide, axis=-1, keepdims=True)))).astype(x.dtype)


@op
def layer_norm(x: Array, weight: Array, bias: Array | None, *, eps: float) -> Array:
    """Centre each vector, divide it by its standard deviation, scale and shift it.

    x (..., D) floating, weight (D,), bias (D,) or None -> (..., D) like x. The variance is the mean of squared
    deviations (no D - 1). Raises ShapeError. Source: Ba, Kiros and Hinton 2016, arXiv 1607.06450.
    """
    xp = namespace(x)
    _check("layer_norm", "weight", weight, x)
    wide = x.astype(xp.float32)
    centred = wide - xp.mean(wide, axis=-1, keepdims=True)
    spread = xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + eps)
    result = centred / spread * weight.astype(xp.float32)
    if bias is not None:
        _check("layer_norm", "bias", bias, x)
        result = result + bias.astype(xp.float32)
    return result.astype(x.dtype)


@op
def add_layer_norm(x: Array, y: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    """Compute layer_norm(x + y): what stands behind each half of a block in the original transformer.

    x and y (..., D) floating, weight and bias (D,) -> (..., D) like x. Raises ShapeError. Source: arXiv:1706.03762.
    """
    xp = namespace(x)
    if x.shape != y.shape:
        raise ShapeError(f"add_layer_norm: x is {x.shape}, but y is {y.shape}; pass two arrays of one shape")
    return layer_norm(x.astype(xp.float32) + y.astype(xp.float32), weight, bias, eps=eps).astype(x.dtype)


def _check(name: str, argument: str, vector: Array, x: Array) -> None:
    if x.ndim == 0:
        raise ShapeError(f"{name}: x is a single number; it needs a last axis to normalise, so pass x.reshape(1)")
    if vector.shape != x.shape[-1:]:
        width = x.shape[-1]
        raise ShapeError(
            f"{name}: {argument} is {vector.shape}, but the last axis of x {x.shape} is {width}; pass ({width},)"
        )
