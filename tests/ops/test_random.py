"""Philox against the known answers of Random123 (kat_vectors), and the distributions made of it."""

from functools import partial

import numpy as np
import pytest

from soberano.backends.base import Home
from soberano.core.errors import ShapeError
from soberano.ops import random
from soberano.ops.random import gumbel, gumbel_at, philox, seed_words, uniform, uniform_at

KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> np.ndarray:
    return np.array([int(word, 16) for word in text.split()], np.uint32)


def seeds(*values: int) -> np.ndarray:
    return np.array([seed_words(value) for value in values], np.uint32)


def test_known_answers(home: Home) -> None:
    counters, keys, answers = (np.stack([words(row[i]) for row in KNOWN]) for i in range(3))
    assert (home.to_numpy(philox(home.asarray(counters), home.asarray(keys))) == answers).all()
    for counter, key, answer in zip(counters, keys, answers, strict=True):
        assert (home.to_numpy(philox(home.asarray(counter), home.asarray(key))) == answer).all()


def test_leading_axes_broadcast(home: Home) -> None:
    counters, keys = words(KNOWN[0][0] * 1), np.stack([words(row[1]) for row in KNOWN])
    both = home.to_numpy(philox(home.asarray(np.tile(counters, (5, 1, 1))), home.asarray(keys)))
    assert both.shape == (5, 3, 4)
    assert (both[:, 0] == words(KNOWN[0][2])).all()


def test_uniform_is_the_same_everywhere(home: Home) -> None:
    """Bit for bit: an integer function and two exact float operations."""
    seed, position = seeds(1, 2**63 + 5, 2**64 - 1), np.array([0, 7, 2**31 - 1], np.int32)
    expected = uniform(seed, position, 101)
    assert (
        home.to_numpy(home.compile(lambda s, p: uniform(s, p, 101))(home.asarray(seed), home.asarray(position)))
        == expected
    ).all()
    lanes = np.array([[100, 0, 3], [5, 5, 4], [1, 99, 50]], np.int32)
    at = home.compile(uniform_at)(home.asarray(seed), home.asarray(position), home.asarray(lanes))
    assert (home.to_numpy(at) == np.take_along_axis(expected, lanes, -1)).all()
    assert (uniform(seed[1:2], position[1:2], 40) == expected[1:2, :40]).all(), "a draw depends on its batch or on n"


def test_gumbel_at_is_gumbel(home: Home) -> None:
    seed, position = home.asarray(seeds(3)), home.asarray(np.array([9], np.int32))
    lanes = home.asarray(np.arange(33, dtype=np.int32)[None])
    all_of_them = home.to_numpy(home.compile(partial(gumbel, n=33))(seed, position))
    assert np.allclose(home.to_numpy(home.compile(gumbel_at)(seed, position, lanes)), all_of_them, rtol=1e-6, atol=1e-6)


def test_seed_position_and_stream_all_count() -> None:
    def draw(seed: int, position: int, stream: int) -> bytes:
        return uniform(seeds(seed), np.array([position], np.int32), 8, stream=stream).tobytes()

    cases = [(0, 0, 0), (1, 0, 0), (2**32, 0, 0), (0, 1, 0), (0, 0, 1), (0, -1, 0)]
    assert len({draw(*case) for case in cases}) == len(cases)


def test_neither_end_is_reached(home: Home) -> None:
    ends = home.asarray(np.array([0, 1, 2**31, 2**32 - 2, 2**32 - 1], np.uint32))
    u = home.to_numpy(random._open_interval(ends))
    assert u[0] == 2.0**-33
    assert u[2] == 0.5
    assert u[-1] == 1 - 2.0**-24
    assert np.isfinite(home.to_numpy(random._gumbel(random._open_interval(ends)))).all()


def test_distributions() -> None:
    """Moments of 200,000 draws, each within five standard errors."""
    u = uniform(seeds(11), np.zeros(1, np.int32), 200_000)[0].astype(np.float64)
    g = gumbel(seeds(11), np.ones(1, np.int32), 200_000)[0].astype(np.float64)
    for name, sample, mean, variance, fourth in (
        ("uniform", u, 1 / 2, 1 / 12, 1 / 80),
        ("gumbel", g, np.euler_gamma, np.pi**2 / 6, 5.4 * (np.pi**2 / 6) ** 2),
    ):
        assert abs(sample.mean() - mean) < 5 * np.sqrt(variance / sample.size), name
        assert abs(sample.var() - variance) < 5 * np.sqrt((fourth - variance**2) / sample.size), name
    counts = np.bincount((u * 64).astype(int), minlength=64)
    expected = u.size / 64
    assert (np.square(counts - expected) / expected).sum() < 63 + 6 * np.sqrt(2 * 63)
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 5 / np.sqrt(u.size)


def test_refuses_with_the_numbers(home: Home) -> None:
    zeros = home.asarray(np.zeros((2, 3), np.uint32))
    with pytest.raises(ShapeError, match=r"philox: counter is \(2, 3\)"):
        philox(zeros, zeros)
    with pytest.raises(ShapeError, match=r"uniform: seed is \(2, 3\) and position \(1,\)"):
        uniform(zeros, home.asarray(np.zeros(1, np.int32)), 4)
