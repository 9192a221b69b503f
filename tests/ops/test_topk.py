"""top_k, against a stable sort."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from soberano.backends.base import Home
from soberano.core.errors import InputError, ShapeError
from soberano.ops.topk import top_k
from tests.cases import SMOLLM2_135M

# Few different values, so that ties, -0.0 and -inf are the rule.
TIES = arrays(np.float32, (3, 12), elements=st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 1e-30, 1.0, 3e38]))


def check(home: Home, x: np.ndarray, k: int, impl: str) -> None:
    values, indices = home.compile(partial(top_k, k=k, impl=impl))(home.asarray(x))
    expected = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    assert home.to_numpy(indices).dtype == np.int32
    assert (home.to_numpy(indices) == expected).all()
    assert (home.to_numpy(values) == np.take_along_axis(x, expected, -1)).all()


@pytest.mark.parametrize("impl", ["auto", "meaning"])
@pytest.mark.parametrize("k", [1, 5, 12])
@given(x=TIES)
def test_ties_go_to_the_lower_index(home: Home, impl: str, k: int, x: np.ndarray) -> None:
    values, indices = top_k(home.asarray(x), k, impl=impl)
    expected = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    assert (home.to_numpy(indices) == expected).all()
    assert (home.to_numpy(values) == np.take_along_axis(x, expected, -1)).all()


@pytest.mark.parametrize("impl", ["auto", "meaning"])
def test_a_real_vocabulary(home: Home, rng: np.random.Generator, impl: str) -> None:
    x = rng.normal(size=(2, SMOLLM2_135M.vocab)).astype(np.float32).round(2)
    check(home, x, 128, impl)


def test_shapes_and_types(home: Home, rng: np.random.Generator) -> None:
    check(home, rng.normal(size=7).astype(np.float32), 3, "auto")
    check(home, rng.normal(size=(2, 3, 5)).astype(np.float16), 4, "auto")


def test_gradient_goes_to_the_chosen() -> None:
    jax = pytest.importorskip("jax")
    x = np.array([[3.0, 1.0, 2.0]], np.float32)
    for impl in ("auto", "meaning"):
        got = jax.jit(
            jax.grad(lambda a, impl=impl: (top_k(a, 2, impl=impl)[0] * np.array([10.0, 20.0], np.float32)).sum())
        )(x)
        assert np.asarray(got).tolist() == [[10, 0, 20]]


def test_refuses_with_the_numbers(home: Home) -> None:
    x = home.asarray(np.zeros((2, 3), np.float32))
    for k in (0, 4):
        with pytest.raises(
            InputError, match=rf"top_k: k is {k}, but a row of x \(2, 3\) has 3 numbers; pass a k from 1 to 3"
        ):
            top_k(x, k)
    with pytest.raises(ShapeError, match="single number"):
        top_k(home.asarray(np.zeros((), np.float32)), 1)
