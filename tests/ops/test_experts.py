"""Experts and their router against float64, and what a token gets: the same bits in any company."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soberano.backends import native
from soberano.backends.base import Home
from soberano.backends.homes import home as home_named
from soberano.backends.plan import Plan, using
from soberano.core.errors import InputError, ShapeError
from soberano.ops.experts import Biases, experts, group_choices, route
from soberano.quant import tiles
from soberano.quant.blocks import BlockFormat, format_named
from soberano.quant.tensor import Experts, QTensor, Stack
from tests.ops.test_linear import PROMPT, needs_amx, needs_native
from tests.quant.test_tiles import random_blocks
from tests.tolerance import assert_close, assert_gradient

ACTIVATIONS = ("silu", "gelu", "clamped_swiglu")
X, L = 6, 3  # experts, layers


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


def unit(activation: str, g: np.ndarray, u: np.ndarray) -> np.ndarray:
    if activation == "silu":
        return g * sigmoid(g) * u
    if activation == "gelu":
        return g * sigmoid(2 * np.sqrt(2 / np.pi) * (g + 0.044715 * g**3)) * u
    g, u = np.minimum(g, 7), np.clip(u, -7, 7)
    return g * sigmoid(1.702 * g) * (u + 1)


def oracle(parts: Any, x: Any, ids: Any, weights: Any, activation: str = "silu", biases: Any = None) -> np.ndarray:
    """Token by token and choice by choice, in float64; `parts` are gate, up, down, each (X, O, I)."""
    gate, up, down = (np.asarray(part, np.float64) for part in parts)
    x, out = np.asarray(x, np.float64), np.zeros(x.shape)
    for place in np.ndindex(*ids.shape[:-1]):
        for e, weight in zip(ids[place], np.asarray(weights[place], np.float64), strict=True):
            g, u = gate[e] @ x[place], up[e] @ x[place]
            if biases is not None:
                g, u = g + biases[0][e], u + biases[1][e]
            y = down[e] @ unit(activation, g, u)
            out[place] += weight * (y if biases is None else y + biases[2][e])
    return out


class Made:
    """Random experts of L layers in formats of `kinds`, layer by layer."""

    def __init__(self, kinds: Sequence[type[BlockFormat]], form: str, home: Home, rng: np.random.Generator) -> None:
        self.width, self.hidden = (256, 512) if any(kind.block == 256 for kind in kinds) else (64, 96)
        shapes = {"gate": (self.hidden, self.width), "up": (self.hidden, self.width), "down": (self.width, self.hidden)}
        self.dense: list[Any] = [[] for _ in range(L)]
        self.parts: list[Experts] = []
        for shape in shapes.values():
            raws = [[random_blocks(kind, *shape, rng) for _ in range(X)] for kind in kinds]
            for i, (kind, raw) in enumerate(zip(kinds, raws, strict=True)):
                self.dense[i].append(kind.dequantize(home_named("numpy"), np.stack(raw)))
            self.parts.append(Experts(self._stack(kinds, raws, shape, form, home), X))

    @staticmethod
    def _stack(kinds: Any, raws: Any, shape: tuple[int, int], form: str, home: Home) -> Stack:
        names = list(dict.fromkeys(kinds))
        members, tag = [], np.repeat([names.index(kind) for kind in kinds], X).astype(np.int32)
        slot = np.array([(tag[:i] == each).sum() for i, each in enumerate(tag)], np.int32)
        for kind in names:
            own = [raw for each, layer in zip(kinds, raws, strict=True) if each is kind for raw in layer]
            data = np.stack([tiles.pack(kind, raw) for raw in own] if form == "tiles" else own)
            members.append(QTensor(home.asarray(data), None, shape, kind.name, form))  # type: ignore[arg-type]
        return Stack(tuple(members), home.asarray(tag), home.asarray(slot))

    def layer(self, home: Home, i: Any) -> list[Experts]:
        return [part.layer(home, i) for part in self.parts]


def dense(home: Home, *parts: np.ndarray) -> list[Experts]:
    """One layer of experts that are plain numbers, (X, O, I) each."""
    orders = [np.arange(len(part), dtype=np.int32) for part in parts]
    return [
        Experts(Stack((home.asarray(part),), home.asarray(order * 0), home.asarray(order)), len(part), 0)
        for part, order in zip(parts, orders, strict=True)
    ]


def choices(rng: np.random.Generator, *shape: int, count: int = X) -> tuple[np.ndarray, np.ndarray]:
    """Random distinct ids (..., k) and weights that add up to 1."""
    ids = np.argsort(rng.random((*shape[:-1], count)))[..., : shape[-1]].astype(np.int32)
    weights = rng.random(shape).astype(np.float32)
    return ids, weights / weights.sum(-1, keepdims=True)


def some_biases(rng: np.random.Generator, made: Made) -> list[np.ndarray]:
    sizes = (made.hidden, made.hidden, made.width)
    return [rng.normal(size=(X, size)).astype(np.float32) for size in sizes]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("tokens", [1, 40])  # fewer choices than experts, and more
def test_the_meaning(tokens: int, activation: str, biased: bool, home: Home, rng: np.random.Generator) -> None:
    made = Made([format_named("Q4_1")] * L, "blocks", home, rng)
    x, (ids, weights) = rng.normal(size=(1, tokens, 64)).astype(np.float32), choices(rng, 1, tokens, 3)
    biases = some_biases(rng, made) if biased else None
    told = Biases(*map(home.asarray, biases)) if biases else None
    actual = experts(*made.layer(home, 1), *map(home.asarray, (x, ids, weights)), activation=activation, biases=told)
    expected = oracle(made.dense[1], x, ids, weights, activation, biases)
    assert_close(home.to_numpy(actual), expected, summed=64 * 96, size=np.abs(expected).max(), what=activation)


@settings(max_examples=6)
@given(data=st.data())
def test_any_values(home: Home, data: st.DataObject) -> None:
    """Also choices that name an expert twice, and weights of either sign."""
    count, k, hidden, width = (data.draw(st.integers(1, top)) for top in (5, 4, 6, 7))
    shape = tuple(data.draw(st.lists(st.integers(1, 3), max_size=2)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    parts = [rng.normal(size=(count, *size)).astype(np.float32) for size in [(hidden, width)] * 2 + [(width, hidden)]]
    x, weights = rng.normal(size=(*shape, width)), rng.normal(size=(*shape, k))
    x, weights = x.astype(np.float32), weights.astype(np.float32)
    ids = rng.integers(count, size=(*shape, k)).astype(np.int32)
    actual = experts(*dense(home, *parts), *map(home.asarray, (x, ids, weights)))
    expected = oracle(parts, x, ids, weights)
    assert_close(home.to_numpy(actual), expected, summed=64, size=max(1.0, np.abs(expected).max()), what="experts")


@pytest.mark.parametrize("form", ["blocks", "tiles"])
@pytest.mark.parametrize("tokens", [1, 9])
def test_layers_of_different_formats_in_a_loop(tokens: int, form: str, home: Home, rng: np.random.Generator) -> None:
    made = Made([format_named(name) for name in ("Q4_1", "F16", "Q8_0")], form, home, rng)
    x, (ids, weights) = rng.normal(size=(tokens, 64)).astype(np.float32), choices(rng, tokens, 2)

    def run(parts: Any, x: Any, ids: Any, weights: Any) -> Any:
        def layer(i: Any, x: Any) -> Any:
            return x + experts(*(part.layer(home, i) for part in parts), x, ids, weights)

        return home.loop(L, layer, x)

    actual = home.compile(run)(made.parts, *map(home.asarray, (x, ids, weights)))
    expected = x.astype(np.float64)
    for i in range(L):
        expected = expected + oracle(made.dense[i], expected, ids, weights)
    # activations of the kernel are rounded to 15 bits, in each of the layers
    assert_close(home.to_numpy(actual), expected, summed=64 * 96, size=16 * np.abs(expected).max(), what=f"loop {form}")


@needs_native
@pytest.mark.parametrize("prompt", [False, pytest.param(True, marks=needs_amx)])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_token_gets_the_same_in_any_company(
    activation: str, biased: bool, prompt: bool, rng: np.random.Generator
) -> None:
    home = home_named("jax")
    made = Made([format_named("Q4_1"), format_named("Q8_0"), format_named("Q4_1")], "tiles", home, rng)
    x, (ids, weights) = rng.normal(size=(50, 64)).astype(np.float32), choices(rng, 50, 3)
    told = Biases(*map(home.asarray, some_biases(rng, made))) if biased else None
    run = partial(experts, *made.layer(home, 1), activation=activation, biases=told)
    with using(PROMPT if prompt else replace(PROMPT, role="token")):
        actual = run(*map(home.asarray, (x, ids, weights)))
        for rows in (slice(0, 1), slice(7, 9), slice(20, 50)):
            alone = run(*(home.asarray(each[rows]) for each in (x, ids, weights)))
            np.testing.assert_array_equal(alone, actual[rows])


@given(data=st.data())
def test_groups_hold_every_choice_once(data: st.DataObject) -> None:
    count, n = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 200))
    some = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=count))
    ids = np.random.default_rng(n).choice(np.array(some, np.int32), n)
    expert, choices = group_choices(home_named("numpy"), ids, count)
    filled = choices < n
    np.testing.assert_array_equal(np.sort(choices[filled]), np.arange(n))
    np.testing.assert_array_equal(ids[choices[filled]], np.broadcast_to(expert[:, None], choices.shape)[filled])
    assert len(expert) <= 1.5 * count + 1 or choices.shape[1] == 1


@needs_native
def test_who_is_not_chosen_is_not_read(rng: np.random.Generator) -> None:
    """Nor their biases: both are NaN here."""
    home = home_named("jax")
    made = Made([format_named("Q8_0")] * L, "tiles", home, rng)
    x, ids, biases = (
        rng.normal(size=(9, 64)).astype(np.float32),
        np.full((9, 2), [4, 1], np.int32),
        some_biases(rng, made),
    )
    weights = np.ones((9, 2), np.float32)

    def run(parts: list[Experts], biases: list[np.ndarray]) -> np.ndarray:
        told = Biases(*map(home.asarray, biases))
        return home.to_numpy(experts(*parts, *map(home.asarray, (x, ids, weights)), biases=told))

    before = run(made.layer(home, 1), biases)
    for part in range(3):
        stack = made.parts[part].matrices
        data = np.array(stack.members[0].data)
        for slot in set(range(L * X)) - {X + 4, X + 1}:
            data[slot] = 255  # scales that are NaN
        member = QTensor(home.asarray(data), None, stack.shape, "Q8_0", "tiles")
        made.parts[part] = Experts(Stack((member,), stack.tag, stack.slot), X)
        biases[part][[0, 2, 3, 5]] = np.nan
    np.testing.assert_array_equal(run(made.layer(home, 1), biases), before)


@pytest.mark.parametrize("prompt", [False, pytest.param(True, marks=needs_amx)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_token_that_is_not_finite_stays_so(
    bad: float, activation: str, prompt: bool, home: Home, rng: np.random.Generator
) -> None:
    made = Made([format_named("Q4_1")] * L, "tiles", home, rng)
    x, (ids, weights) = rng.normal(size=(9, 64)).astype(np.float32), choices(rng, 9, 2)
    plan = using(PROMPT) if prompt and home.name == "jax" else nullcontext()
    with plan, np.errstate(invalid="ignore", over="ignore"):
        run = partial(experts, *made.layer(home, 0), activation=activation)
        before = home.to_numpy(run(*map(home.asarray, (x, ids, weights))))
        x[4, 40] = bad
        after = home.to_numpy(run(*map(home.asarray, (x, ids, weights))))
    assert not np.isfinite(after[4]).any()
    rest = np.arange(9) != 4
    np.testing.assert_array_equal(after[rest], before[rest])


@pytest.mark.parametrize("form", ["blocks", "tiles"])
@pytest.mark.parametrize("tokens", [1, 5])
def test_gradient(tokens: int, form: str, rng: np.random.Generator) -> None:
    jax, home = pytest.importorskip("jax"), home_named("jax")
    made = Made([format_named("Q8_0")] * L, form, home, rng)
    layer, (ids, weights) = made.layer(home, 1), choices(rng, tokens, 2)
    x, probe = (rng.normal(size=(tokens, 64)).astype(np.float32) for _ in range(2))
    biases = some_biases(rng, made)

    def total(x: Any, weights: Any, biases: Any) -> Any:
        return (experts(*layer, x, home.asarray(ids), weights, biases=Biases(*biases)) * probe).sum()

    got = jax.jit(jax.grad(total, argnums=(0, 1, 2)))(x, weights, biases)

    def truth(x: np.ndarray, weights: np.ndarray, biases: Any) -> float:
        return float((oracle(made.dense[1], x, ids, weights, "silu", biases) * probe).sum())

    if form == "blocks" or not native.state()[0]:
        assert_gradient(got[0], lambda x: truth(x, weights, biases), x, summed=64, what="by x")
        assert_gradient(got[1], lambda w: truth(x, w, biases), weights, summed=64, what="by weights")
        down = lambda b: truth(x, weights, [*biases[:2], b])  # noqa: E731
        assert_gradient(got[2][2], down, biases[2], summed=64, what="by the bias of down")
    else:  # forwards with rounded activations: close to the gradient of the meaning, which the other form checks
        with using(Plan("xla", "jax")):
            meaning = jax.grad(total, argnums=(0, 1, 2))(x, weights, biases)
        for mine, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(meaning), strict=True):
            size = float(np.abs(theirs).max())
            assert_close(mine, theirs, "bfloat16" if native.isa() == "amx" else "float16", size=size, what="gradient")


ROUTES: list[dict[str, Any]] = [
    {"normalise": True},  # mixtral, qwen3moe, gpt-oss
    {"normalise": False},  # qwen2moe
    {"normalise": True, "score": "sigmoid", "scale": 2.5},  # deepseek 3, whose bias is tested below
    {"normalise": False, "score": "sigmoid"},
]


def route_oracle(
    logits: Any, count: int, normalise: bool, score: str = "softmax", scale: float = 1.0, bias: Any = 0
) -> Any:
    wide = np.asarray(logits, np.float64)
    scores = np.exp(wide - wide.max(-1, keepdims=True)) if score == "softmax" else sigmoid(wide)
    scores = scores / scores.sum(-1, keepdims=True) if score == "softmax" else scores
    ids = np.argsort(-(scores + bias if np.ndim(bias) else wide), axis=-1, kind="stable")[..., :count]
    weights = np.take_along_axis(scores, ids, -1)
    return ids, weights / (np.maximum(weights.sum(-1, keepdims=True), 2**-14) if normalise else 1) * scale


@pytest.mark.parametrize("how", ROUTES, ids=str)
@given(data=st.data())
def test_a_route(home: Home, how: dict[str, Any], data: st.DataObject) -> None:
    """Few different logits, so that ties are the rule: the lower id first."""
    count, shape = data.draw(st.integers(1, 40)), tuple(data.draw(st.lists(st.integers(1, 3), max_size=2)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    logits = rng.choice(np.float32([-30, -1, -0.0, 0.0, 0.5, 20]), size=(*shape, count))
    k = data.draw(st.integers(1, count))
    ids, weights = home.compile(partial(route, count=k, **how))(home.asarray(logits))
    expected_ids, expected = route_oracle(logits, k, **how)
    assert home.to_numpy(ids).dtype == np.int32 and home.to_numpy(weights).dtype == np.float32
    np.testing.assert_array_equal(home.to_numpy(ids), expected_ids)
    assert_close(home.to_numpy(weights), expected, summed=count, size=how.get("scale", 1), what="route")


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_a_bias_chooses_and_does_not_weigh(score: str, home: Home, rng: np.random.Generator) -> None:
    logits, bias = rng.normal(size=(50, 64)).astype(np.float32), rng.normal(size=64).astype(np.float32)
    how = {"count": 8, "normalise": True, "score": score}
    ids, weights = route(home.asarray(logits), bias=home.asarray(bias), **how)  # type: ignore[arg-type]
    expected_ids, expected = route_oracle(logits, bias=bias, **how)  # type: ignore[arg-type]
    np.testing.assert_array_equal(home.to_numpy(ids), expected_ids)
    assert_close(home.to_numpy(weights), expected, summed=64, what="route with a bias")
    assert (expected_ids != route_oracle(logits, **how)[0]).any(), "the bias changed nothing"  # type: ignore[arg-type]


def test_a_route_of_what_is_not_finite(home: Home) -> None:
    logits = np.float32([[1, np.nan, 3, 2], [np.nan] * 4, [-np.inf, 0, -np.inf, 0], [0, 1, 2, 3]])
    with np.errstate(invalid="ignore"):
        ids, weights = route(home.asarray(logits), count=2, normalise=True)
    np.testing.assert_array_equal(home.to_numpy(ids), [[2, 3], [0, 1], [1, 3], [3, 2]])
    weights = home.to_numpy(weights)
    assert np.isnan(weights[:2]).all() and np.isfinite(weights[2:]).all()
    np.testing.assert_array_equal(weights[2], 0.5)


@pytest.mark.parametrize("how", ROUTES, ids=str)
def test_gradient_of_a_route(how: dict[str, Any], rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    logits, probe = rng.normal(size=(3, 7)).astype(np.float32), rng.normal(size=(3, 3))
    got = jax.jit(jax.grad(lambda a: (route(a, count=3, **how)[1] * probe).sum()))(logits)
    assert_gradient(got, lambda a: float((route_oracle(a, 3, **how)[1] * probe).sum()), logits, what="route")


def test_refuses_with_the_numbers(home: Home) -> None:
    logits = home.asarray(np.zeros((2, 4), np.float32))
    for count in (0, 5):
        with pytest.raises(InputError, match=rf"route: count is {count}, but logits \(2, 4\)"):
            route(logits, count=count, normalise=True)
    with pytest.raises(InputError, match="route: score is 'max'; pass 'softmax' or 'sigmoid'"):
        route(logits, count=1, normalise=True, score="max")
    with pytest.raises(ShapeError, match=r"route: bias is \(3,\), but there are 4 experts"):
        route(logits, count=1, normalise=True, bias=home.asarray(np.zeros(3, np.float32)))

    def run(gate: Any = (4, 6, 8), down: Any = (4, 8, 6), ids: Any = (2, 1), biases: Any = None, **how: Any) -> None:
        parts = [np.ones(shape, np.float32) for shape in (gate, (4, 6, 8), down)]
        told = None if biases is None else Biases(*(home.asarray(np.ones(each, np.float32)) for each in biases))
        arrays = np.ones((2, 8), np.float32), np.zeros(ids, np.int32), np.ones((2, 1), np.float32)
        experts(*dense(home, *parts), *map(home.asarray, arrays), biases=told, **how)

    run(biases=[(4, 6), (4, 6), (4, 8)])
    with pytest.raises(
        InputError, match="experts: activation is 'relu'; pass one of 'silu', 'gelu', 'gelu_erf', 'clamped_swiglu'"
    ):
        run(activation="relu")
    for wrong in ({"gate": (4, 6, 7)}, {"gate": (3, 6, 8)}, {"down": (4, 8, 5)}, {"down": (4, 7, 6)}):
        with pytest.raises(ShapeError, match=r"experts: gate is .* and x \(2, 8\); pass gate and up \(X, F, D\)"):
            run(**wrong)
    with pytest.raises(ShapeError, match=r"experts: ids are \(3, 1\) and weights \(2, 1\), but x is \(2, 8\)"):
        run(ids=(3, 1))
    with pytest.raises(
        ShapeError, match=r"experts: biases are \(4, 6\), \(4, 6\), \(4, 6\); pass \(4, 6\), \(4, 6\), \(4, 8\)"
    ):
        run(biases=[(4, 6)] * 3)
