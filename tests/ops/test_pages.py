"""The element types of the cache: what is written is what is read, as near as the type allows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.backends.base import Home
from soberano.ops.attention import write_kv
from soberano.ops.pages import GROUP, TYPES, read_keys, read_values, shapes

PAGES, HEADS, WIDTH, PAGE = 3, 2, 64, 32


def rounded(name: str, x: np.ndarray) -> np.ndarray:
    """What a type keeps of x (..., E), in float64 from its definition."""
    if name == "f16":
        return x.astype(np.float16).astype(np.float64)
    if name == "bf16":  # 8 significant bits; np.round takes ties to even
        mantissa, exponent = np.frexp(x.astype(np.float64))
        return np.ldexp(np.round(mantissa * 256), exponent - 8)
    groups = x.astype(np.float64).reshape(*x.shape[:-1], -1, GROUP)
    scale = (np.abs(groups).max(-1, keepdims=True).astype(np.float32) / 127).astype(np.float16).astype(np.float64)
    codes = np.clip(np.round(groups / np.where(scale > 0, scale, 1)), -127, 127)
    return (codes * scale).reshape(x.shape)


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@pytest.mark.parametrize("name", TYPES)
@given(data=st.data())
def test_write_then_read(impl: str, name: str, home: Home, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    size = np.exp(rng.normal(size=(2, 9, HEADS, 1)) * data.draw(st.sampled_from([0, 2])))
    k, v = ((rng.normal(size=(2, 9, HEADS, WIDTH)) * size).astype(np.float32) for _ in range(2))
    k[0, 0], v[0, 1, 0, :GROUP] = 0, 0
    table = rng.permutation(PAGES)[:2].reshape(2, 1).astype(np.int32)
    positions = np.stack([rng.permutation(PAGE)[:9] for _ in range(2)]).astype(np.int32)
    positions[1, 3] = -1
    kept = shapes(TYPES[name], WIDTH, PAGE)
    empty = [home.asarray(np.zeros((2, PAGES, HEADS, *shape), TYPES[name])) for shape in kept]
    args = [home.asarray(a) for a in (k, v, positions, table)]
    keys, values = write_kv(*empty, *args, 1, impl=impl)
    keys, values = home.to_numpy(read_keys(home, keys)), home.to_numpy(read_values(home, values))
    expected = np.zeros((2, 2, PAGES, HEADS, PAGE, WIDTH))
    for what, x in enumerate((k, v)):
        for b, t in np.ndindex(positions.shape):
            if positions[b, t] >= 0:
                expected[what, 1, table[b, 0], :, positions[b, t]] = rounded(name, x[b, t])
    found = np.stack([np.swapaxes(keys, -1, -2), values])
    unequal = found != expected
    if name == "q8_0":  # x * (1 / scale) in float32 may fall on the other side of a tie
        step = np.abs(expected).max(-1, keepdims=True) / 126 + 1e-7
        assert unequal.mean() < 1e-3 and (np.abs(found - expected) <= step).all()
    else:
        assert not unequal.any()


@pytest.mark.parametrize("name", TYPES)
def test_kernel_and_meaning_write_the_same_bytes(name: str, home: Home, rng: np.random.Generator) -> None:
    k, v = (rng.normal(size=(1, 40, HEADS, WIDTH)).astype(np.float32) for _ in range(2))
    k[0, 3, 0, 5], v[0, 4, 1, 6] = 1e9, -1e-9  # too large for a float16 scale, and too small
    k[0, 5, 1, 7], v[0, 6, 0, 40] = np.nan, -np.inf
    where = np.arange(40, dtype=np.int32)[None], np.array([[2, 0]], np.int32)
    written = []
    for impl in ("meaning", "auto"):
        empty = [np.zeros((1, PAGES, HEADS, *shape), TYPES[name]) for shape in shapes(TYPES[name], WIDTH, PAGE)]
        args = [home.asarray(a.copy()) for a in (*empty, k, v, *where)]
        with np.errstate(over="ignore"):  # float16 has no 1e9
            written.append([home.to_numpy(pages) for pages in write_kv(*args, 0, impl=impl)])
    for meaning, kernel in zip(*written, strict=True):
        np.testing.assert_array_equal(kernel, meaning)
