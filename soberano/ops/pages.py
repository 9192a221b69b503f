"""The element types of a cache page: what it holds, how it reads as float32, how tokens are written into it.

Keys lie transposed inside a page (E, page), values as (page, E). The dtype of the page arrays says which type they are:

    f16, f32   any float: the numbers themselves
    bf16       uint16: the upper halves of float32 numbers, rounded to nearest, ties to even
    q8_0       uint8: int8 codes, and rows behind them with a float16 scale for every 32 numbers of a head; a number is
               code * scale, NaN if one of the 32 is not finite. Keys are E rows of codes, then the scales (E / 32,
               page) as bytes in E / 16 rows; values are `page` rows of codes, then the scales (page, E / 32) as bytes
               in page / 16 rows.
"""

from typing import Any, NamedTuple

import numpy as np

from soberano.backends.base import Home
from soberano.core.types import Array

GROUP = 32
"""Numbers of a head that share a scale in q8_0."""

TYPES: dict[str, np.dtype[Any]] = {"f16": np.dtype(np.float16), "bf16": np.dtype(np.uint16), "q8_0": np.dtype(np.uint8)}
"""The names that a person may ask for, and the dtype of their page arrays."""


def shapes(dtype: np.dtype[Any], width: int, page: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The last two axes of key pages and of value pages, for heads of `width` and pages of `page` tokens.

    >>> shapes(np.dtype(np.uint8), 64, 32), shapes(np.dtype(np.float16), 64, 32)
    (((68, 32), (34, 64)), ((64, 32), (32, 64)))
    """
    if dtype != TYPES["q8_0"]:
        return (width, page), (page, width)
    return (width + width // 16, page), (page + page // 16, width)


def read_keys(home: Home, pages: Array) -> Array:
    """Key pages (..., E, page) of any type -> float32 (..., E, page)."""
    if pages.dtype != TYPES["q8_0"]:
        return _numbers(home, pages)
    xp, width, page = home.xp, pages.shape[-2] * 16 // 17, pages.shape[-1]
    scales = _scales(home, pages[..., width:, :].reshape(*pages.shape[:-2], width // GROUP, page, 2))
    return _codes(home, pages[..., :width, :]) * xp.repeat(scales, GROUP, axis=-2)


def read_values(home: Home, pages: Array) -> Array:
    """Value pages (..., page, E) of any type -> float32 (..., page, E)."""
    if pages.dtype != TYPES["q8_0"]:
        return _numbers(home, pages)
    xp, page, width = home.xp, pages.shape[-2] * 16 // 17, pages.shape[-1]
    scales = _scales(home, pages[..., page:, :].reshape(*pages.shape[:-2], page, width // GROUP, 2))
    return _codes(home, pages[..., :page, :]) * xp.repeat(scales, GROUP, axis=-1)


class Place(NamedTuple):
    """Where tokens go: layer, page, head and slot, each (B, T, K) int32. A page past the end: the token is dropped."""

    layer: Array
    page: Array
    head: Array
    slot: Array


def write_keys(home: Home, pages: Array, place: Place, keys: Array) -> Array:
    """Put keys (B, T, K, E) into key pages (L, P, K, E, page). Consumes the pages."""
    xp, width, page = home.xp, keys.shape[-1], pages.shape[-1]
    slot = place.slot[..., None]
    numbers, scales = _stored(home, pages.dtype, keys)
    pages = _put(home, pages, place, xp.arange(width, dtype=xp.int32), slot, numbers)
    if scales is None:
        return pages
    at = 2 * (xp.arange(width // GROUP, dtype=xp.int32) * page + slot)  # (B, T, K, E / 32)
    return _put_scales(home, pages, place, width, at, scales)


def write_values(home: Home, pages: Array, place: Place, values: Array) -> Array:
    """Put values (B, T, K, E) into value pages (L, P, K, page, E). Consumes the pages."""
    xp, width = home.xp, values.shape[-1]
    slot = place.slot[..., None]
    numbers, scales = _stored(home, pages.dtype, values)
    pages = home.put(pages, tuple(xp.broadcast_arrays(*place)), numbers)
    if scales is None:
        return pages
    at = 2 * (slot * (width // GROUP) + xp.arange(width // GROUP, dtype=xp.int32))  # (B, T, K, E / 32)
    return _put_scales(home, pages, place, pages.shape[-2] * 16 // 17, at, scales)


def _put(home: Home, pages: Array, place: Place, row: Array, column: Array, numbers: Array) -> Array:
    axes = (*(axis[..., None] for axis in place[:3]), row, column)
    return home.put(pages, tuple(home.xp.broadcast_arrays(*axes)), numbers)


def _put_scales(home: Home, pages: Array, place: Place, first: int, at: Array, scales: Array) -> Array:
    """Put the two bytes of each scale at byte `at` of the rows from `first` on."""
    columns = pages.shape[-1]
    bits = scales.view(home.xp.uint16)
    for byte in (0, 1):
        half = (bits >> (8 * byte) & 255).astype(home.xp.uint8)
        pages = _put(home, pages, place, first + (at + byte) // columns, (at + byte) % columns, half)
    return pages


def _numbers(home: Home, pages: Array) -> Array:
    xp = home.xp
    if pages.dtype != TYPES["bf16"]:
        return pages.astype(xp.float32)
    return (pages.astype(xp.uint32) << 16).view(xp.float32)


def _codes(home: Home, pages: Array) -> Array:
    return pages.view(home.xp.int8).astype(home.xp.float32)


def _scales(home: Home, pairs: Array) -> Array:
    xp = home.xp
    low, high = pairs[..., 0].astype(xp.uint16), pairs[..., 1].astype(xp.uint16)
    return (low | high << 8).view(xp.float16).astype(xp.float32)


def _stored(home: Home, dtype: np.dtype[Any], x: Array) -> tuple[Array, Array | None]:
    """What pages of this dtype hold of x (..., E), and its float16 scales (..., E / 32) where they have some."""
    xp = home.xp
    if dtype == TYPES["bf16"]:
        bits = x.astype(xp.float32).view(xp.uint32)
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return xp.where(xp.isnan(x), bits >> 16 | 64, rounded).astype(xp.uint16), None
    if dtype != TYPES["q8_0"]:
        return x.astype(dtype), None
    groups = x.astype(xp.float32).reshape(*x.shape[:-1], -1, GROUP)
    scales = xp.minimum(abs(groups).max(axis=-1) / 127, 65504)
    scales = xp.where(xp.isfinite(groups).all(axis=-1), scales, xp.nan).astype(xp.float16)  # XLA's maximum loses NaN
    unit = scales.astype(xp.float32)[..., None]
    inverse = 1 / xp.where(unit > 0, unit, 1)
    codes = xp.clip(xp.round(xp.where(unit > 0, groups, 0) * inverse), -127, 127).astype(xp.int8)
    return codes.view(xp.uint8).reshape(x.shape), scales
