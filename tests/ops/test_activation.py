"""Activations, against the error function of the standard library and float64."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from soberano.backends.base import Home
from soberano.core.errors import InputError, ShapeError
from soberano.ops.activation import (
    clamped_swiglu,
    geglu,
    gelu,
    relu,
    sigmoid,
    silu,
    soft_cap,
    swiglu,
    swiglu_back,
)
from tests.cases import MODELS, Shape
from tests.tolerance import assert_close, assert_gradient

erfc = np.vectorize(math.erfc, otypes=[np.float64])
FLOATS = arrays(np.float32, (16,), elements=st.floats(-1e6, 1e6, width=32))


def wide(x: np.ndarray) -> np.ndarray:
    return np.asarray(x, np.float64)


ORACLES = {
    sigmoid: lambda x: np.exp(-np.logaddexp(0, -wide(x))),
    relu: lambda x: np.where(wide(x) > 0, wide(x), 0),
    silu: lambda x: wide(x) * np.exp(-np.logaddexp(0, -wide(x))),
    gelu: lambda x: wide(x) / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide(x) + 0.044715 * wide(x) ** 3))),
    "erf": lambda x: wide(x) / 2 * erfc(-wide(x) / np.sqrt(2)),
}
RUNS = {sigmoid: sigmoid, relu: relu, silu: silu, gelu: gelu, "erf": partial(gelu, form="erf")}
KINDS = pytest.mark.parametrize("kind", list(ORACLES), ids=["sigmoid", "relu", "silu", "gelu", "gelu-erf"])


@KINDS
@given(x=FLOATS)
def test_any_values(home: Home, kind: object, x: np.ndarray) -> None:
    assert_close(home.to_numpy(RUNS[kind](home.asarray(x))), ORACLES[kind](x), size=1, what=str(kind))


@given(x=FLOATS)
@pytest.mark.parametrize("cap", [30.0, 0.5, 0.0])
def test_a_soft_cap(home: Home, cap: float, x: np.ndarray) -> None:
    expected = cap * np.tanh(wide(x) / cap) if cap else x
    assert_close(home.to_numpy(soft_cap(home.asarray(x), cap=cap)), expected, size=cap or 1, what="soft_cap")


def clamped(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    g, u = np.minimum(wide(gate), 7), np.maximum(np.minimum(wide(up), 7), -7)
    return g * np.exp(-np.logaddexp(0, -1.702 * g)) * (u + 1)


@given(gate=FLOATS, up=FLOATS)
def test_a_clamped_unit(home: Home, gate: np.ndarray, up: np.ndarray) -> None:
    actual = clamped_swiglu(home.asarray(gate), home.asarray(up))
    assert_close(home.to_numpy(actual), clamped(gate, up), size=8, what="clamped_swiglu")


def test_a_clamp_hides_no_nan(home: Home) -> None:
    x, y = home.asarray(np.array([np.nan, 1.0], np.float32)), home.asarray(np.array([1.0, np.nan], np.float32))
    assert np.isnan(home.to_numpy(clamped_swiglu(x, y))).all()


@KINDS
def test_the_left_tail_keeps_its_digits(home: Home, kind: object) -> None:
    """A result near zero is right relative to itself, which formulas with 1 + tanh(x) lose below -3."""
    x = np.linspace(-8, -1e-3, 999, dtype=np.float32)
    actual, expected = home.to_numpy(home.compile(RUNS[kind])(home.asarray(x))), ORACLES[kind](x)
    if kind is gelu:  # the float64 oracle loses them itself: 1 + tanh is a difference there
        u = np.sqrt(2 / np.pi) * (wide(x) + 0.044715 * wide(x) ** 3)
        expected = wide(x) * np.exp(-np.logaddexp(0, -2 * u))
    ratio = np.divide(actual, expected, out=np.ones_like(expected), where=expected != 0)
    assert_close(
        ratio, np.ones_like(ratio), size=32, what=str(kind)
    )  # exp(-32) turns a rounding of 32 into 32 roundings


@pytest.mark.parametrize("shape", MODELS, ids=lambda s: s.name)
def test_gated_at_real_widths(home: Home, rng: np.random.Generator, shape: Shape) -> None:
    gate, up = (rng.normal(size=(2, shape.ffn)).astype(np.float32) for _ in range(2))
    here = home.asarray(gate), home.asarray(up)
    for impl in ("auto", "meaning"):
        cases = [(swiglu, silu, {}), (geglu, gelu, {}), (geglu, "erf", {"form": "erf"})]
        for unit, kind, options in cases:
            actual = home.compile(partial(unit, impl=impl, **options))(*here)
            assert_close(home.to_numpy(actual), ORACLES[kind](gate) * up, size=8, what=f"{unit} {shape.name} {impl}")


def test_narrow_types_come_back_narrow(home: Home) -> None:
    x = home.asarray(np.linspace(-4, 4, 9).astype(np.float16))
    for run in (
        sigmoid,
        relu,
        silu,
        gelu,
        partial(gelu, form="erf"),
        *(partial(pair, up=x) for pair in (swiglu, geglu, clamped_swiglu)),
    ):
        assert run(x).dtype == np.float16


@KINDS
def test_gradient(rng: np.random.Generator, kind: object) -> None:
    jax = pytest.importorskip("jax")
    x = np.concatenate([rng.normal(size=12), [1e-3, 3.0, -3.0, 20.0, -20.0]]).astype(np.float32)
    got = jax.jit(jax.grad(lambda a: RUNS[kind](a).sum()))(x)
    assert_gradient(got, lambda a: float(ORACLES[kind](a).sum()), x, what=str(kind))


@KINDS
def test_gradient_is_finite_everywhere(kind: object) -> None:
    jax = pytest.importorskip("jax")
    x = np.array([0.0, 1e3, -1e3, 1e6, -1e6], np.float32)
    got = np.asarray(jax.jit(jax.grad(lambda a: RUNS[kind](a).sum()))(x))
    if kind is sigmoid:
        assert got.tolist() == [0.25, 0, 0, 0, 0]
        return
    assert got[1] == got[3] == 1
    assert got[2] == got[4] == 0
    assert got[0] == (0 if kind is relu else 0.5)


def test_gated_gradient(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    gate, up = (rng.normal(size=6).astype(np.float32) for _ in range(2))
    got = jax.jit(jax.grad(lambda a, b: swiglu(a, b).sum() + geglu(a, b).sum(), argnums=(0, 1)))(gate, up)

    def oracle(a: np.ndarray, b: np.ndarray) -> float:
        return float(((ORACLES[silu](a) + ORACLES[gelu](a)) * b).sum())

    assert_gradient(got[0], lambda a: oracle(a, up), gate, what="gated by gate")
    assert_gradient(got[1], lambda b: oracle(gate, b), up, what="gated by up")


def test_gradient_of_a_clamped_unit(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    gate, up = (rng.normal(0, 6, 12).astype(np.float32) for _ in range(2))
    got = jax.jit(jax.grad(lambda a, b: clamped_swiglu(a, b).sum(), argnums=(0, 1)))(gate, up)
    assert_gradient(got[0], lambda a: float(clamped(a, up).sum()), gate, what="clamped_swiglu by gate")
    assert_gradient(got[1], lambda b: float(clamped(gate, b).sum()), up, what="clamped_swiglu by up")


def test_refuses_with_the_numbers(home: Home) -> None:
    x, y = home.asarray(np.zeros(3, np.float32)), home.asarray(np.zeros(4, np.float32))
    with pytest.raises(InputError, match="gelu: form is 'fast'; pass 'tanh' or 'erf'"):
        gelu(x, form="fast")
    with pytest.raises(ShapeError, match=r"swiglu: gate is \(3,\), but up is \(4,\)"):
        swiglu(x, y)
    for unit in (geglu, clamped_swiglu):
        with pytest.raises(ShapeError, match=unit.__name__):
            unit(x, y)


@given(grad=FLOATS, gate=arrays(np.float32, (16,), elements=st.floats(-300, 300, width=32)), up=FLOATS)
@pytest.mark.parametrize("shape", [(16,), (2, 5)])
def test_the_way_back_through_swiglu(
    home: Home, shape: Shape, grad: np.ndarray, gate: np.ndarray, up: np.ndarray
) -> None:
    grad, gate, up = (each[: math.prod(shape)].reshape(shape) for each in (grad, gate, up))
    s = np.exp(-np.logaddexp(0, -wide(gate)))
    expected = wide(grad) * up * (s + gate * s * (1 - s)), wide(grad) * gate * s
    for mine, right, factor in zip(
        swiglu_back(*map(home.asarray, (grad, gate, up))), expected, (up, np.ones_like(up)), strict=True
    ):
        size = float(np.abs(wide(grad) * factor).max()) * 2
        assert_close(home.to_numpy(mine), right, size=size, what="swiglu_back")
