"""Move weights that are in blocks already, by less than the blocks can hold: on their own grid, rounded at random.

Rounding to nearest forgets every move of less than half a step, and with it all of a small update, whose moves point
the same way. Rounded up with the probability that is its share of the step, each weight is right on average: what is
wrong is noise, which points nowhere. NumPy only.
"""

import numpy as np

from soberano.backends.numpy_ import HOME
from soberano.core.errors import Unsupported
from soberano.quant.blocks import BlockFormat
from soberano.quant.encode import PUT_CODES


def recode(kind: type[BlockFormat], raw: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The blocks raw (..., row bytes) uint8 with codes for wanted (..., I) float32: the mean of each weight is right.

    Scales and minima stay. What is beyond the grid of a block goes to its end. Raises Unsupported for plain formats,
    and those that cannot be written.
    """
    if kind not in PUT_CODES:
        raise Unsupported(
            f"{kind.name} has no codes we can write; choose one of {', '.join(f.name for f in PUT_CODES)}"
        )
    parts = kind.parts(HOME, raw)
    count, groups = len(parts.codes), kind.block // kind.group
    scale = np.broadcast_to(parts.d.astype(np.float32) * _or_one(parts.sub), (count, groups))[..., None]
    low = 0.0 if parts.m is None else (parts.m.astype(np.float32) * _or_one(parts.submin))[..., None]
    x = (wanted.reshape(count, groups, kind.group) + low) / np.where(scale == 0, 1, scale)
    x = np.where(np.isfinite(x), x, 0).reshape(count, kind.block)
    values = np.arange(1 << kind.bits) - kind.zero if kind.codebook is None else np.array(kind.codebook)
    order = np.argsort(values, kind="stable")
    levels = values[order].astype(np.float32)
    below = (np.searchsorted(levels, x, side="right") - 1).clip(0, len(levels) - 2)
    step = levels[below + 1] - levels[below]
    up = (x - levels[below]) / np.where(step == 0, 1, step)  # two codes may mean 0
    codes = order[below + (rng.random(x.shape, np.float32) < up)].astype(np.uint8)
    still = np.repeat(scale[..., 0] == 0, kind.group, axis=1)
    blocks = np.ascontiguousarray(raw).reshape(-1, kind.block_bytes).copy()
    PUT_CODES[kind](blocks.view(kind.layout)[:, 0], np.where(still, parts.codes, codes))
    return blocks.reshape(raw.shape)


def _or_one(sub: np.ndarray | None) -> np.ndarray | float:
    return 1.0 if sub is None else sub.astype(np.float32)
