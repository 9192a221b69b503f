"""Attention and the cache write, against a loop over tokens in float64."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.backends import native
from soberano.backends.base import Home
from soberano.backends.choose import choose
from soberano.backends.homes import home as home_named
from soberano.backends.plan import Role, using
from soberano.core.errors import ShapeError, Unsupported
from soberano.core.types import Array
from soberano.ops.attention import attend, attention, write_kv
from soberano.ops.pages import TYPES, read_keys, read_values, shapes
from soberano.ops.rope import Rotation, rope, rotation
from tests.tolerance import assert_close

LAYERS, PAGES, KV_HEADS, WIDTH, PAGE = 2, 24, 2, 16, 32
needs_native = pytest.mark.skipif(not native.state()[0], reason=native.state()[1])


def pages(rng: np.random.Generator, dtype: type, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    keys = rng.normal(size=(LAYERS, PAGES, KV_HEADS, width, PAGE)).astype(dtype)
    return keys, rng.normal(size=(LAYERS, PAGES, KV_HEADS, PAGE, width)).astype(dtype)


@contextmanager
def tokens_of(role: Role) -> Iterator[None]:
    """What runs inside is traced for tokens of this role, as a model's programs are."""
    with using(replace(choose("cpu"), role=role)):
        yield


def cache_of(home: Home, name: str, k: np.ndarray, v: np.ndarray) -> tuple[Array, Array]:
    """Pages of a type that hold (nearly) these numbers in every layer, written by the meaning."""
    (keys, values), heads = shapes(TYPES[name], k.shape[3], PAGE), k.shape[2]
    empty = [home.asarray(np.zeros((LAYERS, PAGES, heads, *each), TYPES[name])) for each in (keys, values)]
    positions = home.asarray(np.arange(PAGES * PAGE, dtype=np.int32)[None])
    table = home.asarray(np.arange(PAGES, dtype=np.int32)[None])
    for layer in range(LAYERS):
        rows = (np.moveaxis(k[layer], 3, 1), np.moveaxis(v[layer], 2, 1))  # (P, page, K, E)
        new = [home.asarray(np.ascontiguousarray(each).reshape(1, PAGES * PAGE, heads, -1)) for each in rows]
        empty = list(write_kv(*empty, *new, positions, table, layer, impl="meaning"))
    return empty[0], empty[1]


