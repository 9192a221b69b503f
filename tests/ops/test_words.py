"""Arithmetic of 32-bit words, against Python's integers."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from soberano.backends.base import Home
from soberano.ops.words import ordered, wide_product

WORDS = arrays(np.uint32, (16,), elements=st.integers(0, 2**32 - 1))


@given(a=WORDS, b=WORDS)
def test_wide_product(home: Home, a: np.ndarray, b: np.ndarray) -> None:
    high, low = (home.to_numpy(part).tolist() for part in wide_product(home.asarray(a), home.asarray(b)))
    products = [int(x) * int(y) for x, y in zip(a, b, strict=True)]
    assert [h << 32 | w for h, w in zip(high, low, strict=True)] == products
    high, low = wide_product(home.asarray(a), np.uint32(b[0]))
    assert [int(h) << 32 | int(w) for h, w in zip(high, low, strict=True)] == [int(x) * int(b[0]) for x in a]


@given(x=arrays(np.float32, (16,), elements=st.floats(width=32, allow_nan=False)))
def test_ordered(home: Home, x: np.ndarray) -> None:
    x[np.abs(x) < np.finfo(np.float32).tiny] = 0  # XLA on a CPU may take subnormal numbers for zero
    words = home.to_numpy(ordered(home.asarray(x)))
    assert ((words[:, None] < words) == (x[:, None] < x)).all()
    assert ((words[:, None] == words) == (x[:, None] == x)).all()
