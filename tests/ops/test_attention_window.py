"""Attention with a window, a soft cap and sinks, against the same loop over tokens as attention without them."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.backends import native
from soberano.backends.base import Home
from soberano.backends.homes import home as home_named
from soberano.backends.plan import Role
from soberano.core.errors import InputError, ShapeError
from soberano.core.types import Array
from soberano.ops.attention import attend, attention
from soberano.ops.pages import TYPES, read_keys, read_values
from soberano.ops.rope import rotation
from tests.ops.test_attention import (
    KV_HEADS,
    LAYERS,
    PAGE,
    PAGES,
    WIDTH,
    cache_of,
    expected_attention,
    needs_native,
    pages,
    tokens_of,
)
from tests.tolerance import assert_close

WINDOWS = (1, 20, 32, 33, 100, 128, 300, 4096)
CAP = 1.5  # scores are of the order of one


def rules(home: Home, heads: int, rng: np.random.Generator, window: int) -> dict[str, Any]:
    """A window, a cap and sinks."""
    return {"window": window, "cap": CAP, "sinks": home.asarray(rng.normal(size=heads).astype(np.float32))}


def assert_near(actual: np.ndarray, expected: np.ndarray, role: Role, what: str) -> None:
    """Compare as the arithmetic of the role allows. Weights add up to 1: rounding them to bfloat16 does not add up."""
    bf16 = role == "prompt" and native.state()[0] and native.isa() == "amx" and actual.shape[-1] % 32 == 0
    assert_close(actual, expected, "bfloat16" if bf16 else "float32", summed=1 if bf16 else 64, what=what)


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("rule", ["window", "window and cap", "window and sinks", "all"])
def test_each_rule_against_the_loop(rule: str, window: int, impl: str, home: Home, rng: np.random.Generator) -> None:
    k, v = pages(rng, np.float32 if impl == "meaning" else np.float16)
    q = rng.normal(size=(2, 4, 6, WIDTH)).astype(np.float32)
    positions = np.array([[0, 31, 32, 299], [-1, 255, 256, 700]], np.int32)
    table = rng.permutation(PAGES)[:24].astype(np.int32)[None].repeat(2, 0)
    told: dict[str, Any] = {"window": window}
    if rule in ("window and cap", "all"):
        told["cap"] = CAP
    if rule in ("window and sinks", "all"):
        told["sinks"] = rng.normal(size=6).astype(np.float32)
    args = [home.asarray(a) for a in (q, k, v, positions, table)]
    passed = told | {name: home.asarray(a) for name, a in told.items() if isinstance(a, np.ndarray)}
    actual = home.to_numpy(attention(*args, 1, **passed, impl=impl))
    assert_close(actual, expected_attention(q, k, v, positions, table, 1, **told), summed=64, what=rule)


@needs_native
@pytest.mark.parametrize("role", ["token", "prompt"])
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("heads,width", [(6, 64), (2, 256), (8, 80)])
def test_a_kernel_against_the_loop(role: Role, name: str, heads: int, width: int, rng: np.random.Generator) -> None:
    if name == "q8_0" and width % 32:
        pytest.skip("q8_0 has scales for every 32 numbers of a head")
    home = home_named("jax")
    keys, values = cache_of(home, name, *pages(rng, np.float32, width))
    held = [home.to_numpy(read(home, each)) for read, each in ((read_keys, keys), (read_values, values))]
    q = rng.normal(size=(2, 40, heads, width)).astype(np.float32)
    positions = np.stack([np.arange(300, 340), np.arange(-3, 37)]).astype(np.int32)
    table = rng.permutation(PAGES)[:24].reshape(1, 24).astype(np.int32).repeat(2, 0)
    where = [home.asarray(a) for a in (positions, table)]
    for window in (1, 33, 150):
        told = rules(home, heads, rng, window)
        with tokens_of(role):
            actual = home.to_numpy(attention(home.asarray(q), keys, values, *where, 1, **told, impl="kernel"))
        expected = expected_attention(q, *held, positions, table, 1, **told)
        assert_near(actual, expected, role, f"{name} {role}, window {window}")


@needs_native
@pytest.mark.parametrize("role", ["token", "prompt"])
@given(data=st.data())
def test_windows_cross_pages_and_runs_of_any_size(role: Role, data: st.DataObject) -> None:
    rng, home = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))), home_named("jax")
    page, new = data.draw(st.sampled_from([16, 32, 64, 128])), data.draw(st.integers(1, 70))
    window, last = data.draw(st.integers(-1, 400)), data.draw(st.integers(0, 511))
    shapes = (1, 512 // page, KV_HEADS, 32, page), (1, 512 // page, KV_HEADS, page, 32)
    k, v = (rng.normal(size=shape).astype(np.float16) for shape in shapes)
    q = rng.normal(size=(1, new, 4, 32)).astype(np.float32)
    positions = (last - new + 1 + np.arange(new, dtype=np.int32))[None]
    if data.draw(st.booleans()):
        positions = rng.permutation(positions[0])[None]
    table, told = rng.permutation(512 // page).astype(np.int32)[None], rules(home, 4, rng, window)
    with tokens_of(role):
        args = [home.asarray(a) for a in (q, k, v, positions, table)]
        actual = home.to_numpy(attention(*args, 0, **told, impl="kernel"))
    expected = expected_attention(q, k, v, positions, table, 0, **told)
    assert_near(actual, expected, role, f"window {window}")


@needs_native
@pytest.mark.parametrize("role", ["token", "prompt"])
@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("window", [1, 77, 160])
def test_a_query_has_the_same_bits_however_it_comes(
    window: int, role: Role, name: str, rng: np.random.Generator
) -> None:
    """Alone, in a batch, in a prompt that is whole or cut anywhere."""
    home, new, width = home_named("jax"), 300, 64
    keys, values = cache_of(home, name, *pages(rng, np.float32, width))
    q = rng.normal(size=(1, new, 6, width)).astype(np.float32)
    positions, table = np.arange(200, 200 + new, dtype=np.int32)[None], rng.permutation(PAGES).astype(np.int32)[None]
    told = rules(home, 6, rng, window)

    def run(q: np.ndarray, positions: np.ndarray, table: np.ndarray) -> np.ndarray:
        with tokens_of(role):
            args = [home.asarray(a) for a in (q, positions, table)]
            return home.to_numpy(attention(args[0], keys, values, *args[1:], 1, **told, impl="kernel"))

    whole = run(q, positions, table)
    for cut in ([1, 2], [13, 140], [128, 256], [299]):
        parts = zip(*(np.split(a, cut, axis=1) for a in (q, positions)), strict=True)
        chunked = np.concatenate([run(*part, table) for part in parts], axis=1)
        np.testing.assert_array_equal(chunked, whole)
    both = np.concatenate([q[:, ::-1], q]), np.concatenate([positions[:, ::-1], positions]), table.repeat(2, 0)
    np.testing.assert_array_equal(run(*both)[1:], whole)
    np.testing.assert_array_equal(run(*both)[:1, ::-1], whole)


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@pytest.mark.parametrize("role", ["token", "prompt"])
def test_what_is_no_rule_changes_no_bit(role: Role, impl: str, home: Home, rng: np.random.Generator) -> None:
    """A window longer than the sequence, one of 0 and below; sinks that weigh nothing."""
    k, v = (home.asarray(a) for a in pages(rng, np.float16, 64))
    q, table = rng.normal(size=(1, 5, 4, 64)).astype(np.float32), np.arange(PAGES, dtype=np.int32)[None]
    args = home.asarray(q), k, v, home.asarray(np.array([[0, 36, 127, 128, 300]], np.int32)), home.asarray(table), 0
    with tokens_of(role):
        plain = home.to_numpy(attention(*args, impl=impl))
        for window in (0, -1, -(2**31), 301, 4096, 2**31 - 1):
            np.testing.assert_array_equal(home.to_numpy(attention(*args, window=window, impl=impl)), plain)
        nothing = home.asarray(np.full(4, -np.inf, np.float32))
        np.testing.assert_array_equal(home.to_numpy(attention(*args, sinks=nothing, impl=impl)), plain)
        assert (home.to_numpy(attention(*args, window=300, impl=impl)) != plain).any()


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@pytest.mark.parametrize("role", ["token", "prompt"])
def test_a_window_of_one_is_the_value_of_the_token(role: Role, impl: str, home: Home, rng: np.random.Generator) -> None:
    k, v = pages(rng, np.float16, 64)
    at, table = np.array([[0, 31, 32, 300]], np.int32), np.arange(PAGES, dtype=np.int32)[None]
    q = rng.normal(size=(1, 4, KV_HEADS, 64)).astype(np.float32)
    with tokens_of(role):
        out = attention(*(home.asarray(a) for a in (q, k, v, at, table)), 0, window=1, impl=impl)
    wanted = v[0, at[0] // PAGE, :, at[0] % PAGE][None]  # (1, T, K, E)
    assert_near(home.to_numpy(out), wanted, role, "window of 1")


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@pytest.mark.parametrize("role", ["token", "prompt"])
def test_what_lies_before_the_window_does_not_leak(role: Role, impl: str, home: Home, rng: np.random.Generator) -> None:
    k, v = pages(rng, np.float16, 64)
    q, at = rng.normal(size=(1, 5, 4, 64)).astype(np.float32), np.arange(236, 241, dtype=np.int32)[None]
    table = np.arange(PAGES, dtype=np.int32)[None]

    def run() -> np.ndarray:
        with tokens_of(role), np.errstate(invalid="ignore"):
            args = [home.asarray(a.copy()) for a in (q, k, v, at, table)]
            return home.to_numpy(attention(*args, 0, window=100, impl=impl))

    before = run()  # the first of them sees from 137 on: at 9 in page 4
    k[:, :4], v[:, :4] = np.nan, np.inf
    k[:, 4, :, :, :9], v[:, 4, :, :9] = np.inf, np.nan
    np.testing.assert_array_equal(run(), before)


UNREAD = """
import ctypes, mmap
import numpy as np
from soberano.backends import native

