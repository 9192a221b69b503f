"""Gradient rule of soberano/ops/causal_attention.py: the weights are computed again, never kept."""

from typing import Any

from soberano.backends.homes import home_of
from soberano.core.types import Array
from soberano.ops.causal_attention import attention_weights, grouped, query_parts, ungrouped


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
    xp, width, kv_heads, group = home_of(q).xp, q.shape[-1], k.shape[2], q.shape[2] // k.shape[2]
    dq, dk, dv = [], xp.zeros_like(k), xp.zeros_like(v)
    for part in query_parts(q.shape[1]):
        weights, bent = attention_weights(q, k, segments, window, sinks, part, scale=scale, cap=cap)  # (B, K, G*t, S)
        back = grouped(grad[:, part], kv_heads)  # (B, K, G*t, E)
        along = xp.sum(back * grouped(result[:, part], kv_heads), axis=-1, keepdims=True)
        keys, values = (xp.moveaxis(x[:, : part.stop], 1, 2) for x in (k, v))  # (B, K, S, E)
        scores = weights * (back @ xp.swapaxes(values, -1, -2) - along) * (width**-0.5 if scale is None else scale)
        if bent is not None:
            scores = scores * (1 - bent * bent)
        dq.append(ungrouped(scores @ keys, group))
        dk = dk + _behind(xp.swapaxes(scores, -1, -2) @ grouped(q[:, part], kv_heads), k)
        dv = dv + _behind(xp.swapaxes(weights, -1, -2) @ back, v)
    return xp.concatenate(dq, axis=1), dk, dv, None, None, None


def _behind(x: Array, like: Array) -> Array:
    """(B, K, S, E) -> (B, T, K, E), with zeros for the tokens behind the first S."""
    xp = home_of(x).xp
    rest = like.shape[1] - x.shape[2]
    return xp.pad(xp.moveaxis(x, 2, 1), ((0, 0), (0, rest), (0, 0), (0, 0)))
