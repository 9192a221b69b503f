"""Distances between rows, against float64 and against counted bits."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from soberano.backends.base import Home
from soberano.core.errors import InputError, ShapeError
from soberano.ops.distance import cosine, dot, hamming, l2
from tests.cases import MINILM_L6
from tests.tolerance import assert_close, assert_gradient


def norms(a: np.ndarray) -> np.ndarray:
    return np.sqrt(np.square(a.astype(np.float64)).sum(-1))


ORACLES = {
    dot: lambda a, b: np.einsum("nd,md->nm", a.astype(np.float64), b.astype(np.float64)),
    cosine: lambda a, b: ORACLES[dot](a, b) / np.maximum(np.outer(norms(a), norms(b)), 1e-300),
    l2: lambda a, b: np.square(a[:, None].astype(np.float64) - b[None]).sum(-1),
}
KINDS = pytest.mark.parametrize("kind", list(ORACLES), ids=["dot", "cosine", "l2"])
# No subnormal numbers: XLA takes them for 0, so a vector of nothing else has no direction there.
VECTORS = arrays(np.float32, (3, 5), elements=st.floats(-100, 100, width=32, allow_subnormal=False))


@KINDS
@given(a=VECTORS, b=VECTORS)
def test_any_values(home: Home, kind: object, a: np.ndarray, b: np.ndarray) -> None:
    for impl in ("auto", "meaning"):
        actual = home.to_numpy(kind(home.asarray(a), home.asarray(b), impl=impl))
        size = 1.0 if kind is cosine else max(1.0, float((norms(a).max() + norms(b).max()) ** 2))
        assert_close(actual, ORACLES[kind](a, b), summed=5, size=size, what=f"{kind} {impl}")


@KINDS
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_embeddings(home: Home, rng: np.random.Generator, kind: object, dtype: str) -> None:
    a, b = ((rng.normal(size=(n, MINILM_L6.width)) * 20).astype(dtype) for n in (2, 50))
    actual = home.to_numpy(home.compile(kind)(home.asarray(a), home.asarray(b)))
    size = 1.0 if kind is cosine else 1000.0
    assert_close(actual, ORACLES[kind](a, b), summed=MINILM_L6.width, size=size, what=f"{kind} {dtype}")
    assert actual.dtype == np.float32


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_cosine_of_tiny_and_huge_vectors(home: Home, scale: float) -> None:
    a = (np.array([[3.0, 4.0], [0.0, 0.0]]) * scale).astype(np.float32)
    actual = home.to_numpy(cosine(home.asarray(a), home.asarray(np.array([[1.0, 0.0]], np.float32))))
    assert_close(actual, [[0.6], [0.0]], summed=2, what="cosine")


def test_l2_is_never_negative(home: Home, rng: np.random.Generator) -> None:
    a = home.asarray((1000 + rng.normal(size=(20, 64))).astype(np.float32))
    assert (home.to_numpy(l2(a, a)) >= 0).all()


@given(a=arrays(np.uint8, (4, 9)), b=arrays(np.uint8, (2, 9)))
def test_hamming_counts_bits(home: Home, a: np.ndarray, b: np.ndarray) -> None:
    bits = np.unpackbits(a, axis=-1)[:, None] != np.unpackbits(b, axis=-1)[None]
    actual = home.to_numpy(hamming(home.asarray(a), home.asarray(b)))
    assert actual.dtype == np.int32
    assert (actual == bits.sum(-1)).all()


def test_hamming_of_long_rows(home: Home) -> None:
    a, b = np.full((1, 4096), 255, np.uint8), np.zeros((1, 4096), np.uint8)
    assert home.to_numpy(hamming(home.asarray(a), home.asarray(b))).tolist() == [[8 * 4096]]


@KINDS
def test_gradient(rng: np.random.Generator, kind: object) -> None:
    jax = pytest.importorskip("jax")
    a, b, toward = (rng.normal(size=s).astype(np.float32) for s in ((2, 4), (3, 4), (2, 3)))
    got = jax.jit(jax.grad(lambda a, b: (toward * kind(a, b)).sum(), argnums=(0, 1)))(a, b)
    oracle = lambda a, b: float((toward * ORACLES[kind](a, b)).sum())  # noqa: E731
    assert_gradient(got[0], partial(lambda b, a: oracle(a, b), b), a, summed=12, what=f"{kind} by a")
    assert_gradient(got[1], partial(oracle, a), b, summed=12, what=f"{kind} by b")


def test_refuses_with_the_numbers(home: Home) -> None:
    a, b = home.asarray(np.zeros((2, 4), np.float32)), home.asarray(np.zeros((2, 3), np.float32))
    with pytest.raises(ShapeError, match=r"dot: a is \(2, 4\) and b \(2, 3\); pass \(N, D\) and \(M, D\)"):
        dot(a, b)
    with pytest.raises(ShapeError, match=r"cosine: a is \(4,\)"):
        cosine(a[0], a)
    with pytest.raises(InputError, match="hamming: a is float32; pass bits packed into uint8"):
        hamming(a, a)
