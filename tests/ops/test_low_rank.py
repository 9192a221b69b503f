"""Products of low rank and their gradient: against float64 on every home, and in the matrix unit; bits in a batch."""

import numpy as np
import pytest

from soberano.backends.base import Home
from soberano.backends.homes import home as home_named
from soberano.backends.plan import using
from soberano.backends.tree import leaves, map_arrays
from soberano.core.errors import Unsupported
from soberano.ops.low_rank import low_ranks, low_ranks_back
from tests.ops.test_linear import PROMPT, needs_amx
from tests.tolerance import assert_close

SCALES = (0.5, 2.0, 1.0)
SHAPES = [(77, 96, ((7, 64), (40, 32), (16, 160))), (32, 32, ((16, 32),)), (1, 64, ((1, 32), (3, 96)))]
"""Tokens, inputs, and (rank, outputs) of each pair."""


def draw(rng: np.random.Generator, tokens: int, inputs: int, pairs: tuple[tuple[int, int], ...]) -> tuple:
    """x, pairs, and numbers like the results."""
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return (
        normal(tokens, inputs),
        tuple((normal(rank, inputs), normal(outputs, rank)) for rank, outputs in pairs),
        tuple(normal(tokens, outputs) for _, outputs in pairs),
    )


def expected(x: np.ndarray, pairs: tuple, onto: tuple) -> tuple:
    """The results, and the gradients where the results' are `onto`, in float64."""
    x, pairs, onto = map_arrays(lambda a: a.astype(np.float64), (x, pairs, onto))
    scaled = list(zip(SCALES, pairs, onto))  # noqa: B905 - more scales than pairs
    results = tuple(y + s * x @ a.T @ b.T for s, (a, b), y in scaled)
    dx = sum(s * y @ b @ a for s, (a, b), y in scaled)
    return results, (dx, tuple((s * (y @ b).T @ x, s * y.T @ (x @ a.T)) for s, (a, b), y in scaled))


def check(found: tuple, right: tuple, dtype: str, what: str) -> None:
    for mine, theirs in zip(leaves(found), leaves(right), strict=True):
        size = float(np.abs(theirs).max())
        assert_close(np.asarray(mine), theirs, dtype, summed=64, size=size, what=what)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_meaning(shape: tuple, home: Home, rng: np.random.Generator) -> None:
    x, pairs, onto = draw(rng, *shape)
    scales = SCALES[: len(pairs)]
    results, gradients = expected(x, pairs, onto)
    here = map_arrays(home.asarray, (x, pairs, onto))
    check(map_arrays(home.to_numpy, low_ranks(*here, scales=scales)), results, "float32", "low_ranks")
    found = map_arrays(home.to_numpy, low_ranks_back(here[2], *here[:2], scales=scales))
    check(found, gradients, "float32", "low_ranks_back")


@needs_amx
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_matrix_unit(shape: tuple, rng: np.random.Generator) -> None:
    x, pairs, onto = draw(rng, *shape)
    scales, home = SCALES[: len(pairs)], home_named("jax")
    results, gradients = expected(x, pairs, onto)
    here = map_arrays(home.asarray, (x, pairs, onto))
    with using(PROMPT):
        all_of_them = low_ranks(*here, scales=scales, impl="kernel")
        check(all_of_them, results, "bfloat16", "low_ranks")
        found = low_ranks_back(here[2], *here[:2], scales=scales, impl="kernel")
        check(found, gradients, "bfloat16", "low_ranks_back")
        few = low_ranks(here[0][:5], here[1], tuple(y[:5] for y in here[2]), scales=scales, impl="kernel")
    assert all(np.array_equal(y, onto) for y, onto in zip(here[2], onto, strict=True)), "what was given is as it was"
    for some, y in zip(few, all_of_them, strict=True):
        np.testing.assert_array_equal(some, y[:5], err_msg="the bits of a token do not depend on the others")


@needs_amx
def test_what_the_matrix_unit_does_not_serve(rng: np.random.Generator) -> None:
    x, pairs, onto = map_arrays(home_named("jax").asarray, draw(rng, 4, 40, ((2, 32),)))
    with using(PROMPT), pytest.raises(Unsupported, match="multiples of 32"):
        low_ranks(x, pairs, onto, scales=(1.0,), impl="kernel")
