"""Pooling, against a loop over texts in float64."""

import numpy as np
import pytest

from soberano.backends import native
from soberano.backends.base import Home
from soberano.backends.homes import home as home_named
from soberano.core.errors import InputError
from soberano.ops.pool import POOLINGS, pool
from tests.tolerance import assert_close

LENGTHS = np.array([5, 1, 7], np.int32)
ORACLE = {"mean": lambda rows: rows.mean(0), "cls": lambda rows: rows[0], "last": lambda rows: rows[-1]}


@pytest.mark.parametrize("how", ORACLE)
def test_pool(how: str, home: Home, rng: np.random.Generator) -> None:
    x = rng.normal(size=(3, 7, 4)).astype(np.float32)
    x[0, 5:] = 1e30  # padding
    wanted = np.array([ORACLE[how](rows[:n].astype(np.float64)) for rows, n in zip(x, LENGTHS, strict=True)])
    found = home.to_numpy(pool(home.asarray(x), home.asarray(LENGTHS), how=how))
    assert_close(found, wanted, summed=7, what=how)
    assert found.dtype == np.float32


@pytest.mark.skipif(not native.state()[0], reason=native.state()[1])
def test_padding_changes_no_bit(rng: np.random.Generator) -> None:
    home, x = home_named("jax"), rng.normal(size=(3, 40, 100)).astype(np.float32)
    together = home.to_numpy(pool(home.asarray(x), home.asarray(LENGTHS), how="mean", impl="kernel"))
    for b, n in enumerate(LENGTHS):
        alone = pool(home.asarray(x[b : b + 1, :n]), home.asarray(LENGTHS[b : b + 1]), how="mean")
        np.testing.assert_array_equal(home.to_numpy(alone)[0], together[b])


def test_none_and_what_is_none_of_them(home: Home, rng: np.random.Generator) -> None:
    x = home.asarray(rng.normal(size=(3, 7, 4)).astype(np.float32))
    np.testing.assert_array_equal(home.to_numpy(pool(x, home.asarray(LENGTHS), how="none")), home.to_numpy(x))
    assert set(POOLINGS) == {"none", *ORACLE}
    with pytest.raises(InputError, match="how is 'max'; pass one of none, mean, cls, last"):
        pool(x, home.asarray(LENGTHS), how="max")
