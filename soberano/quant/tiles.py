"""Tiles: a weight's bytes as our CPU kernels read them, 16 rows at a time.

A file stores a row's blocks one after another. A kernel wants the same few columns of 16 rows side by side, so that one
64-byte vector of codes (16 rows x 4 columns) against four broadcast activations adds to 16 outputs with no horizontal
sum. So a weight (O, I) becomes panels of 16 rows, a panel is a run of tiles, and a tile is a packed dtype, as a block
is in a file:

    low     4 bits a code; per 32 columns 4 vectors, nibbles pair columns 4i.. (low) with columns 16+4i.. (high)
    high    what a code has above 4 bits; per 32 columns 1 vector (5 bits), 2 vectors (6 bits)
    code    8-bit codes instead: per 32 columns 8 vectors
    sub, submin    two-level formats: a small integer scale and minimum per group and row
    d, m    float16 scale and minimum per row
    e       a power of two instead of d, as its exponent
    w       plain formats: numbers as they are, 16 rows of a column side by side; a panel is (columns, 16)

Nothing is rounded: the tiles decode to the same float32 weights as the blocks. soberano/quant/tiles.h is the same in
C++, and tiles.cc packs what `pack` here defines.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from soberano.backends.base import Home
from soberano.backends.numpy_ import HOME
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.quant.blocks import BlockFormat, Parts, decode_parts
from soberano.quant.codebooks import IQ4_NL, IQ4_XS, MXFP4, half_powers

ROWS = 16
"""Rows of a panel."""


@dataclass(frozen=True)
class TileLayout:
    """The tile of one family of formats. `kind` is the number of its struct in tiles.h."""

    kind: int
    bits: int
    group: int
    zero: int
    columns: int  # 32, or 256 for two-level formats
    minimum: bool
    plain: str | None = None  # the dtype of numbers as they are: no codes, no scales
    codebook: tuple[int, ...] | None = None  # what each code means, instead of code - zero
    power: bool = False  # the scale is a power of two

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """The bytes of a tile, in order."""
        groups = self.columns // 32
        fields: list[Any]
        if self.plain:
            return np.dtype([("w", self.plain, (self.columns, ROWS))])
        if self.bits == 8:
            fields = [("code", "u1", (groups, 8, 4 * ROWS))]
        else:
            codes: list[Any] = [("low", "u1", (4, 4 * ROWS))]
            codes += [("high", "u1", (self.bits - 4, 4 * ROWS))] if self.bits > 4 else []
            fields = [("codes", np.dtype(codes), (groups,))]
        if self.columns == 256:
            fields += [("sub", "u1" if self.minimum else "i1", (256 // self.group, ROWS))]
            fields += [("submin", "u1", (256 // self.group, ROWS))] if self.minimum else []
        fields += [("e", "u1", (ROWS,))] if self.power else [("d", "<f2", (ROWS,))]
        fields += [("m", "<f2", (ROWS,))] if self.minimum else []
        return np.dtype(fields)

    @property
    def bits_per_weight(self) -> float:
        """Bits of memory for one weight, scales included."""
        return 8 * self.dtype.itemsize / (ROWS * self.columns)

    def panel_bytes(self, inputs: int) -> int:
        """The bytes of 16 rows of that many columns."""
        return inputs // self.columns * self.dtype.itemsize


# kind, as in tiles.h; bits, group, zero, columns, minimum; plain, codebook, power
_LAYOUTS = (
    TileLayout(0, 4, 32, 8, 32, False),
    TileLayout(1, 4, 32, 0, 32, True),
    TileLayout(2, 5, 32, 16, 32, False),
    TileLayout(3, 5, 32, 0, 32, True),
    TileLayout(4, 8, 32, 128, 32, False),
    TileLayout(5, 4, 32, 0, 256, True),
    TileLayout(6, 5, 32, 0, 256, True),
    TileLayout(7, 6, 16, 32, 256, False),
    TileLayout(8, 16, 1, 0, 32, False, "<f2"),
    TileLayout(9, 16, 1, 0, 32, False, "<u2"),
    TileLayout(10, 32, 1, 0, 32, False, "<f4"),
    TileLayout(11, 4, 32, 0, 32, False, None, IQ4_NL.codebook),
    TileLayout(12, 4, 32, 0, 256, False, None, IQ4_XS.codebook),
    TileLayout(13, 4, 32, 0, 32, False, None, MXFP4.codebook, True),
)


def layout_of(kind: type[BlockFormat]) -> TileLayout:
    """The tile layout of a file's format. Raises Unsupported for a format that has none."""
    names = set(kind.layout.names or ())
    columns, plain = (32, kind.layout["w"].str) if kind.plain else (kind.block, None)
    family = (kind.bits, kind.group, kind.zero, columns, bool(names & {"min", "m"}), plain, kind.codebook, "e" in names)
    for layout in _LAYOUTS:
        if layout == TileLayout(layout.kind, *family):
            return layout
    raise Unsupported(f"{kind.name} has no tiles; its weights stay as they are in the file")


