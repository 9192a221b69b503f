"""Repack blocks as tiles by the native kernel, tiles.cc. The meaning is `pack` in tiles.py."""

import numpy as np

from soberano.backends import native
from soberano.quant.blocks import BlockFormat


def pack(kind: type[BlockFormat], raw: np.ndarray, out: np.ndarray) -> None:
    """Write raw blocks (O, row bytes) as tiles into out (ceil(O / 16), panel bytes) uint8.

    Raises Unsupported where there is no library.
    """
    outputs, inputs = raw.shape[0], kind.row_weights(raw.shape[1])
    native.call("soberano_pack_tiles", np.ascontiguousarray(raw), out, outputs, inputs, kind.ggml)
