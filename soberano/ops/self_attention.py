"""Attention of every token of a text to every other: what an encoder does, without a cache.

Texts of a batch have different lengths; what lies behind the end of one is padding, which nobody sees.
"""

from soberano.backends.dispatch import op
from soberano.backends.homes import home_of
from soberano.core.errors import ShapeError
from soberano.core.types import Array


@op
def self_attention(q: Array, k: Array, v: Array, lengths: Array, *, scale: float | None = None) -> Array:
    """Attend from q (B, T, H, E) to k and v (B, T, K, E) of the same text -> (B, T, H, E) float32.

    lengths (B,) int32: text b is its first lengths[b] tokens; the rest gets zeros. H query heads share K key heads in
    groups of H / K. Scores are scaled by `scale`, 1 / sqrt(E) if None. Sums in float32. Raises ShapeError. Source:
    arXiv:1706.03762.
    """
    check(q, k, v, lengths)
    xp = home_of(q).xp
    batch, tokens, heads, width = q.shape
    kv_heads = k.shape[2]
    queries = xp.moveaxis(q.reshape(batch, tokens, kv_heads, heads // kv_heads, width), 1, 3)  # (B, K, G, T, E)
    keys = xp.moveaxis(k, 1, 3)[:, :, None]  # (B, K, 1, E, T)
    values = xp.moveaxis(v, 1, 2)[:, :, None]  # (B, K, 1, T, E)
    inside = xp.arange(tokens) < lengths[:, None]  # (B, T)
    scores = (queries @ keys) * (width**-0.5 if scale is None else scale)  # (B, K, G, T, T)
    scores = xp.where(inside[:, None, None, None], scores, -xp.inf)
    peak = xp.max(scores, axis=-1, keepdims=True)
    weights = xp.exp(scores - xp.where(peak == -xp.inf, 0.0, peak))  # of an empty text: all 0
    total = xp.sum(weights, axis=-1, keepdims=True)
    out = (weights / xp.where(total == 0, 1.0, total)) @ values  # (B, K, G, T, E)
    out = xp.moveaxis(out, 3, 1).reshape(batch, tokens, heads, width)
    return xp.where(inside[:, :, None, None], out, 0.0).astype(xp.float32)


def check(q: Array, k: Array, v: Array, lengths: Array) -> None:
    """Raise ShapeError unless these fit together."""
    if q.ndim != 4 or k.shape != v.shape or k.ndim != 4 or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise ShapeError(
            f"self_attention: q is {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}; pass (B, T, H, E), and "
            f"(B, T, K, E) twice"
        )
    if q.shape[2] % k.shape[2] or lengths.shape != q.shape[:1]:
        raise ShapeError(
            f"self_attention: q has {q.shape[2]} heads and k {k.shape[2]}, lengths is {tuple(lengths.shape)}; query "
            f"heads must be a multiple of key heads, and lengths ({q.shape[0]},)"
        )
