"""Causal attention of packed texts and its gradient: a loop over tokens in float64, parts against the whole, kernels
against the meaning.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from soberano.backends import native
from soberano.backends.base import Home
from soberano.backends.choose import choose
from soberano.backends.homes import home as home_named
from soberano.backends.plan import using
from soberano.core.errors import ShapeError
from soberano.ops import causal_attention as module
from soberano.ops.causal_attention import causal_attention, causal_attention_back
from tests.tolerance import assert_close

needs_native = pytest.mark.skipif(not native.state()[0], reason=native.state()[1])
SHAPES = [(4, 2, 16), (3, 1, 64), (2, 2, 80)]
RULES: dict[str, dict[str, Any]] = {"all": {}, "a window": {"window": 20}, "a cap": {"cap": 1.5, "scale": 0.3}}


def packed(rng: np.random.Generator, rows: int, tokens: int) -> np.ndarray:
    """Texts of random lengths one after another, the last one padding; and a row whose texts take turns."""
    found = np.sort(rng.integers(0, 4, (rows, tokens))).astype(np.int32)
    found[found == 3] = -1
    found[-1] = rng.permutation(found[-1])
    return found


def draw(rng: np.random.Generator, heads: int, kv_heads: int, width: int, tokens: int = 70) -> list[np.ndarray]:
    arrays = [rng.normal(size=(2, tokens, each, width)).astype(np.float32) for each in (heads, kv_heads, kv_heads)]
    return [*arrays, packed(rng, 2, tokens)]


def loop(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    segments: np.ndarray,
    window: int | None = None,
    sinks: np.ndarray | None = None,
    scale: float | None = None,
    cap: float | None = None,
) -> np.ndarray:
    """One token of one head at a time."""
    out = np.zeros(q.shape)
    for b, t, h in np.ndindex(q.shape[:3]):
        shared = h * k.shape[2] // q.shape[2]
        past = range(max(0, t + 1 - (window or t + 1)), t + 1)
        seen = [s for s in past if segments[b, s] == segments[b, t] >= 0]
        if seen:
            scores = k[b, seen, shared].astype(np.float64) @ q[b, t, h] * (scale or q.shape[3] ** -0.5)
            scores = np.tanh(scores / cap) * cap if cap else scores
            weights = np.exp(scores)
            rest = 0 if sinks is None else np.exp(np.float64(sinks[h]))
            out[b, t, h] = weights @ v[b, seen, shared] / (weights.sum() + rest)
    return out


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_token_sees_its_text_up_to_itself(
    shape: tuple[int, int, int], rule: str, impl: str, home: Home, rng: np.random.Generator
) -> None:
    q, k, v, segments = draw(rng, *shape)
    sinks = rng.normal(size=shape[0]).astype(np.float32) if rule == "a window" else None
    out = causal_attention(
        *map(home.asarray, (q, k, v, segments)),
        sinks=None if sinks is None else home.asarray(sinks),
        impl=impl,
        **RULES[rule],
    )
    expected = loop(q, k, v, segments, sinks=sinks, **RULES[rule])
    assert_close(home.to_numpy(out), expected, summed=70, size=4, what=f"causal attention, {rule}")


@needs_native
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_goes_back_as_the_meaning_does(
    shape: tuple[int, int, int], rule: str, rng: np.random.Generator
) -> None:
    home = home_named("jax")
    q, k, v, segments = map(home.asarray, draw(rng, *shape, tokens=150))  # more blocks than parts
    sinks = home.asarray(rng.normal(size=shape[0]).astype(np.float32)) if rule == "a window" else None
    how = {"sinks": sinks} | RULES[rule]
    out = causal_attention(q, k, v, segments, impl="kernel", **how)
    grad = home.asarray(rng.normal(size=out.shape).astype(np.float32))
    found = causal_attention_back(grad, out, q, k, v, segments, impl="kernel", **how)
    expected = causal_attention_back(grad, out, q, k, v, segments, impl="meaning", **how)
    for name, ours, theirs in zip("qkv", found, expected, strict=True):
        theirs = home.to_numpy(theirs)
        assert_close(home.to_numpy(ours), theirs, summed=150, size=8, what=f"gradient of {name}, {rule}")


@needs_native
@pytest.mark.skipif(native.state()[0] and native.isa() != "amx", reason="this processor has no matrix unit")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(4, 2, 32), (3, 1, 64), (2, 2, 96)])
def test_prompts_go_through_the_matrix_unit(shape: tuple[int, int, int], rule: str, rng: np.random.Generator) -> None:
    """Both ways, as close as bfloat16 is."""
    home = home_named("jax")
    q, k, v, segments = map(home.asarray, draw(rng, *shape, tokens=150))
    grad = home.asarray(rng.normal(size=q.shape).astype(np.float32))

    def both(impl: str) -> list[np.ndarray]:
        out = causal_attention(q, k, v, segments, impl=impl, **RULES[rule])
        back = causal_attention_back(grad, out, q, k, v, segments, impl=impl, **RULES[rule])
        return [home.to_numpy(x) for x in (out, *back)]

    with using(replace(choose("cpu"), role="prompt")):
        found = both("kernel")
    for ours, theirs in zip(found, both("meaning"), strict=True):
        far = np.abs(ours - theirs)
        assert 0 < far.max() < 0.1 and far.mean() < 3e-3 * np.abs(theirs).mean() + 1e-3


def test_parts_give_what_the_whole_gives(home: Home, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, segments = map(home.asarray, draw(rng, 4, 2, 16))

    def both() -> list[np.ndarray]:
        out = causal_attention(q, k, v, segments, impl="meaning")
        back = causal_attention_back(out, out, q, k, v, segments, impl="meaning")
        return [home.to_numpy(x) for x in (out, *back)]

    whole = both()
    monkeypatch.setattr(module, "LEAST_PART", 9)
    assert len(module.query_parts(70)) == 8 and module.query_parts(70)[-1] == slice(63, 70)
    for ours, theirs in zip(both(), whole, strict=True):
        assert_close(ours, theirs, summed=70, size=8, what="parts")


@pytest.mark.parametrize("impl", ["meaning", "auto"])
def test_a_number_that_is_not_finite_stays_in_its_text(impl: str, home: Home, rng: np.random.Generator) -> None:
    q, k, v, _ = draw(rng, 2, 1, 16, tokens=40)
    segments = np.repeat(np.array([[0] * 20 + [1] * 20], np.int32), 2, 0)
    k[0, 25] = np.nan
    with np.errstate(invalid="ignore"):
        out = home.to_numpy(causal_attention(*map(home.asarray, (q, k, v, segments)), impl=impl))
    assert np.isnan(out[0, 25:]).all() and np.isfinite(out[0, :25]).all() and np.isfinite(out[1]).all()


@pytest.mark.parametrize("impl", ["meaning", "auto"])
def test_shapes_that_do_not_fit_are_named(impl: str, home: Home) -> None:
    q, k = home.asarray(np.zeros((1, 2, 3, 16), np.float32)), home.asarray(np.zeros((1, 2, 2, 16), np.float32))
    with pytest.raises(ShapeError, match=r"q is \(1, 2, 3, 16\), k \(1, 2, 2, 16\) .* H a multiple of K"):
        causal_attention(q, k, k, home.asarray(np.zeros((1, 2), np.int32)), impl=impl)
