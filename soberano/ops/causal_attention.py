"""Causal attention without a cache: what training does. Several texts may lie in one row, and none sees another."""

from soberano.backends.dispatch import op
from soberano.backends.homes import home_of
from soberano.core.errors import ShapeError
from soberano.core.types import Array
from soberano.ops.softmax import softmax


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
    xp, (batch, tokens, heads, width) = home_of(q).xp, q.shape
    weights = attention_weights(q, k, segments, window, sinks, scale=scale, cap=cap)[0]
    values = xp.moveaxis(v, 1, 2)[:, :, None]  # (B, K, 1, T, E)
    out = xp.moveaxis(weights @ values, 3, 1)  # (B, T, K, G, E)
    return out.reshape(batch, tokens, heads, width)


def attention_weights(
    q: Array,
    k: Array,
    segments: Array,
    window: Array | int | None,
    sinks: Array | None,
    *,
    scale: float | None,
    cap: float | None,
) -> tuple[Array, Array | None]:
    """The softmax (B, K, G, T, T) of every token over those it sees; and the tanh of capped scores, for gradients."""
    xp, (_, tokens, heads, width) = home_of(q).xp, q.shape
    kv_heads = k.shape[2]
    queries = grouped(q, kv_heads)
    keys = xp.moveaxis(k, 1, 3)[:, :, None]  # (B, K, 1, E, T)
    scores = (queries @ keys) * (width**-0.5 if scale is None else scale)  # (B, K, G, T, T)
    bent = None
    if cap is not None:
        bent = xp.tanh(scores / cap)
        scores = bent * cap
    place = xp.arange(tokens)
    back = place[:, None] - place  # how far a token lies behind another
    span = tokens if window is None else xp.where(xp.asarray(window) > 0, window, tokens)
    seen = (back >= 0) & (back < span) & (segments[:, :, None] == segments[:, None, :]) & (segments >= 0)[:, :, None]
    scores = xp.where(seen[:, None, None], scores, -xp.inf)
    if sinks is None:
        return softmax(scores), bent
    sink = xp.broadcast_to(sinks.reshape(1, kv_heads, heads // kv_heads, 1, 1), (*scores.shape[:-1], 1))
    return softmax(xp.concatenate([scores, sink], axis=-1))[..., :-1], bent


def grouped(x: Array, kv_heads: int) -> Array:
    """(B, T, H, E) -> (B, K, G, T, E): the heads that share a key head beside each other."""
    batch, tokens, heads, width = x.shape
    return home_of(x).xp.moveaxis(x.reshape(batch, tokens, kv_heads, heads // kv_heads, width), 1, 3)
