"""Packed vectors: they decode to what lies near their originals, and say how near."""

import ml_dtypes
import numpy as np
import pytest

from soberano.backends.base import Home
from soberano.backends.tree import map_arrays
from soberano.core.errors import InputError, ShapeError
from soberano.quant.vectors import Vectors, vectors
from tests.cases import MINILM_L6

PACKED = ("bfloat16", "int8", "bit")


def oracle(x: np.ndarray, kind: str) -> np.ndarray:
    """What a row becomes, in float64, by the definition of its kind."""
    wide = x.astype(np.float64)
    if kind == "bfloat16":
        return x.astype(ml_dtypes.bfloat16).astype(np.float64)
    if kind == "int8":
        scale = (np.abs(x).max(1, keepdims=True) / np.float32(127)).astype(np.float64)
        return np.rint(x / scale.astype(np.float32)) * scale
    return np.where(wide >= 0, 1, -1) * np.float32(np.abs(wide).mean(1, keepdims=True))


@pytest.mark.parametrize("width", [MINILM_L6.width, 13])
@pytest.mark.parametrize("kind", PACKED)
def test_rows_decode_near_their_originals(home: Home, rng: np.random.Generator, kind: str, width: int) -> None:
    exact = vectors(rng.normal(size=(50, width)), "dot")
    packed = exact.packed(kind)
    ids = np.array([[0, 49], [7, 7]], np.int32)
    decoded = home.to_numpy(map_arrays(home.asarray, packed).rows(home, home.asarray(ids)))
    expected = oracle(exact.data, kind)
    np.testing.assert_allclose(decoded, expected[ids], rtol=2e-7)  # one rounding, of code * scale
    distance = np.linalg.norm(exact.data - expected, axis=1)
    assert (packed.error >= distance).all()
    length = np.linalg.norm(exact.data, axis=1)
    assert (packed.error <= distance + 0.001 * length).all(), "a bound that is far from the distance proves little"


@pytest.mark.parametrize("kind", PACKED)
def test_a_row_takes_as_many_bits_as_its_kind_says(rng: np.random.Generator, kind: str) -> None:
    packed = vectors(rng.normal(size=(4, 384))).packed(kind)
    assert packed.data.nbytes == 4 * 384 * {"bfloat16": 16, "int8": 8, "bit": 1}[kind] / 8
    assert len(packed) == 4


def test_cosine_normalises_on_entry_and_leaves_the_callers_array_alone(rng: np.random.Generator) -> None:
    base = (rng.normal(size=(5, 8)) * 10.0 ** np.arange(-20, 5, 5)[:, None]).astype(np.float32)
    before, exact = base.copy(), vectors(base, "cosine")
    np.testing.assert_allclose(np.linalg.norm(exact.data, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(base, before)
    assert (vectors(np.zeros((1, 3)), "cosine").data == 0).all()


def test_l2_keeps_half_the_squared_lengths(rng: np.random.Generator) -> None:
    base = rng.normal(size=(5, 8)).astype(np.float32)
    exact = vectors(base, "l2")
    np.testing.assert_allclose(exact.half, np.square(base.astype(np.float64)).sum(1) / 2, rtol=1e-7)
    np.testing.assert_array_equal(exact.packed("bit").half, exact.half)
    assert vectors(base, "dot").half is None


def test_bfloat16_vectors_are_originals_too(rng: np.random.Generator) -> None:
    short = vectors(rng.normal(size=(6, 16)), "dot").packed("bfloat16")
    again = short.packed("float32")
    assert again.error is None
    np.testing.assert_array_equal(again.packed("bfloat16").data, short.data)
    np.testing.assert_array_equal(short.packed("int8").data, again.packed("int8").data)
    assert short.packed("bfloat16") is short


@pytest.mark.parametrize(
    ("base", "metric", "error", "message"),
    [
        (np.zeros(3), "dot", ShapeError, r"base is \(3,\); pass \(N, D\)"),
        (np.zeros((0, 3)), "dot", ShapeError, r"\(0, 3\)"),
        (np.zeros((2, 3), np.int64), "dot", InputError, "base is int64; pass floating-point"),
        (np.array([[0.0], [np.nan]]), "dot", InputError, "row 1 holds NaN"),
        (np.array([[np.inf]]), "cosine", InputError, "row 0 holds NaN, an infinity"),
        (np.array([[1e300]]), "l2", InputError, "so large that its length exceeds 1e"),
        (np.zeros((2, 3)), "jaccard", InputError, "metric is 'jaccard'; pass one of dot, cosine, l2"),
    ],
)
def test_refuses_with_the_numbers(base: np.ndarray, metric: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vectors(base, metric)  # type: ignore[arg-type]


def test_refuses_to_pack_twice_or_into_what_is_no_kind() -> None:
    exact: Vectors = vectors(np.ones((1, 2)), "dot")
    with pytest.raises(InputError, match="int8 on ndarray cannot be packed; keep the float32 vectors"):
        exact.packed("int8").packed("bit")
    with pytest.raises(InputError, match="kind is 'int4'; pass one of float32, bfloat16, int8, bit"):
        exact.packed("int4")  # type: ignore[arg-type]
