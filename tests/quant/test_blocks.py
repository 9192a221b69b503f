"""Every block format, on every home, against the decoder of the gguf package: equal to the last bit, NaN is NaN."""

import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import soberano.quant
from soberano.backends.homes import home
from soberano.core.errors import InputError, ShapeError, Unsupported, UnsupportedModel
from soberano.core.types import Array
from soberano.quant import blocks
from soberano.quant.blocks import FORMATS, BlockFormat, all_formats, format_named

ALL = all_formats()
CODED = [each for each in ALL if not each.plain]
NAMES = "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4"
HALVES = np.array(
    [0, 0x8000, 1, 0x8001, 0x3FF, 0x400, 0x3C00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0x7C01], np.uint16
)
"""Zeros, subnormals, the least normal, 1, the largest, infinities, a quiet and a signalling NaN."""

formats = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
coded = pytest.mark.parametrize("kind", CODED, ids=lambda kind: kind.name)
seeds = st.integers(0, 2**32 - 1)


def random_rows(kind: type[BlockFormat], seed: int, rows: int = 3, blocks: int = 4) -> np.ndarray:
    """Any bytes, with the float16 fields of half of the blocks from the corners of float16."""
    rng = np.random.default_rng(seed)
    per_row = blocks * (64 if kind.plain else 1)
    raw = rng.integers(0, 256, (rows, per_row * kind.block_bytes), dtype=np.uint8)
    view = raw.view(kind.layout)
    for name in view.dtype.names or ():
        if view.dtype[name] == np.float16:
            corner = rng.choice(HALVES, view.shape).view(np.float16)
            view[name] = np.where(rng.random(view.shape) < 0.5, corner, view[name])
    return raw


def oracle(kind: type[BlockFormat], raw: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.dequantize(raw, gguf.GGMLQuantizationType(kind.ggml))


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    assert got.dtype == want.dtype == np.float32
    assert got.shape == want.shape
    nan = np.isnan(want)
    np.testing.assert_array_equal(np.isnan(got), nan)
    np.testing.assert_array_equal(got.view(np.uint32)[~nan], want.view(np.uint32)[~nan])


def test_the_formats_of_the_first_release_are_here() -> None:
    assert {each.name for each in ALL} == set(NAMES.split())
    assert all(FORMATS[each.ggml] is each for each in ALL)


@formats
def test_sizes_are_ggmls(kind: type[BlockFormat]) -> None:
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.name]]
    assert (kind.ggml, kind.block, kind.block_bytes) == (gguf.GGMLQuantizationType[kind.name].value, block, size)
    assert kind.bits_per_weight == 8 * size / block
    assert kind.row_bytes(4 * block) == 4 * size
    assert kind.row_weights(4 * size) == 4 * block


@formats
@given(seed=seeds)
@settings(max_examples=25, deadline=None)
def test_numpy_decodes_as_ggml(kind: type[BlockFormat], seed: int) -> None:
    raw = random_rows(kind, seed)
    assert_same_bits(kind.dequantize(home("numpy"), raw), oracle(kind, raw))


@formats
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_jax_decodes_as_ggml(kind: type[BlockFormat], compiled: bool) -> None:
    """XLA on a CPU flushes float32 subnormals, but none arises: float16 becomes normal, the rest are bit casts.

    The two least scales of MXFP4 would be subnormal, and are left out.
    """
    here = home("jax")

    def decode(raw: Array) -> Array:
        return kind.dequantize(here, raw)

    decode = here.compile(decode) if compiled else decode
    for seed in range(4):
        raw = random_rows(kind, seed)
        if kind.name == "MXFP4":
            exponents = raw.view(kind.layout)["e"]
            exponents[:] = np.maximum(exponents, 2)
        assert_same_bits(np.asarray(decode(here.asarray(raw))), oracle(kind, raw))


@pytest.mark.gpu
@formats
def test_cupy_decodes_as_ggml(kind: type[BlockFormat]) -> None:
    cupy = pytest.importorskip("cupy", exc_type=ImportError)
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        pytest.skip("there is no NVIDIA GPU")
    here = home("cupy")
    raw = random_rows(kind, 0)
    assert_same_bits(here.to_numpy(kind.dequantize(here, here.asarray(raw))), oracle(kind, raw))


