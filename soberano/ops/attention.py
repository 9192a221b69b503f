"""Causal attention over a paged key-value cache, and the write into it.

The cache of a model is two arrays of pages; page tables say which pages hold which tokens of a sequence. Keys lie
transposed inside a page (E, page), so that 16 scores are a sum of E vectors; values lie as (page, E).

    k pages (L, P, K, E, page), v pages (L, P, K, page, E), of a type of soberano.ops.pages; q8_0 has scales behind
    positions (B, T) int32: the place of each new token in its sequence; below 0 marks padding, which is not written
    table (B, N) int32: token s of sequence b lies in page table[b, s // page], at s % page

Three things differ from model to model, and the first from layer to layer:

    window, an int or () int32: the token at p sees those at s with p - window < s <= p; None, or 0 and less: all
    cap, a number: scores become cap * tanh(score / cap), after scaling
    sinks (H,) float32: a logit for each query head that joins the sum of its weights, and has no value
"""

import math

from soberano.backends.dispatch import op
from soberano.backends.homes import home_of
from soberano.core.errors import InputError, ShapeError
from soberano.core.types import Array
from soberano.ops.pages import Place, read_keys, read_values, write_keys, write_values
from soberano.ops.rope import Pairing, Rotation, rope


def kernel_serves(width: int) -> bool:
    """Whether attention.cc has been written for heads of this width; the meaning serves every other.

    >>> kernel_serves(64), kernel_serves(40)
    (True, False)
    """
    return width % 16 == 0 and 0 < width <= 512


def check_new(k: Array, v: Array, v_pages: Array) -> None:
    """Raise ShapeError unless these new keys and values belong into such pages."""
    if k.shape != v.shape or k.shape[2:] != (v_pages.shape[2], v_pages.shape[4]):
        raise ShapeError(
            f"write_kv: k {tuple(k.shape)} and v {tuple(v.shape)} must both be (B, T, K, E) with the (K, E) of the "
            f"cache, {(v_pages.shape[2], v_pages.shape[4])}"
        )


def check_queries(q: Array, v_pages: Array) -> None:
    """Raise ShapeError unless these queries can attend to such pages."""
    (heads, width), kv_heads = q.shape[2:], v_pages.shape[2]
    if heads % kv_heads or width != v_pages.shape[4]:
        raise ShapeError(
            f"attention: q {tuple(q.shape)} has {heads} heads of {width}, the cache {kv_heads} of {v_pages.shape[4]}; "
            f"widths must be equal and query heads a multiple of key heads"
        )


def check_rules(q: Array, window: Array | int | None, cap: float | None, sinks: Array | None) -> None:
    """Raise ShapeError or InputError unless a window, a cap and sinks can be."""
    shape = tuple(getattr(window, "shape", ()))
    if shape:
        raise ShapeError(f"attention: window is {shape}; pass one number for all tokens of a call")
    if cap is not None and not (0 < cap < math.inf):
        raise InputError(f"attention: cap is {cap}; pass a finite number above 0, or None for scores without one")
    if sinks is not None and tuple(sinks.shape) != (q.shape[2],):
        raise ShapeError(
            f"attention: sinks is {tuple(sinks.shape)}, but q {tuple(q.shape)} has {q.shape[2]} heads; pass "
            f"({q.shape[2]},)"
        )


