"""Encoders: byte for byte against the gguf package where they follow it, else against what rounding must achieve."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soberano.backends.homes import home
from soberano.core.errors import InputError, ShapeError
from soberano.quant.blocks import BlockFormat, all_formats, format_named
from soberano.quant.encode import encode

ALL = all_formats()
AS_REFERENCE = [format_named(name) for name in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4")]
K_QUANTS = [format_named(name) for name in ("Q4_K", "Q5_K", "Q6_K")]


def some_weights(seed: int, rows: int = 8, columns: int = 512) -> np.ndarray:
    """Rows as models have them, and rows that break careless encoders: zero, constant, one sign, an outlier, tiny."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((rows, columns), np.float32) * np.float32(10.0 ** rng.integers(-1, 2))
    w[0], w[1], w[2], w[3] = 0, w[1, 0], np.abs(w[2]), -np.abs(w[3])
    w[4, 17] *= 100
    w[5] *= np.float32(1e-30)
    return w


@pytest.mark.parametrize("kind", AS_REFERENCE, ids=lambda kind: kind.name)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_bytes_are_the_reference_encoders(kind: type[BlockFormat], seed: int) -> None:
    w = some_weights(seed)
    want = gguf.quantize(w, gguf.GGMLQuantizationType(kind.ggml)).view(np.uint8)
    np.testing.assert_array_equal(encode(kind, w), want.reshape(len(w), -1))


@pytest.mark.parametrize("kind", K_QUANTS, ids=lambda kind: kind.name)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_every_weight_rounds_to_a_near_code(kind: type[BlockFormat], seed: int) -> None:
    """With the block's own scales given, no weight is further from its code than half a step, unless it is clipped.

    Clipping happens where a scale was rounded down to its 6 or 8 bits: by at most half of d times the codes it
    multiplies, and the same once for the minimum. float16 rounds d and m by 2**-11 of themselves, or by 2**-25. Signed
    codes end one short of the extreme on the other side.
    """
    w = some_weights(seed)
    raw = encode(kind, w)
    _, d, sub, m, _ = kind.parts(home("numpy"), raw)
    step = np.abs(d.astype(np.float64) * sub)  # (N, groups)
    reach = (1 << kind.bits) - 1 if kind.zero == 0 else kind.zero
    slack = 0.5 * np.abs(d.astype(np.float64)) * reach + (0 if m is None else 0.5 * np.abs(m.astype(np.float64)))
    error = np.abs(kind.dequantize(home("numpy"), raw).astype(np.float64) - w).reshape(*step.shape, kind.group)
    span = np.abs(w).reshape(*step.shape, kind.group).max(axis=(1, 2))[:, None]
    bound = (1 if kind.zero else 0.5) * step + slack + span * 2**-10 + 2**-25 * reach * np.abs(sub).max()
    assert (error <= bound[..., None]).all()


@pytest.mark.parametrize("name", ["IQ4_NL", "IQ4_XS"])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_every_weight_takes_the_nearest_of_its_codebook(name: str, seed: int) -> None:
    """No other code of the format, with the block's own scales, is nearer to a weight by more than rounding."""
    kind, w = format_named(name), some_weights(seed)
    _, d, sub, *_ = kind.parts(home("numpy"), raw := encode(kind, w))
    step = d.astype(np.float64) * (1 if sub is None else sub)  # (N, groups)
    groups = w.reshape(*step.shape, kind.group).astype(np.float64)
    nearest = np.abs(groups[..., None] - step[..., None, None] * np.array(kind.codebook)).min(axis=-1)
    back = kind.dequantize(home("numpy"), raw).reshape(groups.shape)
    assert (np.abs(back - groups) <= nearest * (1 + 1e-5) + 1e-6 * np.abs(step[..., None])).all()
    if sub is None:  # and the scale is the one that keeps the extreme weight
        extreme = np.abs(groups).argmax(axis=-1)[..., None]
        assert (np.take_along_axis(np.abs(back - groups), extreme, -1) <= 2.0**-11 * np.abs(groups).max() + 1e-6).all()


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_more_bits_mean_less_error(kind: type[BlockFormat]) -> None:
    """The root mean square error of normal weights halves with every bit of a code."""
    w = np.random.default_rng(0).standard_normal((64, 512), np.float32)
    back = kind.dequantize(home("numpy"), encode(kind, w))
    limits = {"F32": 0, "F16": 2**-11, "BF16": 2**-8, "MXFP4": 0.13}  # one bit of fraction, and what is clipped
    limit = limits.get(kind.name, 1.4 * 2.0**-kind.bits)
    assert np.sqrt(np.mean((back - w) ** 2)) <= limit


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_zero_stays_zero(kind: type[BlockFormat]) -> None:
    w = np.zeros((2, 256), np.float32)
    assert not kind.dequantize(home("numpy"), encode(kind, w)).any()


@pytest.mark.parametrize("kind", [k for k in ALL if not k.plain], ids=lambda kind: kind.name)
def test_what_a_block_cannot_hold_is_refused(kind: type[BlockFormat]) -> None:
    w = np.ones((1, 256), np.float32)
    w[0, 3] = np.nan
    with pytest.raises(InputError, match=f"{kind.name} cannot hold infinity or NaN"):
        encode(kind, w)
    w[0, 3] = 1e38
    if kind.name != "MXFP4":  # its scale is no float16
        with pytest.raises(InputError, match=f"{kind.name} cannot hold 1e"):
            encode(kind, w)
    with pytest.raises(ShapeError, match=f"{kind.name}: a row of 255 weights"):
        encode(kind, np.zeros((1, 255), np.float32))


def test_bf16_keeps_nan_and_infinity() -> None:
    w = np.array([np.nan, -np.nan, np.inf, -np.inf, 3.4e38, 1e-40], np.float32)
    w[1:2].view(np.uint32)[0] = 0xFF800001  # a NaN whose upper half alone would be an infinity
    bf16 = format_named("BF16")
    back = bf16.dequantize(home("numpy"), encode(bf16, w))
    np.testing.assert_array_equal(np.isnan(back), [True, True, False, False, False, False])
    np.testing.assert_array_equal(back[2:5], [np.inf, -np.inf, np.inf])
