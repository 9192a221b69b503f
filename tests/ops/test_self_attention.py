"""Attention without a cache, against a loop over texts in float64; padding changes no bit of a kernel's answer."""

from typing import Any

import jax
import numpy as np
import pytest

from soberano.backends import native
from soberano.backends.base import Home
from soberano.backends.homes import home as home_named
from soberano.core.errors import InputError, ShapeError, Unsupported
from soberano.ops.rope import Rotation, rotation
from soberano.ops.self_attention import self_attention
from tests.tolerance import assert_close, assert_gradient

needs_native = pytest.mark.skipif(not native.state()[0], reason=native.state()[1])
LENGTHS = np.array([5, 1, 0, 19], np.int32)


def arrays(rng: np.random.Generator, heads: int, kv_heads: int, width: int, tokens: int = 19) -> list[np.ndarray]:
    shapes = [(len(LENGTHS), tokens, each, width) for each in (heads, kv_heads, kv_heads)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def expected(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    lengths: np.ndarray,
    window: int | None = None,
    slopes: np.ndarray | None = None,
) -> np.ndarray:
    """One text and head at a time."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    for b, h in np.ndindex(len(q), q.shape[2]):
        n, shared = lengths[b], h * k.shape[2] // q.shape[2]
        if n:
            scores = q[b, :n, h] @ k[b, :n, shared].T / np.sqrt(q.shape[3])
            apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
            scores -= 0 if slopes is None else slopes[h] * apart
            scores[apart > (n if window is None else window)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[b, :n, h] = weights / weights.sum(-1, keepdims=True) @ v[b, :n, shared]
    return out


def turned(x: np.ndarray, base: float) -> np.ndarray:
    """x (B, T, H, E) with number i and number i + E / 2 of a head turned as one complex number."""
    half = x.shape[-1] // 2
    angles = np.outer(np.arange(x.shape[1]), base ** (-np.arange(half) / half))[:, None]
    z = (x[..., :half] + 1j * x[..., half:].astype(np.float64)) * np.exp(1j * angles)
    return np.concatenate([z.real, z.imag], axis=-1)


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(2, 2, 8), (4, 2, 32), (3, 1, 64)])
def test_a_text_sees_itself_and_no_other(
    impl: str, heads: int, kv_heads: int, width: int, home: Home, rng: np.random.Generator
) -> None:
    q, k, v = arrays(rng, heads, kv_heads, width)
    args = [home.asarray(x) for x in (q, k, v, LENGTHS)]
    found = home.to_numpy(self_attention(*args, impl=impl))
    assert_close(found, expected(q, k, v, LENGTHS), summed=width, what="self_attention")
    found = home.to_numpy(self_attention(*args, scale=0.1, impl=impl))
    assert_close(found, expected(q * 0.1 * width**0.5, k, v, LENGTHS), summed=width, what="self_attention, scaled")


def turns(home: Home, tokens: int, width: int) -> Rotation:
    return rotation(home.asarray(np.arange(tokens, dtype=np.int32)[None]), width, base=100.0)


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@pytest.mark.parametrize("window", [None, 0, 3, 40])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(2, 2, 8), (4, 2, 32)])
def test_where_a_token_stands(
    impl: str, window: int | None, heads: int, kv_heads: int, width: int, home: Home, rng: np.random.Generator
) -> None:
    q, k, v = arrays(rng, heads, kv_heads, width, tokens=45)
    lengths = np.array([5, 1, 0, 45], np.int32)
    args = [home.asarray(x) for x in (q, k, v, lengths)]
    slopes = rng.uniform(0, 0.5, heads).astype(np.float32)
    found = self_attention(*args, window=window, slopes=home.asarray(slopes), impl=impl)
    wanted = expected(q, k, v, lengths, window, slopes)
    assert_close(home.to_numpy(found), wanted, summed=width, what="self_attention with slopes")
    how: dict[str, Any] = {"rotation": turns(home, 45, width), "pairing": "halves", "window": window, "impl": impl}
    found = self_attention(*args, **how)
    wanted = expected(turned(q, 100.0), turned(k, 100.0), v, lengths, window)
    assert_close(home.to_numpy(found), wanted, summed=width, size=4, what="self_attention with turns")


def test_a_window_may_be_known_only_when_the_program_runs(rng: np.random.Generator) -> None:
    home = home_named("jax")
    q, k, v = arrays(rng, 2, 2, 32)
    args = [home.asarray(x) for x in (q, k, v, LENGTHS)]
    found = jax.jit(lambda window: self_attention(*args, window=window))(4)
    assert_close(home.to_numpy(found), expected(q, k, v, LENGTHS, 4), summed=32, what="self_attention")


POSITIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "turns": {"rotation": True, "pairing": "halves"},
    "window": {"rotation": True, "window": 5},
    "slopes": {"slopes": np.array([0.5, 0.25, 0.125, 0.0625], np.float32)},
}


@needs_native
@pytest.mark.parametrize("case", POSITIONS)
def test_neither_padding_nor_company_changes_a_bit(case: str, rng: np.random.Generator) -> None:
    home = home_named("jax")
    q, k, v = arrays(rng, 4, 4, 32, tokens=48)

    @jax.jit
    def kernel(*args: jax.Array) -> jax.Array:
        turn = {"rotation": turns(home, args[0].shape[1], 32)} if "rotation" in POSITIONS[case] else {}
        return self_attention(*args, impl="kernel", **(POSITIONS[case] | turn))

    together = home.to_numpy(kernel(*(home.asarray(x) for x in (q, k, v, LENGTHS))))
    for b, n in enumerate(LENGTHS):
        for width in (max(n, 1), 19, 48):
            alone = kernel(*(home.asarray(x[b : b + 1, :width]) for x in (q, k, v)), home.asarray(LENGTHS[b : b + 1]))
            np.testing.assert_array_equal(home.to_numpy(alone)[0, :n], together[b, :n])
    if case == "plain":
        assert_close(together, expected(q, k, v, LENGTHS), summed=32, what="self_attention")


def test_what_lies_behind_the_end_is_not_looked_at(home: Home, rng: np.random.Generator) -> None:
    q, k, v = arrays(rng, 2, 2, 16)
    clean = home.to_numpy(self_attention(*(home.asarray(x) for x in (q, k, v, LENGTHS))))
    for x in (q, k, v):
        for b, n in enumerate(LENGTHS):
            x[b, n:] = 1e10
    np.testing.assert_array_equal(home.to_numpy(self_attention(*(home.asarray(x) for x in (q, k, v, LENGTHS)))), clean)


@pytest.mark.parametrize("impl", ["meaning", pytest.param("kernel", marks=needs_native)])
def test_gradient(impl: str, rng: np.random.Generator) -> None:
    q, k, v = (x[:2, :3] for x in arrays(rng, 1, 1, 16))
    lengths, slopes = np.array([3, 2], np.int32), np.array([0.25], np.float32)
    home = home_named("jax")

    def loss(q: np.ndarray, impl: str = impl) -> float:
        args = q, home.asarray(k), home.asarray(v), home.asarray(lengths)
        how = {"rotation": turns(home, 3, 16), "pairing": "halves", "window": 1, "slopes": home.asarray(slopes)}
        return (self_attention(*args, impl=impl, **how) ** 2).sum()

    gradient = jax.grad(loss)(home.asarray(q))
    oracle = lambda x: float((expected(turned(x, 100.0), turned(k, 100.0), v, lengths, 1, slopes) ** 2).sum())  # noqa: E731
    assert_gradient(gradient, oracle, q, summed=16, what="self_attention")


def test_shapes_are_checked(home: Home, rng: np.random.Generator) -> None:
    q, k, v = (home.asarray(x) for x in arrays(rng, 3, 2, 16))
    lengths = home.asarray(LENGTHS)
    with pytest.raises(ShapeError, match="q has 3 heads and k 2"):
        self_attention(q, k, v, lengths)
    with pytest.raises(ShapeError, match="pass \\(B, T, H, E\\)"):
        self_attention(q[:, :4], k, v, lengths)
    with pytest.raises(ShapeError, match="lengths is \\(2,\\)"):
        self_attention(q[:, :, :2], k, v, lengths[:2])
    with pytest.raises(ShapeError, match="slopes is \\(3,\\), but q has 2 heads"):
        self_attention(q[:, :, :2], k, v, lengths, slopes=home.asarray(np.ones(3, np.float32)))
    with pytest.raises(ShapeError, match="rotation turns 18 numbers, but a head"):
        self_attention(q[:, :, :2], k, v, lengths, rotation=turns(home, 19, 18))
    with pytest.raises(InputError, match="pairing is 'thirds'"):
        self_attention(q[:, :, :2], k, v, lengths, rotation=turns(home, 19, 16), pairing="thirds")


@needs_native
def test_why_the_kernel_declines(rng: np.random.Generator) -> None:
    home = home_named("jax")
    with pytest.raises(Unsupported, match=r"heads of 16..512 by 16, not 8"):
        self_attention(*(home.asarray(x) for x in (*arrays(rng, 2, 2, 8), LENGTHS)), impl="kernel")