@op
def write_kv(
    k_pages: Array, v_pages: Array, k: Array, v: Array, positions: Array, table: Array, layer: Array | int
) -> tuple[Array, Array]:
    """Put new keys and values (B, T, K, E) into their pages. Consumes both page arrays: use the ones it returns."""
    check_new(k, v, v_pages)
    home = home_of(k)
    xp, page, pages = home.xp, k_pages.shape[4], k_pages.shape[1]
    slot = xp.maximum(positions, 0)
    holds = xp.take_along_axis(table, slot // page, axis=1)  # (B, T)
    holds = xp.where(positions < 0, pages, holds)[:, :, None]  # past the end: dropped
    slot = (slot % page)[:, :, None]
    heads = xp.arange(k.shape[2], dtype=xp.int32)[None, None, :]
    at = xp.zeros_like(holds) + xp.asarray(layer, dtype=xp.int32)
    place = Place(*xp.broadcast_arrays(at, holds, heads, slot))  # each (B, T, K)
    return write_keys(home, k_pages, place, k), write_values(home, v_pages, place, v)


@op
def attention(
    q: Array,
    k_pages: Array,
    v_pages: Array,
    positions: Array,
    table: Array,
    layer: Array | int,
    *,
    scale: float | None = None,
    window: Array | int | None = None,
    cap: float | None = None,
    sinks: Array | None = None,
) -> Array:
    """Attend from q (B, T, H, E) to every cached token at or before its position -> (B, T, H, E) float32.

    H query heads share K key heads in groups of H / K. Scores are scaled by `scale`, 1 / sqrt(E) if None. A padding
    token (position below 0) gets zeros. `window`, `cap` and `sinks` are as above. Sums in float32. Raises ShapeError,
    InputError. Source: arXiv:1706.03762, arXiv:2305.13245 (grouped), arXiv:2309.06180 (paged), arXiv:2310.06825
    (window), arXiv:2408.00118 (cap), arXiv:2508.10925 (sinks).
    """
    check_queries(q, v_pages)
    check_rules(q, window, cap, sinks)
    home = home_of(q)
    xp, (batch, new, heads, width) = home.xp, q.shape
    kv_heads, page = k_pages.shape[2], k_pages.shape[4]
    span = table.shape[1] * page  # the longest sequence that the table can hold
    keys = read_keys(home, home.at(k_pages, layer)[table])  # (B, N, K, E, page)
    values = read_values(home, home.at(v_pages, layer)[table])  # (B, N, K, page, E)
    keys = xp.moveaxis(keys, 1, 3).reshape(batch, kv_heads, 1, width, span)
    values = xp.moveaxis(values, 1, 2).reshape(batch, kv_heads, 1, span, width)
    seen = xp.arange(span) <= positions[:, :, None]  # (B, T, S)
    if window is not None:
        window = xp.asarray(window, dtype=xp.int32)
        seen = seen & ((window <= 0) | (xp.arange(span) > positions[:, :, None] - window))
    values = xp.where(seen.any(1)[:, None, None, :, None], values, 0.0)  # 0 times what nobody sees may be no 0
    queries = xp.moveaxis(q.reshape(batch, new, kv_heads, -1, width), 1, 3)  # (B, K, G, T, E)
    scores = (queries @ keys) * (width**-0.5 if scale is None else scale)  # (B, K, G, T, S)
    if cap is not None:
        scores = cap * xp.tanh(scores / cap)
    seen = seen[:, None, None]  # (B, 1, 1, T, S)
    scores = xp.where(seen, scores, -xp.inf)
    peak = xp.max(scores, axis=-1, keepdims=True)
    if sinks is not None:
        sinks = sinks.reshape(kv_heads, -1, 1, 1)  # (K, G, 1, 1)
        peak = xp.maximum(peak, sinks)
    peak = xp.where(seen.any(-1, keepdims=True), peak, 0.0)
    weights = xp.where(seen, xp.exp(scores - peak), 0.0)
    total = xp.sum(weights, axis=-1, keepdims=True)
    if sinks is not None:
        total = total + xp.exp(sinks - peak)
    out = (weights / xp.where(total == 0, 1.0, total)) @ values  # (B, K, G, T, E)
    return xp.moveaxis(out, 3, 1).reshape(batch, new, heads, width)


@op
def attend(
    q: Array,
    k: Array,
    v: Array,
    rotation: Rotation,
    k_pages: Array,
    v_pages: Array,
    positions: Array,
    table: Array,
    layer: Array | int,
    *,
    pairing: Pairing = "interleaved",
    scale: float | None = None,
    window: Array | int | None = None,
    cap: float | None = None,
    sinks: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Turn q and k, write k and v, attend from q -> (out (B, T, H, E), k_pages, v_pages). Consumes both page arrays.

    What a layer does with its cache, in one op, so that a kernel may do it in one call.
    """
    q, k = rope(q, rotation, pairing=pairing), rope(k, rotation, pairing=pairing)
    k_pages, v_pages = write_kv(k_pages, v_pages, k, v, positions, table, layer)
    out = attention(q, k_pages, v_pages, positions, table, layer, scale=scale, window=window, cap=cap, sinks=sinks)
    return out, k_pages, v_pages