def pack(kind: type[BlockFormat], raw: np.ndarray) -> np.ndarray:
    """Repack raw blocks (O, row bytes) into tiles (ceil(O / 16), panel bytes) uint8; missing rows of the last panel are
    zero.

    This is the meaning; soberano.quant.packing does the same, hundreds of times faster.
    """
    layout, inputs = layout_of(kind), kind.row_weights(raw.shape[-1])
    outputs = raw.shape[0]
    if layout.plain:
        return _pack_plain(layout, raw, inputs)
    panels, blocks, groups = -(-outputs // ROWS), inputs // layout.columns, layout.columns // 32
    parts = kind.parts(HOME, raw)

    def rows(values: np.ndarray) -> np.ndarray:
        """(O * blocks, n) -> (panels, blocks, n, 16), zero where there is no row."""
        padded = np.zeros((panels * ROWS, blocks, values.shape[-1]), values.dtype)
        padded[:outputs] = values.reshape(outputs, blocks, -1)
        return padded.reshape(panels, ROWS, blocks, -1).transpose(0, 2, 3, 1)

    tiles = np.zeros((panels, blocks), layout.dtype)
    codes = rows(parts.codes).reshape(panels, blocks, groups, 8, 4, ROWS).swapaxes(-1, -2)  # vector, row, column of 4
    codes = codes.reshape(panels, blocks, groups, 8, 4 * ROWS)
    if layout.bits == 8:
        tiles["code"] = codes
    else:
        tiles["codes"]["low"] = (codes[..., :4, :] & 15) | (codes[..., 4:, :] & 15) << 4
        if layout.bits > 4:
            wide = layout.bits - 4  # bits of a code above the nibble, and as many planes that hold them
            fields = (codes >> 4).reshape(panels, blocks, groups, wide, 8 // wide, 4 * ROWS)
            shifts = (np.arange(8 // wide, dtype=np.uint8) * wide)[:, None]
            tiles["codes"]["high"] = (fields << shifts).sum(axis=-2, dtype=np.uint8)
    if layout.power:
        tiles["e"] = rows(kind.fields(HOME, raw)["e"])[:, :, 0]
    else:
        tiles["d"] = rows(parts.d)[:, :, 0]
    if parts.sub is not None:
        tiles["sub"] = rows(parts.sub)
    if parts.submin is not None:
        tiles["submin"] = rows(parts.submin)
    if parts.m is not None:
        tiles["m"] = rows(parts.m)[:, :, 0]
    return tiles.view(np.uint8).reshape(panels, -1)


def _pack_plain(layout: TileLayout, raw: np.ndarray, inputs: int) -> np.ndarray:
    numbers = np.zeros((-(-raw.shape[0] // ROWS) * ROWS, inputs), layout.dtype["w"].base)
    numbers[: raw.shape[0]] = raw.view(numbers.dtype)
    return (
        np.ascontiguousarray(numbers.reshape(-1, ROWS, inputs).swapaxes(1, 2))
        .view(np.uint8)
        .reshape(-1, layout.panel_bytes(inputs))
    )


def parts(home: Home, layout: TileLayout, tiles: Array) -> Parts:
    """Take tiles (..., panel bytes) uint8 apart, on any home: N = (..., tile of the panel, row) in that order."""
    xp, size = home.xp, layout.dtype.itemsize
    flat = tiles.reshape(-1, size)
    groups = layout.columns // 32

    def field(dtype: np.dtype, start: int) -> Array:
        base = dtype.base
        values = flat[:, start : start + dtype.itemsize]
        return values if base == np.uint8 else home.bitcast(values, base)

    found = {name: field(*spec[:2]) for name, spec in (layout.dtype.fields or {}).items() if name != "codes"}
    if layout.bits == 8:
        codes = found["code"].reshape(-1, groups, 8, 4 * ROWS)
    else:
        per_group = (64 * 4 + 64 * (layout.bits - 4)) if layout.bits > 4 else 256
        packed = flat[:, : groups * per_group].reshape(-1, groups, per_group)
        low = packed[..., :256].reshape(-1, groups, 4, 64)
        codes = xp.concatenate([low & 15, low >> 4], axis=-2)
        if layout.bits > 4:
            wide = layout.bits - 4
            high = packed[..., 256:].reshape(-1, groups, wide, 1, 64)
            shifts = xp.asarray((np.arange(8 // wide, dtype=np.uint8) * wide)[:, None])
            codes = codes | ((high >> shifts) & (2**wide - 1)).reshape(-1, groups, 8, 64) << 4
    codes = codes.reshape(-1, groups, 8, ROWS, 4)
    codes = xp.moveaxis(codes, 3, 1).reshape(-1, layout.columns)  # (tiles * 16, columns)

    def per_row(values: Array | None) -> Array | None:
        if values is None:
            return None
        return xp.moveaxis(values.reshape(flat.shape[0], -1, ROWS), 2, 1).reshape(flat.shape[0] * ROWS, -1)

    d = half_powers(home, found["e"]) if layout.power else found["d"]
    return Parts(codes, per_row(d), per_row(found.get("sub")), per_row(found.get("m")), per_row(found.get("submin")))


def dequantize(home: Home, kind: type[BlockFormat], tiles: Array) -> Array:
    """Decode panels (N, panel bytes) uint8 of a format's tiles to float32 (N, 16, I)."""
    xp, layout = home.xp, layout_of(kind)
    if layout.plain:
        return xp.moveaxis(kind.dequantize(home, tiles).reshape(tiles.shape[0], -1, ROWS), 2, 1)
    panels, blocks = tiles.shape[0], tiles.shape[1] // layout.dtype.itemsize
    w = decode_parts(home, parts(home, layout, tiles), layout.group, layout.zero, layout.codebook)
    return xp.moveaxis(w.reshape(panels, blocks, ROWS, layout.columns), 2, 1).reshape(
        panels, ROWS, blocks * layout.columns
    )
