"""Attention of every token of a text to every other: what an encoder does, without a cache.

Texts of a batch have different lengths; what lies behind the end of one is padding, which nobody sees. Where a token
stands is told to attention in one of three ways, or to the embedding: `rotation` turns queries and keys, `slopes` make
far tokens count less, and a `window` hides them.
"""

import numpy as np

from soberano.backends.dispatch import op
from soberano.backends.homes import home_of
from soberano.core.errors import ShapeError
from soberano.core.types import Array
from soberano.ops.rope import Pairing, Rotation, check_rotation, rope


@op
def self_attention(
    q: Array,
    k: Array,
    v: Array,
    lengths: Array,
    *,
    scale: float | None = None,
    rotation: Rotation | None = None,
    pairing: Pairing = "interleaved",
    window: Array | int | None = None,
    slopes: Array | None = None,
) -> Array:
    """Attend from q (B, T, H, E) to k and v (B, T, K, E) of the same text -> (B, T, H, E) float32.

    lengths (B,) int32: text b is its first lengths[b] tokens; the rest gets zeros. H query heads share K key heads in
    groups of H / K. First `rotation` turns q and k, as `rope` does. Scores are scaled by `scale`, 1 / sqrt(E) if None.
    With a `window` () int32, token t sees only tokens t - window to t + window. `slopes` (H,) float32 times the
    distance of two tokens is taken off their score. Sums in float32. Raises InputError, ShapeError. Sources:
    arXiv:1706.03762; arXiv:2104.09864 (rotation), arXiv:2004.05150 (window), arXiv:2108.12409 (slopes).
    """
    check(q, k, v, lengths, rotation, pairing, slopes)
    xp = home_of(q).xp
    batch, tokens, heads, width = q.shape
    kv_heads = k.shape[2]
    if rotation is not None:
        q, k = rope(q, rotation, pairing=pairing), rope(k, rotation, pairing=pairing)
    queries = xp.moveaxis(q.reshape(batch, tokens, kv_heads, heads // kv_heads, width), 1, 3)  # (B, K, G, T, E)
    keys = xp.moveaxis(k, 1, 3)[:, :, None]  # (B, K, 1, E, T)
    values = xp.moveaxis(v, 1, 2)[:, :, None]  # (B, K, 1, T, E)
    places = xp.arange(tokens)
    inside = places < lengths[:, None]  # (B, T)
    apart = abs(places[:, None] - places)  # (T, T)
    scores = (queries @ keys) * (width**-0.5 if scale is None else scale)  # (B, K, G, T, T)
    if slopes is not None:
        scores = scores - slopes.reshape(kv_heads, -1, 1, 1) * apart.astype(xp.float32)
    seen = inside[:, None, None, None]
    if window is not None:
        seen = seen & (apart <= window)
    scores = xp.where(seen, scores, -xp.inf)
    peak = xp.max(scores, axis=-1, keepdims=True)
    weights = xp.exp(scores - xp.where(peak == -xp.inf, 0.0, peak))  # of an empty text: all 0
    total = xp.sum(weights, axis=-1, keepdims=True)
    out = (weights / xp.where(total == 0, 1.0, total)) @ values  # (B, K, G, T, E)
    out = xp.moveaxis(out, 3, 1).reshape(batch, tokens, heads, width)
    return xp.where(inside[:, :, None, None], out, 0.0).astype(xp.float32)


def alibi_slopes(heads: int) -> np.ndarray:
    """The `slopes` (H,) that ALiBi gives to heads: 2**(-8 i / H) to the i-th, and to those beyond a power of 2 others.

    Source: arXiv:2108.12409 and its code, get_slopes.

    >>> alibi_slopes(2).tolist(), alibi_slopes(3).tolist()
    ([0.0625, 0.00390625], [0.0625, 0.00390625, 0.25])
    """
    power = 1 << heads.bit_length() - 1
    first, between = (2.0 ** (-8 * np.arange(1, n + 1) / n) for n in (power, 2 * power))
    return np.concatenate([first, between[::2]])[:heads].astype(np.float32)


def check(
    q: Array,
    k: Array,
    v: Array,
    lengths: Array,
    rotation: Rotation | None = None,
    pairing: Pairing = "interleaved",
    slopes: Array | None = None,
) -> None:
    """Raise ShapeError unless these fit together, InputError for a pairing that is not known."""
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
    if slopes is not None and slopes.shape != q.shape[2:3]:
        raise ShapeError(
            f"self_attention: slopes is {tuple(slopes.shape)}, but q has {q.shape[2]} heads; pass ({q.shape[2]},)"
        )
    if rotation is not None:
        check_rotation(q, rotation, pairing)
