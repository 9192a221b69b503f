"""Rotary positions, against complex multiplication in float64."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.backends.base import Home
from soberano.core.errors import InputError, ShapeError
from soberano.core.types import Array
from soberano.ops.rope import Rotation, rope, rotation
from tests.cases import DECODERS, Shape
from tests.tolerance import assert_close, assert_gradient


def angles(positions: np.ndarray, width: int, base: float, scale: float = 1.0, factors: object = 1.0) -> np.ndarray:
    """In extended precision where the platform has it: at position 2**30 float64 itself is off by 1e-7."""
    step = np.longdouble(base) ** (-np.arange(0, width, 2, dtype=np.longdouble) / width)
    full = positions[..., None].astype(np.longdouble) * np.longdouble(scale) * step / np.asarray(factors, np.longdouble)
    return np.remainder(full, 2 * np.longdouble("3.14159265358979323846264338327950288")).astype(np.float64)


def turned(x: np.ndarray, angle: np.ndarray, pairing: str) -> np.ndarray:
    x, pairs = x.astype(np.float64), angle.shape[-1]
    first = slice(0, 2 * pairs, 2) if pairing == "interleaved" else slice(0, pairs)
    second = slice(1, 2 * pairs, 2) if pairing == "interleaved" else slice(pairs, 2 * pairs)
    z = (x[..., first] + 1j * x[..., second]) * np.exp(1j * angle[:, :, None, :])
    result = x.copy()
    result[..., first], result[..., second] = z.real, z.imag
    return result


@pytest.mark.parametrize("shape", DECODERS, ids=lambda s: s.name)
@pytest.mark.parametrize("pairing", ["interleaved", "halves"])
def test_real_shapes(home: Home, rng: np.random.Generator, shape: Shape, pairing: str) -> None:
    positions = np.stack([np.arange(4), np.arange(8000, 8004)]).astype(np.int32)
    x = rng.normal(size=(2, 4, 3, shape.head)).astype(np.float32)
    assert shape.rope_base
    for impl in ("auto", "meaning"):

        @home.compile
        def run(x: Array, positions: Array, impl: str = impl) -> Array:
            turn = rotation(positions, shape.head, base=shape.rope_base, impl=impl)
            return rope(x, turn, pairing=pairing, impl=impl)

        actual = run(home.asarray(x), home.asarray(positions))
        expected = turned(x, angles(positions, shape.head, shape.rope_base), pairing)
        assert_close(home.to_numpy(actual), expected, summed=2, size=2, what=f"rope {shape.name} {pairing} {impl}")


@given(position=st.integers(0, 2**31 - 1), base=st.sampled_from([1e4, 1e5, 1e6]), scale=st.sampled_from([1.0, 0.125]))
def test_every_position_is_exact(home: Home, position: int, base: float, scale: float) -> None:
    positions = np.array([[position]], np.int32)
    turn = rotation(home.asarray(positions), 64, base=base, scale=scale)
    expected = angles(positions, 64, base, scale)
    # The step itself is a float64: at position 2**31 its last bit is 2e-7 radians.
    assert_close(home.to_numpy(turn.cos), np.cos(expected), size=2, what=f"cos at {position}")
    assert_close(home.to_numpy(turn.sin), np.sin(expected), size=2, what=f"sin at {position}")


def test_factors_divide_the_frequencies(home: Home) -> None:
    positions, factors = np.arange(5, dtype=np.int32)[None], [1.0, 1.0, 2.5, 8.0]
    turn = rotation(home.asarray(positions), 8, base=5e5, factors=factors)
    assert_close(home.to_numpy(turn.sin), np.sin(angles(positions, 8, 5e5, factors=factors)), what="factors")


@given(position=st.integers(-(2**31), -1))
def test_padding_is_finite(home: Home, position: int) -> None:
    turn = rotation(home.asarray(np.array([[position]], np.int32)), 8)
    assert np.isfinite(home.to_numpy(turn.cos)).all()
    assert np.isfinite(home.to_numpy(turn.sin)).all()


def test_the_rest_of_a_head_passes_through(home: Home, rng: np.random.Generator) -> None:
    x, positions = rng.normal(size=(1, 3, 2, 16)).astype(np.float32), np.arange(3, dtype=np.int32)[None]
    turn = rotation(home.asarray(positions), 8)
    for pairing in ("interleaved", "halves"):
        actual = home.to_numpy(home.compile(partial(rope, pairing=pairing))(home.asarray(x), turn))
        assert (actual[..., 8:] == x[..., 8:]).all()
        assert_close(actual, turned(x, angles(positions, 8, 1e4), pairing), summed=2, size=2, what=pairing)


def test_only_the_distance_counts(home: Home, rng: np.random.Generator) -> None:
    """What rope is for: a query at p and a key at q meet in a dot product that depends on p - q alone."""
    q, k = (rng.normal(size=(1, 1, 1, 64)).astype(np.float32) for _ in range(2))

    turn = home.compile(lambda x, positions: rope(x, rotation(positions, 64)))

    def met(q_at: int, k_at: int) -> float:
        a, b = (
            home.to_numpy(turn(home.asarray(x), home.asarray(np.array([[at]], np.int32))))
            for x, at in ((q, q_at), (k, k_at))
        )
        return float(np.sum(a.astype(np.float64) * b))

    assert_close(met(1_000_007, 1_000_000), met(7, 0), summed=64, what="far and near")


def test_gradient(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    x, toward = (rng.normal(size=(1, 2, 1, 6)).astype(np.float32) for _ in range(2))
    positions = np.array([[3, 11]], np.int32)
    turn = rotation(jax.numpy.asarray(positions), 4)
    for pairing in ("interleaved", "halves"):
        got = jax.jit(jax.grad(lambda a, p=pairing: (toward * rope(a, turn, pairing=p)).sum()))(x)
        oracle = lambda a, p=pairing: float((toward * turned(a, angles(positions, 4, 1e4), p)).sum())  # noqa: E731
        assert_gradient(got, oracle, x, summed=2, what=f"rope {pairing}")


def test_refuses_with_the_numbers(home: Home) -> None:
    positions = home.asarray(np.zeros((1, 2), np.int32))
    x = home.asarray(np.zeros((1, 2, 1, 4), np.float32))
    with pytest.raises(InputError, match="width is 7"):
        rotation(positions, 7)
    with pytest.raises(ShapeError, match=r"factors is \(3,\), but width 8 has 4 pairs"):
        rotation(positions, 8, factors=[1, 2, 3])
    with pytest.raises(InputError, match="pairing is 'neox'"):
        rope(x, rotation(positions, 4), pairing="neox")
    with pytest.raises(ShapeError, match="turns 8 numbers, but a head of x"):
        rope(x, rotation(positions, 8))
    longer = rotation(home.asarray(np.zeros((1, 3), np.int32)), 4)
    with pytest.raises(ShapeError, match=r"rotation is \(1, 3, 2\)"):
        rope(x, longer)
    assert isinstance(longer, Rotation)