def expected_attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    positions: np.ndarray,
    table: np.ndarray,
    layer: int,
    window: int = 0,
    cap: float = math.inf,
    sinks: np.ndarray | None = None,
) -> np.ndarray:
    """One query at a time."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    (kv_heads, width, size), out = k.shape[2:], np.zeros(q.shape)
    for b, t, h in np.ndindex(q.shape[:3]):
        first, shared = max(0, positions[b, t] + 1 - window) if window > 0 else 0, h * kv_heads // q.shape[2]
        places = [(table[b, s // size], s % size) for s in range(first, positions[b, t] + 1)]
        if not places:
            continue
        scores = np.array([q[b, t, h] @ k[layer, page, shared, :, at] for page, at in places]) / np.sqrt(width)
        if cap < math.inf:
            scores = cap * np.tanh(scores / cap)
        sink = -np.inf if sinks is None else float(sinks[h])
        peak = max(scores.max(), sink)
        weights = np.exp(scores - peak)
        values = np.array([v[layer, page, shared, at] for page, at in places])
        out[b, t, h] = weights / (weights.sum() + np.exp(sink - peak)) @ values
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
@pytest.mark.parametrize("role", ["token", "prompt"])
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("heads,width", [(6, 64), (4, 128), (8, 80), (2, 16)])
def test_a_kernel_against_the_loop(role: Role, name: str, heads: int, width: int, rng: np.random.Generator) -> None:
    if name == "q8_0" and width % 32:
        pytest.skip("q8_0 has scales for every 32 numbers of a head")
    home, (k, v) = home_named("jax"), pages(rng, np.float32, width)
    keys, values = cache_of(home, name, k, v)
    held = [home.to_numpy(read(home, each)) for read, each in ((read_keys, keys), (read_values, values))]
    q = rng.normal(size=(2, 40, heads, width)).astype(np.float32)
    positions = np.stack([np.arange(300, 340), np.arange(-3, 37)]).astype(np.int32)
    table = rng.permutation(PAGES)[:24].reshape(1, 24).astype(np.int32).repeat(2, 0)
    with tokens_of(role):
        args = [home.asarray(a) for a in (q,)], [home.asarray(a) for a in (positions, table)]
        actual = home.to_numpy(attention(*args[0], keys, values, *args[1], 1, impl="kernel"))
    expected = expected_attention(q, *held, np.maximum(positions, -1), table, 1)
    bf16 = role == "prompt" and native.isa() == "amx" and width % 32 == 0
    # Weights add up to 1, so the error of rounding to bfloat16 does not grow with their number.
    assert_close(actual, expected, "bfloat16" if bf16 else "float32", summed=1 if bf16 else 64, what=f"{name} {role}")


@needs_native
@pytest.mark.parametrize("role", ["token", "prompt"])
@pytest.mark.parametrize("name", TYPES)
def test_a_query_has_the_same_bits_however_it_comes(role: Role, name: str, rng: np.random.Generator) -> None:
    """Alone, in a batch, in a prompt that is whole or cut anywhere: chunks of 1 take other paths than those of 300."""
    home, new, width = home_named("jax"), 300, 64
    keys, values = cache_of(home, name, *pages(rng, np.float32, width))
    q = rng.normal(size=(1, new, 6, width)).astype(np.float32)
    positions, table = np.arange(200, 200 + new, dtype=np.int32)[None], rng.permutation(PAGES).astype(np.int32)[None]

    def run(q: np.ndarray, positions: np.ndarray, table: np.ndarray) -> np.ndarray:
        with tokens_of(role):
            args = [home.asarray(a) for a in (q, positions, table)]
            return home.to_numpy(attention(args[0], keys, values, *args[1:], 1, impl="kernel"))

    whole = run(q, positions, table)
    for cut in ([1, 2], [13, 140], [128, 256], [299]):
        parts = zip(*(np.split(a, cut, axis=1) for a in (q, positions)), strict=True)
        chunked = np.concatenate([run(*part, table) for part in parts], axis=1)
        np.testing.assert_array_equal(chunked, whole)
    swapped = np.concatenate([q[:, ::-1], q]), np.concatenate([positions[:, ::-1], positions])
    np.testing.assert_array_equal(run(*swapped, table.repeat(2, 0))[1:], whole)
    np.testing.assert_array_equal(run(*swapped, table.repeat(2, 0))[:1, ::-1], whole)
    if role == "token" or native.isa() != "amx":
        np.testing.assert_array_equal(run(q[:, 7:8], positions[:, 7:8], table), whole[:, 7:8])


@needs_native
@pytest.mark.parametrize("role", ["token", "prompt"])
def test_bits_do_not_depend_on_threads(role: Role, rng: np.random.Generator) -> None:
    """One call through XLA gets all threads; a second caller at the same time works alone, and must agree."""
    from concurrent.futures import ThreadPoolExecutor

    home = home_named("jax")
    k, v = (home.asarray(a) for a in pages(rng, np.float16, 64))
    table = home.asarray(np.arange(PAGES, dtype=np.int32)[None])
    cases = [
        (home.asarray(rng.normal(size=(1, n, 6, 64)).astype(np.float32)), home.asarray(np.arange(700 - n, 700)[None]))
        for n in (1, 60, 300)
    ]

    def run(case: tuple[Array, Array]) -> np.ndarray:
        with tokens_of(role):
            return home.to_numpy(attention(case[0], k, v, case[1].astype(np.int32), table, 1, impl="kernel"))

    expected = [run(case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(run, cases * 20), expected * 20, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@pytest.mark.parametrize("role", ["token", "prompt"])
def test_what_nobody_may_see_does_not_leak(role: Role, impl: str, home: Home, rng: np.random.Generator) -> None:
    """The rest of a page belongs to somebody else: whatever it holds, infinities included, the result is the same."""
    k, v = pages(rng, np.float16, 64)
    q, at = rng.normal(size=(1, 5, 4, 64)).astype(np.float32), np.arange(36, 41, dtype=np.int32)[None]
    table = np.arange(PAGES, dtype=np.int32)[None]

    def run() -> np.ndarray:
        with tokens_of(role), np.errstate(invalid="ignore"):
            return home.to_numpy(attention(*(home.asarray(a.copy()) for a in (q, k, v, at, table)), 0, impl=impl))

    before = run()
    k[:, 1, :, :, 9:], v[:, 1, :, 9:] = np.inf, np.nan
    k[:, 2:], v[:, 2:] = np.nan, np.inf
    np.testing.assert_array_equal(run(), before)


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@pytest.mark.parametrize("role", ["token", "prompt"])
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("of,bad", [("query", np.nan), ("query", np.inf), ("key", np.nan), ("value", np.nan)])
def test_what_is_not_finite_stays_so(
    of: str, bad: float, name: str, role: Role, impl: str, home: Home, rng: np.random.Generator
) -> None:
    """In a query, or in a key or value that it sees. (A key of -inf gets no weight, which is right.)"""
    k, v = pages(rng, np.float32, 64)
    q = rng.normal(size=(1, 3, 4, 64)).astype(np.float32)
    {"query": q[0, 1, 1], "key": k[0, 0, 0, :, 20], "value": v[0, 0, 0, 20]}[of][60] = bad
    at, table = np.array([[10, 40, 300]], np.int32), np.arange(PAGES, dtype=np.int32)[None]
    with tokens_of(role), np.errstate(invalid="ignore"):
        held = cache_of(home, name, k, v)
        out = home.to_numpy(attention(home.asarray(q), *held, home.asarray(at), home.asarray(table), 0, impl=impl))
    finite = np.isfinite(out[0]).all(-1)  # (T, H); heads 0 and 1 share key head 0
    if of == "query":
        assert finite.sum() == 11 and not finite[1, 1]
    else:
        assert not finite[1:, :2].any() and finite[:, 2:].all()


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@pytest.mark.parametrize("pairing,turned", [("interleaved", 64), ("halves", 64), ("interleaved", 16), ("halves", 48)])
@pytest.mark.parametrize("name", TYPES)
def test_attend_is_rope_write_and_attention(
    impl: str, pairing: str, turned: int, name: str, home: Home, rng: np.random.Generator
) -> None:
    k_pages, v_pages = cache_of(home, name, *pages(rng, np.float32, 64))
    new = [rng.normal(size=(2, 3, heads, 64)).astype(np.float32) for heads in (4, 2, 2)]
    positions = np.array([[3, 4, 5], [-1, 200, 201]], np.int32)
    table = rng.permutation(PAGES).reshape(2, 12).astype(np.int32)
    q, k, v, where, table = (home.asarray(a) for a in (*new, positions, table))
    turn = rotation(where, turned)
    rest = where, table, 1
    copies = [home.asarray(home.to_numpy(each).copy()) for each in (k_pages, v_pages)]
    out, *written = attend(q, k, v, turn, *copies, *rest, pairing=pairing, scale=0.2, impl=impl)
    wanted = write_kv(k_pages, v_pages, rope(k, turn, pairing=pairing), v, *rest, impl="meaning")
    for found, each, read in zip(written, wanted, (read_keys, read_values), strict=True):
        # A turned key may differ in its last bit, and then round to the next number of the cache.
        found, each = (home.to_numpy(read(home, pages)) for pages in (found, each))
        unequal = found != each
        assert unequal.mean() < 1e-3 and np.abs(found - each).max() < 0.05
    expected = attention(rope(q, turn, pairing=pairing), *written, *rest, scale=0.2, impl="meaning")
    assert_close(home.to_numpy(out), home.to_numpy(expected), summed=64, what=f"attend {pairing} {turned} {name}")


@needs_native
def test_one_rotation_serves_a_batch(rng: np.random.Generator) -> None:
    home = home_named("jax")
    q, k = (home.asarray(rng.normal(size=(3, 2, heads, 64)).astype(np.float32)) for heads in (4, 2))
    k_pages, v_pages = (home.asarray(a) for a in pages(rng, np.float16, 64))
    table, where = np.arange(PAGES, dtype=np.int32).reshape(3, 8), np.array([[7, 8]], np.int32)
    one = rotation(home.asarray(where), 64)
    each = Rotation(one.cos.repeat(3, 0), one.sin.repeat(3, 0))
    rest = k_pages, v_pages, home.asarray(where.repeat(3, 0)), home.asarray(table), 0
    for found, wanted in zip(
        attend(q, k, k, one, *rest, impl="kernel"), attend(q, k, k, each, *rest, impl="kernel"), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


@needs_native
def test_attend_declines_and_refuses(rng: np.random.Generator) -> None:
    home = home_named("jax")
    x, at = home.asarray(np.zeros((1, 1, 2, 40), np.float32)), home.asarray(np.zeros((1, 1), np.int32))
    odd = [home.asarray(a) for a in pages(rng, np.float16, 40)]
    with pytest.raises(Unsupported, match=r"heads of 16\.\.512 by 16 .* not 40"):
        attend(x, x, x, rotation(at, 40), *odd, at, at, 0, impl="kernel")
    even = [home.asarray(a) for a in pages(rng, np.float16, 64)]
    with pytest.raises(ShapeError, match=r"write_kv: k .* must both be"):
        attend(x, x, x, rotation(at, 40), *even, at, at, 0)
    x = home.asarray(np.zeros((1, 1, 2, 64), np.float32))
    with pytest.raises(ShapeError, match="turns 128 numbers, but a head"):
        attend(x, x, x, rotation(at, 128), *even, at, at, 0)


@needs_native
def test_the_cache_is_written_where_it_lies(rng: np.random.Generator) -> None:
    """A loop over layers in one program, with donated pages: XLA's own report says that none of them is copied."""
    import jax

    home = home_named("jax")
    k_pages, v_pages = (home.asarray(a) for a in pages(rng, np.float16, 64))
    x, at = home.asarray(np.zeros((1, 1, 2, 64), np.float32)), home.asarray(np.zeros((1, 1), np.int32))

    def step(k_pages: Array, v_pages: Array, x: Array) -> tuple[Array, ...]:
        turn = rotation(at, 64)
        body: Callable = lambda i, c: attend(c[0], x, x, turn, c[1], c[2], at, at, i, impl="kernel")  # noqa: E731
        return jax.lax.fori_loop(0, LAYERS, body, (x, k_pages, v_pages))

    memory = jax.jit(step, donate_argnums=(0, 1)).lower(k_pages, v_pages, x).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= k_pages.nbytes + v_pages.nbytes
    assert memory.temp_size_in_bytes < k_pages.nbytes // 4


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
