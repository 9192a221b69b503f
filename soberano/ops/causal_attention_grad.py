"""Gradient rule of soberano/ops/causal_attention.py: the weights are computed again, never kept."""

from typing import Any

from soberano.backends.homes import home_of
from soberano.core.types import Array
from soberano.ops.causal_attention import attention_weights, grouped


def causal_attention(
    grad: Array,
    result: Array,
    q: Array,
    k: Array,
    v: Array,
    segments: Array,
    window: Array | int | None = None,
    sinks: Array | None = None,
    *,
    scale: float | None = None,
    cap: float | None = None,
) -> tuple[Any, ...]:
    """For scores S and weights P: dS = P * (dP - sum(dP * P)), and sum(dP * P) = sum(grad * result).

    Sinks are frozen.
    """
    xp, width, kv_heads = home_of(q).xp, q.shape[-1], k.shape[2]
    weights, bent = attention_weights(q, k, segments, window, sinks, scale=scale, cap=cap)  # (B, K, G, T, T)
    back = grouped(grad, kv_heads)  # (B, K, G, T, E)
    values = xp.moveaxis(v, 1, 3)[:, :, None]  # (B, K, 1, E, T)
    along = xp.sum(back * grouped(result, kv_heads), axis=-1, keepdims=True)
    scores = weights * (back @ values - along) * (width**-0.5 if scale is None else scale)
    if bent is not None:
        scores = scores * (1 - bent * bent)
    keys = xp.moveaxis(k, 1, 2)[:, :, None]  # (B, K, 1, T, E)
    dq = xp.moveaxis(scores @ keys, 3, 1).reshape(q.shape)
    across = xp.swapaxes(scores, -1, -2)  # (B, K, G, T, T)
    dk = xp.moveaxis(xp.sum(across @ grouped(q, kv_heads), axis=2), 1, 2)  # (B, T, K, E)
    dv = xp.moveaxis(xp.sum(xp.swapaxes(weights, -1, -2) @ back, axis=2), 1, 2)
    return dq, dk, dv, None, None, None
