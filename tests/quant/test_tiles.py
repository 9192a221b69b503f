"""Tiles hold the very weights of the blocks that they are packed from, in Python and in C++."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.backends import native
from soberano.backends.base import Home
from soberano.backends.homes import home as home_named
from soberano.core.errors import Unsupported
from soberano.quant import tiles, tiles_native
from soberano.quant.blocks import BlockFormat, all_formats, format_named
from soberano.quant.tensor import Choice, QTensor, Stack

PACKED = [kind for kind in all_formats() if not kind.plain]


def random_blocks(kind: type[BlockFormat], outputs: int, inputs: int, rng: np.random.Generator) -> np.ndarray:
    """Random codes and small finite scales: (outputs, row bytes) uint8."""
    blocks = np.zeros((outputs, inputs // kind.block), kind.layout)
    for name, (field, *_) in (kind.layout.fields or {}).items():
        if field.base.kind == "f":
            blocks[name] = rng.normal(0, 0.02, blocks[name].shape)
        else:
            info = np.iinfo(field.base)
            blocks[name] = rng.integers(info.min, info.max + 1, blocks[name].shape)
    return blocks.view(np.uint8).reshape(outputs, -1)


@pytest.mark.parametrize("kind", PACKED, ids=lambda k: k.name)
@pytest.mark.parametrize("outputs", [16, 37])
def test_tiles_decode_to_the_weights_of_the_blocks(
    kind: type[BlockFormat], outputs: int, home: Home, rng: np.random.Generator
) -> None:
    raw = random_blocks(kind, outputs, 512, rng)
    expected = kind.dequantize(home_named("numpy"), raw)
    packed = home.asarray(tiles.pack(kind, raw))
    weight = QTensor(packed, None, (outputs, 512), kind.name, "tiles")
    np.testing.assert_array_equal(home.to_numpy(weight.dense(home)), expected)
    ids = np.array([[0, outputs - 1], [15, 7]], np.int32)
    np.testing.assert_array_equal(home.to_numpy(weight.rows(home, home.asarray(ids))), expected[ids])


@pytest.mark.parametrize("kind", PACKED, ids=lambda k: k.name)
@given(seed=st.integers(0, 2**32 - 1), outputs=st.integers(1, 50))
def test_the_native_packer_is_the_meaning(kind: type[BlockFormat], seed: int, outputs: int) -> None:
    if not native.state()[0]:
        pytest.skip(native.state()[1])
    raw = np.random.default_rng(seed).integers(0, 256, (outputs, kind.row_bytes(512)), dtype=np.uint8)
    expected, actual = tiles.pack(kind, raw), np.empty_like(tiles.pack(kind, raw))
    tiles_native.pack(kind, raw, actual)
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("kind", PACKED, ids=lambda k: k.name)
def test_a_tile_costs_at_most_5_percent_more_than_a_block(kind: type[BlockFormat]) -> None:
    assert tiles.layout_of(kind).bits_per_weight <= 1.05 * kind.bits_per_weight


def test_a_plain_format_has_no_tiles() -> None:
    with pytest.raises(Unsupported, match="F16 has no tiles"):
        tiles.layout_of(format_named("F16"))


def test_a_layer_of_a_stack_is_a_view(home: Home, rng: np.random.Generator) -> None:
    kind = format_named("Q4_1")
    raws = [random_blocks(kind, 16, 64, rng) for _ in range(3)]
    data = home.asarray(np.stack([tiles.pack(kind, raw) for raw in raws]))
    order = home.asarray(np.arange(3, dtype=np.int32))
    stack = Stack((QTensor(data, None, (16, 64), "Q4_1", "tiles"),), home.asarray(np.zeros(3, np.int32)), order)
    for i, raw in enumerate(raws):
        layer = stack.layer(home, i)
        assert isinstance(layer, QTensor) and layer.data is data
        expected = kind.dequantize(home_named("numpy"), raw)
        np.testing.assert_array_equal(home.to_numpy(layer.dense(home)), expected)


def test_a_mixed_stack_gives_a_choice() -> None:
    numpy = home_named("numpy")
    members = (np.zeros((2, 4, 4), np.float32), np.ones((1, 4, 4), np.float32))
    stack = Stack(members, np.array([0, 1, 0], np.int32), np.array([0, 0, 1], np.int32))
    layer = stack.layer(numpy, 1)
    assert isinstance(layer, Choice) and layer.shape == (4, 4) and int(layer.tag[layer.index]) == 1
    np.testing.assert_array_equal(layer.options(numpy)[1], members[1][0])
