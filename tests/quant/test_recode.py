"""Codes on the grid that blocks have: what is on it stays, what lies between is right on average."""

import numpy as np
import pytest

from soberano.backends.homes import home
from soberano.core.errors import Unsupported
from soberano.quant.blocks import BlockFormat, all_formats, format_named
from soberano.quant.encode import PUT_CODES, encode
from soberano.quant.recode import recode

NUMPY = home("numpy")
KINDS = pytest.mark.parametrize("kind", list(PUT_CODES), ids=lambda kind: kind.name)


def blocks(kind: type[BlockFormat], rng: np.random.Generator) -> np.ndarray:
    return encode(kind, rng.normal(size=(3, 512)).astype(np.float32))


@KINDS
def test_codes_go_back_where_they_were(kind: type[BlockFormat], rng: np.random.Generator) -> None:
    raw = blocks(kind, rng)
    again = raw.reshape(-1, kind.block_bytes).copy()
    again[:] = np.where(_is_scale(kind), again, 255)  # codes that must all be written
    PUT_CODES[kind](again.view(kind.layout)[:, 0], kind.parts(NUMPY, raw).codes)
    np.testing.assert_array_equal(again.reshape(raw.shape), raw)


def _is_scale(kind: type[BlockFormat]) -> np.ndarray:
    """Which bytes of a block hold no codes: those that stay when codes are put."""
    seen = [np.zeros((1, kind.block_bytes), np.uint8) for _ in range(2)]
    for out, code in zip(seen, (0, (1 << kind.bits) - 1), strict=True):
        out[:] = 170
        PUT_CODES[kind](out.view(kind.layout)[:, 0], np.full((1, kind.block), code, np.uint8))
    return (seen[0] == 170) & (seen[1] == 170)


@KINDS
def test_what_is_on_the_grid_stays(kind: type[BlockFormat], rng: np.random.Generator) -> None:
    raw = blocks(kind, rng)
    weights = kind.dequantize(NUMPY, raw)
    size = np.abs(weights).max()
    moved = kind.dequantize(NUMPY, recode(kind, raw, weights, rng)) - weights
    assert (np.abs(moved) > 1e-3 * size).mean() < 0.005  # x / scale may be a last bit beside a level, and go down one


@KINDS
def test_a_small_update_is_there_on_average(kind: type[BlockFormat], rng: np.random.Generator) -> None:
    raw = blocks(kind, rng)
    weights = kind.dequantize(NUMPY, raw)
    update = 0.01 * rng.normal(size=weights.shape).astype(np.float32)
    moved = np.mean([kind.dequantize(NUMPY, recode(kind, raw, weights + update, rng)) - weights for _ in range(400)], 0)
    kept = float((moved * update).sum() / (update * update).sum())
    assert 0.8 < kept < 1.1  # weights at the ends of their block cannot go on
    nearest = kind.dequantize(NUMPY, encode(kind, weights + update)) - weights
    assert kind.bits > 5 or float((nearest * update).sum() / (update * update).sum()) < 0.8, "which rounding forgets"


def test_numbers_without_codes_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(Unsupported, match="F16 has no codes we can write; choose one of Q4_0"):
        recode(format_named("F16"), encode(format_named("F16"), np.ones((1, 32), np.float32)), np.ones((1, 32)), rng)
    assert {kind for kind in all_formats() if not kind.plain} >= set(PUT_CODES)
