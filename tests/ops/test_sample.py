"""Sampling: which tokens may be drawn, how often each is, and that nobody else's request matters."""

import functools
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from soberano.backends.base import Home
from soberano.core.errors import ShapeError
from soberano.ops.random import seed_words
from soberano.ops.sample import CANDIDATES, Sampling, _keep_of_best, _wanted, greedy, kept, penalise, sample
from soberano.ops.topk import top_k as best
from tests.cases import SMOLLM2_135M

V = 300
"""More than CANDIDATES, so that both ways to find a threshold are used."""


def params(*rows: tuple[float, int, float, float]) -> Sampling:
    """Rows of (temperature, top_k, top_p, min_p)."""
    columns = list(zip(*rows, strict=True))
    return Sampling(*(np.array(c, np.int32 if i == 1 else np.float32) for i, c in enumerate(columns)))


DEFAULT = (0.8, 40, 0.95, 0.05)
ROWS = [
    DEFAULT,
    (1.0, 0, 1.0, 0.0),
    (0.7, 0, 0.9, 0.0),
    (1.5, 200, 0.99, 0.0),
    (0.0, 40, 0.5, 0.1),
    (1.0, 0, 1.0, 0.02),
]


@functools.cache
def compiled(home: Home, op: Any) -> Any:
    return home.compile(op)


def run(home: Home, op: Any, *arguments: Any) -> np.ndarray:
    here = [Sampling(*map(home.asarray, a)) if isinstance(a, Sampling) else home.asarray(a) for a in arguments]
    return home.to_numpy(compiled(home, op)(*here))


def seeds(count: int, first: int = 0) -> np.ndarray:
    return np.array([seed_words(first + i) for i in range(count)], np.uint32)


