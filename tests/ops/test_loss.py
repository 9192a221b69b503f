"""Losses, against float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from soberano.backends.base import Home
from soberano.core.errors import ShapeError
from soberano.ops.loss import cross_entropy, kl_divergence
from tests.cases import SMOLLM2_135M
from tests.tolerance import assert_close, assert_gradient

LOGITS = arrays(np.float32, (4, 6), elements=st.floats(-50, 50, width=32))
TARGETS = arrays(np.int32, (4,), elements=st.sampled_from([-100, 0, 3, 5]))


def logs(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x - np.logaddexp.reduce(x, axis=-1)[..., None]


def entropy(x: np.ndarray, targets: np.ndarray) -> float:
    picked = [-row[t] for row, t in zip(logs(x).reshape(-1, x.shape[-1]), targets.ravel(), strict=True) if t != -100]
    return sum(picked) / max(len(picked), 1)


def divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return (np.exp(logs(p)) * (logs(p) - logs(q))).sum(-1)


@given(x=LOGITS, targets=TARGETS)
def test_cross_entropy(home: Home, x: np.ndarray, targets: np.ndarray) -> None:
    for impl in ("auto", "meaning"):
        actual = cross_entropy(home.asarray(x), home.asarray(targets), impl=impl)
        assert_close(home.to_numpy(actual), entropy(x, targets), summed=6, size=100, what=f"cross_entropy {impl}")


@given(p=LOGITS, q=LOGITS)
def test_kl_divergence(home: Home, p: np.ndarray, q: np.ndarray) -> None:
    for impl in ("auto", "meaning"):
        actual = kl_divergence(home.asarray(p), home.asarray(q), impl=impl)
        assert_close(home.to_numpy(actual), divergence(p, q), summed=6, size=100, what=f"kl_divergence {impl}")
    same = kl_divergence(home.asarray(p), home.asarray(p))
    assert (home.to_numpy(same) == 0).all()


def test_a_real_vocabulary(home: Home, rng: np.random.Generator) -> None:
    x, y = ((rng.normal(size=(2, 3, SMOLLM2_135M.vocab)) * 3).astype(np.float32) for _ in range(2))
    targets = rng.integers(0, SMOLLM2_135M.vocab, (2, 3)).astype(np.int32)
    here = home.asarray(x), home.asarray(y)
    actual = home.compile(cross_entropy)(here[0], home.asarray(targets))
    assert_close(home.to_numpy(actual), entropy(x, targets), size=16, what="cross_entropy")
    actual = home.compile(kl_divergence)(*here)
    assert_close(home.to_numpy(actual), divergence(x, y), size=16, what="kl_divergence")


def test_what_does_not_count(home: Home) -> None:
    x = home.asarray(np.array([[0.0, 1.0], [5.0, -5.0]], np.float32))
    assert float(cross_entropy(x, home.asarray(np.array([-100, -100])))) == 0
    assert np.isnan(float(cross_entropy(x, home.asarray(np.array([0, 2])))))
    assert np.isnan(float(cross_entropy(x, home.asarray(np.array([0, -1])))))
    one = float(cross_entropy(x[:1], home.asarray(np.array([1]))))
    assert float(cross_entropy(x, home.asarray(np.array([1, 9])), ignore=9)) == one


def test_impossible_tokens(home: Home) -> None:
    p, q = np.array([[0.0, -np.inf], [0.0, 0.0]], np.float32), np.array([[0.0, 0.0], [0.0, -np.inf]], np.float32)
    actual = home.to_numpy(kl_divergence(home.asarray(p), home.asarray(q)))
    assert_close(actual, [np.log(2), np.inf], what="kl_divergence")
    assert home.to_numpy(kl_divergence(home.asarray(p), home.asarray(p))).tolist() == [0, 0]


def test_gradient(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    x, y = (rng.normal(size=(3, 4)).astype(np.float32) for _ in range(2))
    targets = np.array([2, -100, 0], np.int32)
    got = jax.jit(jax.grad(lambda a: cross_entropy(a, jax.numpy.asarray(targets))))(x)
    assert_gradient(got, lambda a: entropy(a, targets), x, summed=4, what="cross_entropy")
    assert (np.asarray(got)[1] == 0).all()
    got = jax.jit(jax.grad(lambda p, q: kl_divergence(p, q).sum(), argnums=(0, 1)))(x, y)
    assert_gradient(got[0], lambda p: float(divergence(p, y).sum()), x, summed=4, what="kl_divergence by p")
    assert_gradient(got[1], lambda q: float(divergence(x, q).sum()), y, summed=4, what="kl_divergence by q")


def test_refuses_with_the_numbers(home: Home) -> None:
    x = home.asarray(np.zeros((2, 4), np.float32))
    with pytest.raises(ShapeError, match=r"cross_entropy: targets is \(2, 4\) for logits \(2, 4\)"):
        cross_entropy(x, x)
    with pytest.raises(ShapeError, match=r"kl_divergence: p_logits is \(2, 4\), but q_logits is \(4,\)"):
        kl_divergence(x, x[0])