H, K, E, page, count = 6, 2, 128, 32, 40
size = K * E * page * 2  # bytes of a page with all of its heads: whole pages of the system
held = [mmap.mmap(-1, count * size) for _ in "kv"]
keys, values = (np.frombuffer(each, np.float16) for each in held)
rng = np.random.default_rng(0)
keys[:], values[:] = rng.normal(size=(2, keys.size))
positions = np.arange(1000, 1040, dtype=np.int32)
q, out = rng.normal(size=(2, 40, H, E)).astype(np.float32)
table, sinks = np.arange(count, dtype=np.int32), np.zeros(H, np.float32)
window = 300  # the first sees from 701 on, which lies in page 21, the second of its run
protect = ctypes.CDLL(None, use_errno=True).mprotect
protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
for each in (keys, values):
    for first, pages in ((0, 21), (33, 7)):  # no access
        assert protect(each.ctypes.data + first * size, pages * size, 0) == 0
for new in (1, 40):
    native.call("soberano_attention", q, keys, values, positions, table, sinks, out, 1, new, H, K, E, page, count,
                window, 0.125, 50.0)
print("read only what is seen")
"""


@needs_native
@pytest.mark.skipif(sys.platform == "win32", reason="memory is protected as POSIX says")
def test_pages_before_the_window_are_not_read() -> None:
    """They have no right to be read, so a read would end the process."""
    done = subprocess.run([sys.executable, "-c", UNREAD], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "read only what is seen\n"), done.stderr


@needs_native
def test_a_window_may_differ_from_layer_to_layer(rng: np.random.Generator) -> None:
    """Inside one compiled loop, where it is a traced number."""
    import jax

    home = home_named("jax")
    k_pages, v_pages = (home.asarray(a) for a in pages(rng, np.float16, 64))
    x = home.asarray(rng.normal(size=(1, 2, 4, 64)).astype(np.float32))
    at, table = (home.asarray(a) for a in (np.array([[200, 201]], np.int32), np.arange(PAGES, dtype=np.int32)[None]))
    windows, sinks = home.asarray(np.array([50, 0], np.int32)), home.asarray(np.ones((LAYERS, 4), np.float32))
    turn = rotation(at, 64)

    def layer(i: Any, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        x, k_pages, v_pages = carry
        kv = x[:, :, :KV_HEADS]
        return attend(
            x, kv, kv, turn, k_pages, v_pages, at, table, i, window=windows[i], cap=CAP, sinks=sinks[i], impl="kernel"
        )

    looped = jax.jit(lambda *carry: jax.lax.fori_loop(0, LAYERS, layer, carry))(x, k_pages, v_pages)
    stepped: tuple[Array, ...] = (x, k_pages, v_pages)
    for i in range(LAYERS):
        stepped = layer(i, stepped)
    for found, wanted in zip(looped, stepped, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_gradient_of_queries_and_sinks(dtype: type, rng: np.random.Generator) -> None:
    import jax

    home = home_named("jax")
    k, v = pages(rng, dtype)
    q, sinks = rng.normal(size=(1, 2, 4, WIDTH)).astype(np.float32), rng.normal(size=4).astype(np.float32)
    positions, table = np.array([[3, 40]], np.int32), np.arange(PAGES, dtype=np.int32)[None]
    rest = [home.asarray(a) for a in (k, v, positions, table)]

    def loss(q: Array, sinks: Array) -> Array:
        return (attention(q, *rest, 0, window=20, cap=CAP, sinks=sinks) ** 2).sum()

    def exact(q: np.ndarray, sinks: np.ndarray) -> float:
        return float((expected_attention(q, k, v, positions, table, 0, 20, CAP, sinks) ** 2).sum())

    slopes, step = jax.grad(loss, argnums=(0, 1))(home.asarray(q), home.asarray(sinks)), 1e-4
    for which, place in ((0, (0, 0, 1, 3)), (0, (0, 1, 3, 15)), (1, (0,)), (1, (3,))):
        ahead, behind = ([a.astype(np.float64) for a in (q, sinks)] for _ in range(2))
        ahead[which][place] += step
        behind[which][place] -= step
        slope = (exact(*ahead) - exact(*behind)) / (2 * step)
        assert_close(slopes[which][place], slope, summed=64, size=8, what="gradient of attention")


@pytest.mark.parametrize("impl", ["meaning", "auto"])
def test_a_sink_that_is_no_number_is_seen(impl: str, home: Home, rng: np.random.Generator) -> None:
    k, v = (home.asarray(a) for a in pages(rng, np.float16))
    q, where = home.asarray(np.ones((1, 1, 2, WIDTH), np.float32)), home.asarray(np.zeros((1, 1), np.int32))
    sinks = home.asarray(np.array([np.nan, 1], np.float32))
    out = home.to_numpy(attention(q, k, v, where, where, 0, sinks=sinks, impl=impl))
    assert np.isnan(out[0, 0, 0]).all() and np.isfinite(out[0, 0, 1]).all()


@pytest.mark.parametrize("impl", ["meaning", "auto"])
def test_rules_that_cannot_be_are_named(impl: str, home: Home, rng: np.random.Generator) -> None:
    k, v = (home.asarray(a) for a in pages(rng, np.float16))
    q, where = home.asarray(np.zeros((1, 1, 2, WIDTH), np.float32)), home.asarray(np.zeros((1, 1), np.int32))
    with pytest.raises(ShapeError, match=r"window is \(1, 1\); pass one number"):
        attention(q, k, v, where, where, 0, window=where, impl=impl)
    for cap in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(InputError, match=f"cap is {cap}; pass a finite number above 0"):
            attention(q, k, v, where, where, 0, cap=cap, impl=impl)
    with pytest.raises(ShapeError, match=r"sinks is \(3,\), but .* has 2 heads; pass \(2,\)"):
        attention(q, k, v, where, where, 0, sinks=home.asarray(np.zeros(3, np.float32)), impl=impl)
