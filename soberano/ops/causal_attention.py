"""Causal attention without a cache: what training does. Several texts may lie in one row, and none sees another."""

from soberano.backends.dispatch import op
from soberano.backends.homes import home_of
from soberano.core.errors import ShapeError
from soberano.core.types import Array
from soberano.ops.softmax import softmax

LEAST_PART, MOST_PARTS = 128, 8
"""Tokens of a part at least, and how many parts there are at most: each is a piece of the program."""


@op
def causal_attention(
    q: Array,
    k: Array,
    v: Array,
    segments: Array,
    window: Array | int | None = None,
    sinks: Array | None = None,
    *,
    scale: float | None = None,
    cap: float | None = None,
) -> Array:
    """Attend from q (B, T, H, E) to k and v (B, T, K, E) of the same text, at or before it -> (B, T, H, E) float32.

    segments (B, T) int32: tokens of one text have one number; below 0 marks padding, which gets zeros. The rest is as
    in soberano.ops.attention: H query heads share K key heads; scores are scaled by `scale`, 1 / sqrt(E) if None, and
    capped by `cap`; a token sees the last `window` tokens, itself among them, all if None or 0; sinks (H,) join the
    softmax. Raises ShapeError.
    """
    check(q, k, v)
    xp, kv_heads, parts = home_of(q).xp, k.shape[2], []
    for part in query_parts(q.shape[1]):
        weights = attention_weights(q, k, segments, window, sinks, part, scale=scale, cap=cap)[0]
        parts.append(ungrouped(weights @ xp.moveaxis(v[:, : part.stop], 1, 2), q.shape[2] // kv_heads))
    return xp.concatenate(parts, axis=1)


@op
def causal_attention_back(
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
) -> tuple[Array, Array, Array]:
    """The gradients of q, k and v, from that of the result: the way back of `causal_attention`.

    For scores S and weights P: dS = P * (dP - sum(dP * P)), and sum(dP * P) = sum(grad * result). The weights are
    computed again, never kept. Source: Dao et al. 2022, arXiv 2205.14135.
    """
    check(q, k, v)
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
    return xp.concatenate(dq, axis=1), dk, dv


def check(q: Array, k: Array, v: Array) -> None:
    """Raise ShapeError unless queries, keys and values fit each other."""
    if (
        q.ndim != 4
        or k.shape != v.shape
        or q.shape[:2] + q.shape[3:] != k.shape[:2] + k.shape[3:]
        or q.shape[2] % k.shape[2]
    ):
        raise ShapeError(
            f"causal_attention: q is {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}; pass (B, T, H, E), "
            f"and (B, T, K, E) twice, with H a multiple of K"
        )


def query_parts(tokens: int) -> list[slice]:
    """The tokens, some at a time: a part looks no further than its end, and its scores are what a cache can hold."""
    size = max(LEAST_PART, -(-tokens // MOST_PARTS))
    return [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]


def attention_weights(
    q: Array,
    k: Array,
    segments: Array,
    window: Array | int | None,
    sinks: Array | None,
    part: slice,
    *,
    scale: float | None,
    cap: float | None,
) -> tuple[Array, Array | None]:
    """The softmax (B, K, G * t, S) of a part of t tokens over the S up to its end; and, for the gradient of capped
    scores, their tanh.
    """
    xp, (batch, _, heads, width), kv_heads, end = home_of(q).xp, q.shape, k.shape[2], part.stop
    keys = xp.moveaxis(k[:, :end], 1, 3)  # (B, K, E, S)
    scores = (grouped(q[:, part], kv_heads) @ keys) * (width**-0.5 if scale is None else scale)
    bent = None
    if cap is not None:
        bent = xp.tanh(scores / cap)
        scores = bent * cap
    back = xp.arange(part.start, end)[:, None] - xp.arange(end)  # (t, S): how far a token lies behind another
    span = end if window is None else xp.where(xp.asarray(window) > 0, window, end)
    ours, theirs = segments[:, part, None], segments[:, None, :end]
    seen = (back >= 0) & (back < span) & (ours == theirs) & (ours >= 0)  # (B, t, S)
    apart = (batch, kv_heads, heads // kv_heads, end - part.start, end)
    scores = xp.where(seen[:, None, None], scores.reshape(apart), -xp.inf)
    if sinks is None:
        weights = softmax(scores)
    else:
        sink = xp.broadcast_to(sinks.reshape(1, kv_heads, heads // kv_heads, 1, 1), (*apart[:-1], 1))
        weights = softmax(xp.concatenate([scores, sink], axis=-1))[..., :-1]
    return weights.reshape(batch, kv_heads, -1, end), bent


def grouped(x: Array, kv_heads: int) -> Array:
    """(B, t, H, E) -> (B, K, G * t, E): the heads that share a key head below each other."""
    batch, tokens, heads, width = x.shape
    apart = x.reshape(batch, tokens, kv_heads, heads // kv_heads, width)
    return home_of(x).xp.moveaxis(apart, 1, 3).reshape(batch, kv_heads, -1, width)


def ungrouped(x: Array, group: int) -> Array:
    """(B, K, G * t, E) -> (B, t, H, E)."""
    batch, kv_heads, _, width = x.shape
    apart = x.reshape(batch, kv_heads, group, -1, width)
    return home_of(x).xp.moveaxis(apart, 3, 1).reshape(batch, -1, kv_heads * group, width)


def _behind(x: Array, like: Array) -> Array:
    """(B, K, S, E) -> (B, T, K, E), with zeros for the tokens behind the first S."""
    xp = home_of(x).xp
    return xp.concatenate([xp.moveaxis(x, 2, 1), xp.zeros_like(like[:, x.shape[2] :])], axis=1)
