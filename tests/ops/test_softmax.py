"""softmax, log_softmax and logsumexp, against float64."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from soberano.backends.base import Home
from soberano.core.errors import ShapeError
from soberano.ops.softmax import log_softmax, logsumexp, softmax
from tests.cases import MODELS, Shape
from tests.tolerance import assert_close, assert_gradient

# Finite floats and -inf; hypothesis likes equal values, huge gaps and rows of nothing but -inf.
LOGITS = arrays(np.float32, (4, 6), elements=st.one_of(st.floats(-1e4, 1e4, width=32), st.just(-np.inf)))


def oracle(x: np.ndarray, axis: int = -1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(softmax, log_softmax, logsumexp)"""
    x = x.astype(np.float64)
    total = np.logaddexp.reduce(x, axis=axis, keepdims=True)
    logs = np.where(np.isneginf(x), -np.inf, x - np.where(np.isneginf(total), 0, total))
    return np.exp(logs), logs, np.squeeze(total, axis)


@given(x=LOGITS)
def test_any_values(home: Home, x: np.ndarray) -> None:
    here, (p, logs, total) = home.asarray(x), oracle(x)
    size = max(1.0, float(np.abs(x[np.isfinite(x)]).max(initial=0)))  # a logit of 1e4 is itself off by 1e-3
    for impl in ("auto", "meaning"):
        assert_close(home.to_numpy(softmax(here, impl=impl)), p, summed=6, what=f"softmax {impl}")
        assert_close(home.to_numpy(log_softmax(here, impl=impl)), logs, summed=6, size=size, what=f"log_softmax {impl}")
        assert_close(home.to_numpy(logsumexp(here, impl=impl)), total, summed=6, size=size, what=f"logsumexp {impl}")


@pytest.mark.parametrize("shape", MODELS, ids=lambda s: s.name)
def test_real_vocabularies(home: Home, rng: np.random.Generator, shape: Shape) -> None:
    x = (rng.normal(size=(2, shape.vocab)) * 5).astype(np.float32)
    actual = home.compile(log_softmax)(home.asarray(x))
    assert_close(home.to_numpy(actual), oracle(x)[1], size=16, what=f"log_softmax {shape.name}")


@pytest.mark.parametrize("axis", [0, 1, -2, 2])
def test_every_axis(home: Home, rng: np.random.Generator, axis: int) -> None:
    x = rng.normal(size=(2, 3, 4)).astype(np.float32)
    for run, expected in zip((softmax, log_softmax, logsumexp), oracle(x, axis), strict=True):
        assert_close(
            home.to_numpy(home.compile(partial(run, axis=axis))(home.asarray(x))), expected, summed=4, what=f"{run}"
        )


def test_nothing_and_poison(home: Home) -> None:
    x = np.array([[-np.inf, -np.inf], [np.nan, 0.0]], np.float32)
    p, logs, total = (home.to_numpy(home.compile(run)(home.asarray(x))) for run in (softmax, log_softmax, logsumexp))
    assert (p[0] == 0).all()
    assert np.isneginf(logs[0]).all()
    assert np.isneginf(total[0])
    assert np.isnan(p[1]).all()
    assert np.isnan(logs[1]).all()
    assert np.isnan(total[1])


def test_gradient(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    x, toward = (rng.normal(size=(2, 5)).astype(np.float32) for _ in range(2))
    for index, run in enumerate((softmax, log_softmax, logsumexp)):
        ahead = toward if index < 2 else toward[:, 0]
        got = jax.jit(jax.grad(lambda a, run=run, ahead=ahead: (ahead * run(a)).sum()))(x)
        slopes = lambda a, index=index, ahead=ahead: float((ahead * oracle(a)[index]).sum())  # noqa: E731
        assert_gradient(got, slopes, x, summed=5, what=str(run))


def test_gradient_of_a_masked_row_is_zero() -> None:
    jax = pytest.importorskip("jax")
    x = np.array([[-np.inf, -np.inf], [0.0, -np.inf]], np.float32)
    assert (np.asarray(jax.jit(jax.grad(lambda a: softmax(a)[:, 0].sum()))(x)) == 0).all()


def test_refuses_with_the_numbers(home: Home) -> None:
    with pytest.raises(ShapeError, match=r"softmax: axis is 2, but x \(2, 3\) has 2 axes; pass one from -2 to 1"):
        softmax(home.asarray(np.zeros((2, 3), np.float32)), axis=2)
    with pytest.raises(ShapeError, match="empty along axis -1"):
        logsumexp(home.asarray(np.zeros((2, 0), np.float32)))