@coded
@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_parts_are_what_kernels_are_written_for(kind: type[BlockFormat], seed: int) -> None:
    raw = random_rows(kind, seed)
    codes, d, sub, m, submin = kind.parts(home("numpy"), raw)
    count = raw.size // kind.block_bytes
    assert codes.shape == (count, kind.block)
    assert codes.dtype == np.uint8
    assert codes.max() < 1 << kind.bits
    assert d.shape == (count, 1)
    assert d.dtype == (np.float32 if kind.name == "MXFP4" else np.float16)
    assert sub is None or (sub.shape == (count, kind.block // kind.group) and sub.dtype in (np.uint8, np.int8))
    assert m is None or (m.shape == (count, 1) and m.dtype == np.float16)
    assert submin is None or (m is not None and submin.shape == sub.shape and submin.dtype == np.uint8)


@coded
@given(seed=seeds)
@settings(max_examples=10, deadline=None)
def test_products_are_exact_so_that_only_the_subtraction_rounds(kind: type[BlockFormat], seed: int) -> None:
    """The formula in float64, where no product of finite parts rounds, rounded once at the end, gives the same bits."""
    raw = random_rows(kind, seed)
    codes, d, sub, m, submin = kind.parts(home("numpy"), raw)
    book = np.arange(1 << kind.bits) - kind.zero if kind.codebook is None else np.array(kind.codebook)
    numbers = book[codes.reshape(len(codes), -1, kind.group)].astype(np.float64)
    with np.errstate(all="ignore"):
        scale = d.astype(np.float64) * (1 if sub is None else sub.astype(np.float64))
        w = scale[..., None] * numbers
        if m is not None:
            w -= (m.astype(np.float64) * (1 if submin is None else submin.astype(np.float64)))[..., None]
        assert_same_bits(kind.dequantize(home("numpy"), raw), w.reshape(len(raw), -1).astype(np.float32))


@formats
@pytest.mark.parametrize("lead", [(), (2, 3), (0,)], ids=str)
def test_any_leading_axes(kind: type[BlockFormat], lead: tuple[int, ...]) -> None:
    raw = random_rows(kind, 7, rows=int(np.prod(lead, dtype=int)), blocks=2)
    raw = raw.reshape(*lead, raw.shape[-1])
    w = kind.dequantize(home("numpy"), raw)
    assert w.shape == (*lead, kind.row_weights(raw.shape[-1]))
    if raw.size:
        assert_same_bits(w.reshape(-1), oracle(kind, raw.reshape(1, -1)).reshape(-1))


def test_a_read_only_unaligned_view_decodes() -> None:
    """As a mapped file gives it: bytes at an odd address that nobody may write."""
    for kind in ALL:
        raw = random_rows(kind, 1, rows=1)
        held = np.empty(raw.size + 1, np.uint8)
        held[1:] = raw.reshape(-1)
        held.flags.writeable = False
        assert_same_bits(kind.dequantize(home("numpy"), held[1:][None]), oracle(kind, raw))


@formats
def test_a_row_that_is_not_whole_blocks_is_refused(kind: type[BlockFormat]) -> None:
    raw = np.zeros((2, kind.block_bytes + 1), np.uint8)
    with pytest.raises(ShapeError, match=rf"{kind.name}: a row of {kind.block_bytes + 1} bytes"):
        kind.dequantize(home("numpy"), raw)
    if kind.block > 1:
        with pytest.raises(ShapeError, match=rf"{kind.name}: a row of {kind.block + 1} weights"):
            kind.row_bytes(kind.block + 1)


@formats
def test_blocks_must_be_bytes(kind: type[BlockFormat]) -> None:
    with pytest.raises(InputError, match="not uint8"):
        kind.dequantize(home("numpy"), np.zeros((2, 4 * kind.block_bytes), np.int8))


def test_plain_formats_have_no_parts() -> None:
    with pytest.raises(Unsupported, match="F16 is plain"):
        format_named("F16").parts(home("numpy"), np.zeros((1, 2), np.uint8))


def test_formats_go_by_name_in_any_case() -> None:
    assert format_named("q4_k") is format_named("Q4_K")
    with pytest.raises(UnsupportedModel, match=r"'Q9_X'; there are F32, F16, Q4_0"):
        format_named("Q9_X")


def test_a_format_is_found_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up.py").write_text(
        "import numpy as np\n"
        "from soberano.quant.blocks import BlockFormat\n"
        "class MadeUp(BlockFormat, ggml=9999):\n"
        "    block, layout = 2, np.dtype([('w', 'u1')])\n"
    )
    (tmp_path / "made_up_jax.py").write_text("raise AssertionError('a kernel is not for whoever lists formats')\n")
    monkeypatch.setattr(soberano.quant, "__path__", [*soberano.quant.__path__, str(tmp_path)])
    blocks._meet_formats.cache_clear()
    try:
        assert [kind.name for kind in all_formats()] == [*(kind.name for kind in ALL), "MadeUp"]
    finally:
        FORMATS.pop(9999, None)
        sys.modules.pop("soberano.quant.made_up", None)
        vars(soberano.quant).pop("made_up", None)
