"""Rotary position embedding: turn pairs of a head's numbers by an angle that grows with the position."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from soberano.backends.dispatch import op
from soberano.backends.homes import namespace
from soberano.core.errors import InputError, ShapeError
from soberano.core.types import Array
from soberano.ops.words import wide_product

Pairing = Literal["interleaved", "halves"]


class Rotation(NamedTuple):
    """The angles of some positions: cosines and sines, each (B, T, width / 2) float32. One serves all layers."""

    cos: Array
    sin: Array


@op
def rotation(
    positions: Array, width: int, *, base: float = 10000.0, scale: float = 1.0, factors: Sequence[float] | Any = None
) -> Rotation:
    """Compute the angles position * scale * base**(-2i / width) / factors[i] for i in range(width / 2).

    positions (B, T) int32 -> cos, sin (B, T, width / 2) float32. `scale` is 1/8 for linear scaling by 8. `factors` are
    the width / 2 numbers of a file's rope_freqs; they are constants of the model (NumPy or a list, never a traced
    array). A negative position marks padding: its angles are finite and otherwise unspecified. Raises InputError,
    ShapeError. Source: Su et al. 2021, arXiv 2104.09864.

    Angles are counted in turns as 64-bit fixed point, whose wrap-around is the period itself. So position 1,000,000 is
    as exact as position 1 (a float32 product is off by up to 0.06 radians there), and every home gets the same angle,
    bit for bit.
    """
    xp = namespace(positions)
    if width <= 0 or width % 2:
        raise InputError(
            f"rotation: width is {width}, but angles belong to pairs of numbers; pass an even width of 2 or more"
        )
    turns = scale * float(base) ** (-np.arange(0, width, 2) / width) / (2 * math.pi)
    if factors is not None:
        factors = np.asarray(factors, np.float64)
        if factors.shape != turns.shape:
            raise ShapeError(
                f"rotation: factors is {factors.shape}, but width {width} has {width // 2} pairs; pass ({width // 2},)"
            )
        turns = turns / factors
    high = np.floor(turns % 1 * 2.0**32)
    low = np.floor((turns % 1 * 2.0**32 - high) * 2.0**32)

    where = positions.astype(xp.uint32)[..., None]  # (B, T, 1)
    carried, _ = wide_product(where, xp.asarray(low.astype(np.uint32)))
    turned = where * xp.asarray(high.astype(np.uint32)) + carried  # (B, T, width/2), in 2**-32 turns
    angle = turned.view(xp.int32).astype(xp.float32) * np.float32(2 * math.pi / 2.0**32)
    return Rotation(xp.cos(angle), xp.sin(angle))


def check_rotation(x: Array, rotation: Rotation, pairing: Pairing) -> None:
    """Raise InputError or ShapeError unless `rope` can turn x by this rotation."""
    pairs = rotation.cos.shape[-1]
    if pairing not in ("interleaved", "halves"):
        raise InputError(f"rope: pairing is {pairing!r}; pass 'interleaved' or 'halves'")
    if (
        x.ndim != 4
        or rotation.cos.ndim != 3
        or rotation.cos.shape[0] not in (1, x.shape[0])
        or rotation.cos.shape[1] != x.shape[1]
    ):
        raise ShapeError(
            f"rope: rotation is {rotation.cos.shape} for x {x.shape}; pass (B, T, H, E) and (B, T, width / 2)"
        )
    if 2 * pairs > x.shape[-1]:
        raise ShapeError(
            f"rope: rotation turns {2 * pairs} numbers, but a head of x {x.shape} has {x.shape[-1]}; "
            f"make the rotation with a width of at most {x.shape[-1]}"
        )


@op
def rope(x: Array, rotation: Rotation, *, pairing: Pairing = "interleaved") -> Array:
    """Turn each pair (a, b) of the first `width` numbers of a head: a cos - b sin, a sin + b cos. The rest stays.

    x (B, T, H, E) floating, rotation (B, T, width / 2), or (1, T, width / 2) for all rows -> (B, T, H, E) like x. Pair
    i is (2i, 2i + 1) when interleaved (llama in GGUF), and (i, i + width / 2) in halves (NeoX; Hugging Face's order).
    Raises InputError, ShapeError.
    """
    check_rotation(x, rotation, pairing)
    xp, pairs = namespace(x), rotation.cos.shape[-1]
    cos, sin = rotation.cos[:, :, None, :], rotation.sin[:, :, None, :]  # (B, T, 1, width/2)
    turning = x[..., : 2 * pairs].astype(xp.float32)
    if pairing == "interleaved":
        a, b = turning[..., 0::2], turning[..., 1::2]  # (B, T, H, width/2)
        turned = xp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(turning.shape)
    else:
        a, b = turning[..., :pairs], turning[..., pairs:]
        turned = xp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
    turned = turned.astype(x.dtype)
    return turned if 2 * pairs == x.shape[-1] else xp.concatenate([turned, x[..., 2 * pairs :]], axis=-1)
