"""Losses over a vocabulary, in float32: cross_entropy to train by, kl_divergence to compare two models by."""

from soberano.backends.dispatch import op
from soberano.backends.homes import namespace
from soberano.core.errors import ShapeError
from soberano.core.types import Array
from soberano.ops.softmax import log_softmax


@op
def cross_entropy(logits: Array, targets: Array, *, ignore: int = -100) -> Array:
    """Average -log(softmax(logits)[target]) over the targets that are not `ignore`.

    logits (..., V) floating, targets (...) integer -> () float32; 0 when every target is ignored. Another target
    outside 0 .. V - 1 makes the result NaN on every home. Raises ShapeError.

    >>> import numpy as np
    >>> float(cross_entropy(np.zeros((2, 4), np.float32), np.array([3, -100]))) == float(np.log(np.float32(4)))
    True
    """
    xp = namespace(logits, targets)
    if logits.ndim == 0 or logits.shape[:-1] != targets.shape:
        raise ShapeError(f"cross_entropy: targets is {targets.shape} for logits {logits.shape}; pass one target a row")
    used = targets != ignore
    valid = (targets >= 0) & (targets < logits.shape[-1])
    logs = log_softmax(logits.astype(xp.float32))
    picked = xp.take_along_axis(logs, xp.where(used & valid, targets, 0)[..., None], axis=-1)[..., 0]
    costs = xp.where(used, xp.where(valid, -picked, xp.nan), 0.0)
    return (xp.sum(costs) / xp.maximum(xp.sum(used), 1)).astype(xp.float32)


@op
def with_slope(value: Array, x: Array, slope: Array) -> Array:
    """Return `value`, whose gradient with respect to x is known already: `slope`, like x. For losses made in parts."""
    return value


@op
def kl_divergence(p_logits: Array, q_logits: Array) -> Array:
    """Compute KL(p || q) = sum(p * (log p - log q)) of each row: how badly q stands in for p, in nats.

    p_logits, q_logits (..., V) floating -> (...) float32. A token with p = 0 adds nothing. Raises ShapeError.
    """
    xp = namespace(p_logits, q_logits)
    if p_logits.ndim == 0 or p_logits.shape != q_logits.shape:
        raise ShapeError(
            f"kl_divergence: p_logits is {p_logits.shape}, but q_logits is {q_logits.shape}; pass two of one shape"
        )
    p, q = log_softmax(p_logits.astype(xp.float32)), log_softmax(q_logits.astype(xp.float32))
    possible = p > -xp.inf
    gap = xp.where(possible, p, 0.0) - xp.where(
        possible, q, 0.0
    )  # chosen before the difference: -inf minus -inf is NaN
    return xp.sum(xp.where(possible, xp.exp(p), 0.0) * gap, axis=-1)