def oracle(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> tuple[np.ndarray, float]:
    """Probabilities in float64 after all filters, by sorting; and how near to top_p's share a cut came, as a share."""
    x = logits.astype(np.float64)
    order = np.argsort(-x, kind="stable")
    count = top_k if 0 < top_k < len(x) else len(x)
    alive = x >= x[order[count - 1]]  # ties of the last one stay
    weight = np.where(alive, np.exp(x - x.max()), 0)
    share = np.array([weight[x > value].sum() for value in x]) / weight.sum()  # what is strictly better
    if top_p < 1:
        alive &= (share < top_p) | (x == x.max())
    if min_p > 0:
        alive &= x >= x.max() + np.log(min_p)
    alive &= x > -np.inf
    if temperature == 0:
        return np.eye(len(x))[order[0]], 1.0
    p = np.where(alive, np.exp((x - x.max()) / temperature), 0)
    return p / p.sum(), float(np.abs(share - top_p).min()) if top_p < 1 else 1.0


def some_logits(seed: int, spread: float, banned: float) -> np.ndarray:
    """On a grid of 1/8, so that ties are common and no logit lies within rounding of the cut of a min_p of 0.1."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=V) * spread * 8).round() / 8
    return np.where(rng.random(V) < banned, -np.inf, x).astype(np.float32)


# From nearly flat to one token that outweighs all others 2**40 times; from free to a grammar that allows a few tokens.
LOGITS = st.builds(
    some_logits, st.integers(0, 2**32), st.sampled_from([0.1, 0.5, 2.0, 10.0]), st.sampled_from([0.0, 0.5, 0.98, 1.0])
)


@given(
    x=LOGITS,
    top_k=st.sampled_from([0, 1, 2, 40, CANDIDATES, CANDIDATES + 1, V - 1, V, 10_000]),
    top_p=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_kept_is_what_sorting_keeps(home: Home, x: np.ndarray, top_k: int, top_p: float, min_p: float) -> None:
    assume(np.isfinite(x).any())
    p, near = oracle(x, 1.0, top_k, top_p, min_p)
    assume(near > 1e-4)  # fixed point of 28 bits rounds each of 300 weights by at most 2e-9 of the best
    assert (run(home, kept, x[None], params((1.0, top_k, top_p, min_p)))[0] == (p > 0)).all()


def test_both_ways_keep_the_same() -> None:
    """Where the sorted best say that they are complete, bisection over all logits keeps exactly the same tokens."""
    shares = [0.3, 0.6, 0.9, 1.0]
    completed = 0
    for spread, banned in product([0.1, 0.5, 2.0, 10.0], [0.0, 0.6]):
        rows = list(product([1.0], [0, 40, CANDIDATES - 1, CANDIDATES, CANDIDATES + 1, 200], shares, [0.0, 0.05]))
        x = np.stack([some_logits(seed, spread, banned) for seed in range(len(rows))])
        values, ids = best(x, CANDIDATES)
        keep, complete = _keep_of_best(x, values, _wanted(x, params(*rows)))
        expected = kept(x, params(*rows))
        for i in np.flatnonzero(complete):
            assert sorted(ids[i, keep[i] & (values[i] > -np.inf)]) == np.flatnonzero(expected[i]).tolist(), rows[i]
        completed += int(complete.sum())
    assert completed > 100


@given(x=LOGITS, row=st.sampled_from(ROWS), seed=st.integers(0, 2**63))
def test_draws_are_kept_and_the_same_on_every_home(home: Home, x: np.ndarray, row: Any, seed: int) -> None:
    logits = np.stack([x, np.roll(x, 7)])
    arguments = logits, params(row, row), seeds(2, seed), np.array([3, 4], np.int32)
    drawn = run(home, sample, *arguments)
    assert drawn.dtype == np.int32
    assert (drawn == sample(*arguments)).all()
    if np.isfinite(x).any():
        assert kept(logits, params(row, row))[[0, 1], drawn].all()


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_frequencies(home: Home, rng: np.random.Generator, row: Any) -> None:
    """Chi-square of 8,000 draws against float64. A wrong filter, temperature or noise is off by thousands."""
    count, x = 8_000, (rng.normal(size=V) * 2).astype(np.float32)
    p, _ = oracle(x, *row)
    logits = np.broadcast_to(x, (count // 10, V))
    drawn = [
        run(home, sample, logits, params(*[row] * len(logits)), seeds(len(logits)), np.full(len(logits), i, np.int32))
        for i in range(10)
    ]
    counts = np.bincount(np.concatenate(drawn), minlength=V)
    assert (counts[p == 0] == 0).all(), "a token was drawn that the filters take out"
    rare = p * count < 5  # chi-square wants at least five expected; the rare ones are one class
    classes = np.concatenate([counts[~rare], [counts[rare].sum()]]), np.concatenate([p[~rare], [p[rare].sum()]]) * count
    expected = np.maximum(classes[1], 1e-9)
    degrees = max(1, (classes[1] > 0).sum() - 1)
    assert (np.square(classes[0] - classes[1]) / expected).sum() < degrees + 6 * np.sqrt(2 * degrees)


def test_alone_or_in_company(home: Home, rng: np.random.Generator) -> None:
    """A row draws the same token in every batch, though a neighbour sends the batch over all logits."""
    x = (rng.normal(size=(len(ROWS), V)) * 3).astype(np.float32)
    position = np.arange(len(ROWS), dtype=np.int32)
    together = run(home, sample, x, params(*ROWS), seeds(len(ROWS)), position)
    alone = [
        run(home, sample, x[i : i + 1], params(row), seeds(1, i), position[i : i + 1])[0] for i, row in enumerate(ROWS)
    ]
    assert together.tolist() == [int(token) for token in alone]


def test_the_filters_come_before_temperature(home: Home) -> None:
    x = np.array([[4.0, 3.0, 0.0, -4.0]], np.float32)
    for temperature in (0.01, 1.0, 100.0):
        may = run(home, kept, x, params((temperature, 0, 0.9, 0.0)))
        assert may.tolist() == [[True, True, False, False]]


def test_temperature_zero_is_greedy(home: Home) -> None:
    x = np.full((2, V), 1.0, np.float32)
    x[0, [7, 250]] = 2
    arguments = x, params((0.0, 0, 1.0, 0.0), (0.0, 5, 0.5, 0.5)), seeds(2), np.zeros(2, np.int32)
    assert run(home, sample, *arguments).tolist() == [7, 0]
    assert run(home, greedy, x).tolist() == [7, 0]
    assert run(home, kept, *arguments[:2]).sum(-1).tolist() == [2, V]


def test_poison_is_never_drawn(home: Home) -> None:
    x = np.full((5, V), -np.inf, np.float32)
    x[0, 5], x[0, 6] = np.nan, -3.0
    x[1, 299] = np.inf
    x[2] = np.nan
    x[4, 200], x[4, 7] = 1.0, -1e38
    for row in ROWS:
        drawn = run(home, sample, x, params(*[row] * 5), seeds(5), np.zeros(5, np.int32))
        assert drawn.tolist() == [6, 299, 0, 0, 200], row
    assert run(home, greedy, x).tolist() == [6, 299, 0, 0, 200]


def test_tiny_and_huge_temperatures(home: Home, rng: np.random.Generator) -> None:
    x = (rng.normal(size=(2, V)) * 10).astype(np.float32)
    drawn = run(home, sample, x, params((1e-30, 0, 1.0, 0.0), (1e30, 0, 1.0, 0.0)), seeds(2), np.zeros(2, np.int32))
    assert drawn[0] == x[0].argmax()


def test_a_real_vocabulary_draws_the_same_everywhere(home: Home, rng: np.random.Generator) -> None:
    x = (rng.normal(size=(2, SMOLLM2_135M.vocab)) * 4).astype(np.float32)
    arguments = x, params(DEFAULT, (1.0, 0, 0.98, 0.0)), seeds(2, 5), np.array([1, 2], np.int32)
    assert (run(home, sample, *arguments) == sample(*arguments, impl="meaning")).all()


def test_penalise(home: Home) -> None:
    x = np.array([[2.0, -2.0, 1.0, 1.0, 0.5]], np.float32)
    prompt, output = np.array([[1, 1, 0, 0, 0]], np.int32), np.array([[0, 0, 3, 1, 0]], np.int32)
    one = lambda value: np.array([value], np.float32)  # noqa: E731
    bias = np.array([[0, 0, 0, 0, -np.inf]], np.float32)
    actual = run(home, penalise, x, prompt, output, one(2.0), one(0.5), one(0.25), bias)
    assert actual.tolist() == [[1.0, -4.0, 0.5 - 0.5 - 0.75, 0.5 - 0.5 - 0.25, -np.inf]]
    off = penalise(*(home.asarray(a) for a in (x, prompt, output, one(1.0), one(0.0), one(0.0))))
    assert (home.to_numpy(off) == x).all()


def test_refuses_with_the_numbers(home: Home) -> None:
    x, here = home.asarray(np.zeros((2, 4), np.float32)), home.asarray
    two = Sampling(*map(here, params(DEFAULT, DEFAULT)))
    with pytest.raises(ShapeError, match=r"greedy: logits is \(4,\); pass \(B, V\)"):
        greedy(x[0])
    with pytest.raises(ShapeError, match=r"sample: position has \(1,\) rows for logits \(2, 4\); pass \(2,\)"):
        sample(x, two, here(seeds(2)), here(np.zeros(1, np.int32)))
    with pytest.raises(ShapeError, match=r"penalise: counts_output is \(1, 4\), but logits is \(2, 4\)"):
        penalise(x, x, x[:1], two.top_p, two.top_p, two.top_p)
