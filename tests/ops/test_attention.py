"""Attention and the cache write, against a loop over tokens in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.backends import native
from soberano.backends.base import Home
from soberano.backends.homes import home as home_named
from soberano.core.errors import ShapeError
from soberano.ops.attention import attention, write_kv
from tests.tolerance import assert_close

LAYERS, PAGES, KV_HEADS, WIDTH, PAGE = 2, 24, 2, 16, 32
needs_native = pytest.mark.skipif(not native.state()[0], reason=native.state()[1])


def pages(rng: np.random.Generator, dtype: type, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    keys = rng.normal(size=(LAYERS, PAGES, KV_HEADS, width, PAGE)).astype(dtype)
    return keys, rng.normal(size=(LAYERS, PAGES, KV_HEADS, PAGE, width)).astype(dtype)


def expected_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, positions: np.ndarray, table: np.ndarray, layer: int
) -> np.ndarray:
    """One query at a time."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    out, group = np.zeros(q.shape), q.shape[2] // KV_HEADS
    for b, t, h in np.ndindex(q.shape[:3]):
        places = [(table[b, s // PAGE], s % PAGE) for s in range(positions[b, t] + 1)]
        if not places:
            continue
        scores = np.array([q[b, t, h] @ k[layer, page, h // group, :, at] for page, at in places]) / np.sqrt(q.shape[3])
        weights = np.exp(scores - scores.max())
        values = np.array([v[layer, page, h // group, at] for page, at in places])
        out[b, t, h] = weights / weights.sum() @ values
    return out


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("heads,width", [(2, 16), (6, 64), (8, 128)])
def test_every_token_sees_itself_and_what_was_before(
    impl: str, dtype: type, heads: int, width: int, home: Home, rng: np.random.Generator
) -> None:
    k, v = pages(rng, dtype, width)
    q = rng.normal(size=(2, 4, heads, width)).astype(np.float32)
    positions = np.array([[0, 31, 32, 299], [-1, 255, 256, 700]], np.int32)
    table = rng.permutation(PAGES)[:24].astype(np.int32)[None].repeat(2, 0)
    table[1] = table[1, ::-1]
    args = [home.asarray(a) for a in (q, k, v, positions, table)]
    actual = attention(*args, home.asarray(np.int32(1)), impl=impl)
    assert_close(home.to_numpy(actual), expected_attention(q, k, v, positions, table, 1), summed=64, what="attention")


@needs_native
def test_a_query_has_the_same_bits_alone_and_among_others(rng: np.random.Generator) -> None:
    home = home_named("jax")
    k, v = pages(rng, np.float16, 64)
    q, table = rng.normal(size=(1, 40, 6, 64)).astype(np.float32), rng.permutation(PAGES).astype(np.int32)[None]
    positions = np.arange(300, 340, dtype=np.int32)[None]
    rest = [home.asarray(a) for a in (k, v)]
    here = home.asarray(table)
    together = home.to_numpy(attention(home.asarray(q), *rest, home.asarray(positions), here, 0, impl="kernel"))
    for t in (0, 13, 39):
        one = [home.asarray(a[:, t : t + 1]) for a in (q, positions)]
        alone = home.to_numpy(attention(one[0], *rest, one[1], here, 0, impl="kernel"))
        np.testing.assert_array_equal(alone[:, 0], together[:, t])


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@given(data=st.data())
def test_a_write_changes_its_own_places_and_no_other(impl: str, home: Home, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    k, v = pages(rng, np.float16)
    new = rng.normal(size=(2, 2, 5, KV_HEADS, WIDTH)).astype(np.float32)
    table = rng.permutation(PAGES)[:24].reshape(2, 12).astype(np.int32)
    positions = np.stack([rng.permutation(12 * PAGE)[:5] for _ in range(2)]).astype(np.int32)
    positions[rng.random((2, 5)) < 0.3] = -1
    expected = k.copy(), v.copy()
    for b, t in np.ndindex(positions.shape):
        if positions[b, t] >= 0:
            page, at = table[b, positions[b, t] // PAGE], positions[b, t] % PAGE
            expected[0][1, page, :, :, at], expected[1][1, page, :, at] = new[0, b, t], new[1, b, t]
    args = [home.asarray(a.copy()) for a in (k, v, new[0], new[1], positions, table)]
    actual = write_kv(*args, home.asarray(np.int32(1)), impl=impl)
    for got, wanted in zip(actual, expected, strict=True):
        np.testing.assert_array_equal(home.to_numpy(got), wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_gradient(dtype: type, rng: np.random.Generator) -> None:
    import jax

    home = home_named("jax")
    k, v = pages(rng, dtype)
    q, table = rng.normal(size=(1, 2, 4, WIDTH)).astype(np.float32), np.arange(PAGES, dtype=np.int32)[None]
    positions = np.array([[3, 40]], np.int32)
    rest = [home.asarray(a) for a in (k, v, positions, table)]
    gradient, step = jax.grad(lambda q: (attention(q, *rest, 0) ** 2).sum())(home.asarray(q)), 1e-4
    for place in [(0, 0, 1, 3), (0, 1, 3, 15)]:
        ahead, behind = q.astype(np.float64), q.astype(np.float64)
        ahead[place] += step
        behind[place] -= step
        high, low = ((expected_attention(at, k, v, positions, table, 0) ** 2).sum() for at in (ahead, behind))
        slope = (high - low) / (2 * step)
        assert_close(gradient[place], slope, summed=64, size=8, what="gradient of attention")


def test_heads_that_do_not_fit_are_named(home: Home, rng: np.random.Generator) -> None:
    k, v = (home.asarray(a) for a in pages(rng, np.float32))
    q = home.asarray(np.zeros((1, 1, 3, WIDTH), np.float32))
    where = home.asarray(np.zeros((1, 1), np.int32))
    with pytest.raises(ShapeError, match="has 3 heads of 16, the cache 2 of 16"):
        attention(q, k, v, where, where, 0)


@needs_native
def test_an_index_from_outside_is_refused(rng: np.random.Generator) -> None:
    home = home_named("jax")
    k, v = (home.asarray(a) for a in pages(rng, np.float16))
    q = home.asarray(np.zeros((1, 1, 2, WIDTH), np.float32))
    good, one = np.zeros((1, 1), np.int32), home.asarray(np.int32(0))
    cases = [
        (good, good + 9_999_999, 0, "the table names a page"), (good, good - 1, 0, "the table names a page"),
        (good + PAGE, good, 0, "a position is beyond"), (good, good, 2, "the layer is outside"),
    ]  # fmt: skip
    for position, table, layer, message in cases:
        where = home.asarray(position), home.asarray(table)
        with pytest.raises(Exception, match=message):
            home.to_numpy(attention(q, k, v, *where, one + layer, impl="kernel"))
        with pytest.raises(Exception, match=message):
            home.to_numpy(write_kv(k, v, q, q, *where, one + layer, impl="kernel")[0])


@needs_native
def test_vmap_and_gradient_of_the_kernels(rng: np.random.Generator) -> None:
    import jax

    home = home_named("jax")
    k, v = (home.asarray(a) for a in pages(rng, np.float16))
    q = home.asarray(rng.normal(size=(3, 1, 2, 4, WIDTH)).astype(np.float32))
    where, table = home.asarray(np.array([[3, 40]], np.int32)), home.asarray(np.arange(PAGES, dtype=np.int32)[None])
    together = jax.vmap(lambda q: attention(q, k, v, where, table, 0))(q)
    for i in range(3):
        np.testing.assert_array_equal(together[i], attention(q[i], k, v, where, table, 0))
    new = q[0, :, :, :KV_HEADS]
    slope = jax.grad(lambda n: (write_kv(k, v, n, n, where, table, 0)[0].astype(np.float32) ** 2).sum())(new)
    np.testing.assert_allclose(slope, 2 * new, rtol=2e-3)  # float16 pages
