"""rms_norm and layer_norm, against float64."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from soberano.backends import native
from soberano.backends.base import Home
from soberano.backends.homes import home as home_named
from soberano.core.errors import ShapeError
from soberano.ops.norm import add_layer_norm, layer_norm, rms_norm, rms_norm_back
from tests.cases import MODELS, Shape
from tests.tolerance import assert_close, assert_gradient

FLOATS = arrays(np.float32, (3, 8), elements=st.floats(-1e4, 1e4, width=32))


def rms(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    return x * (np.mean(np.square(x), -1) + eps)[..., None] ** -0.5 * weight


def layer(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, eps: float) -> np.ndarray:
    x, weight = x.astype(np.float64), weight.astype(np.float64)
    result = (x - x.mean(-1)[..., None]) * (x.var(-1) + eps)[..., None] ** -0.5 * weight
    return result if bias is None else result + bias.astype(np.float64)


@pytest.mark.parametrize("shape", MODELS, ids=lambda s: s.name)
def test_real_widths(home: Home, rng: np.random.Generator, shape: Shape) -> None:
    x, weight, bias = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, shape.width), shape.width, shape.width))
    here = [home.asarray(a) for a in (x, weight, bias)]
    for impl in ("auto", "meaning"):
        actual = home.compile(partial(rms_norm, eps=shape.eps, impl=impl))(here[0], here[1])
        assert_close(home.to_numpy(actual), rms(x, weight, shape.eps), size=4, what=f"rms_norm {shape.name} {impl}")
        actual = home.compile(partial(layer_norm, eps=shape.eps, impl=impl))(*here)
        expected = layer(x, weight, bias, shape.eps)
        assert_close(home.to_numpy(actual), expected, size=4, what=f"layer_norm {shape.name} {impl}")


@given(x=FLOATS)
def test_any_values(home: Home, x: np.ndarray) -> None:
    weight = np.linspace(-2, 2, 8, dtype=np.float32)
    actual = rms_norm(home.asarray(x), home.asarray(weight), eps=1e-5)
    assert_close(home.to_numpy(actual), rms(x, weight, 1e-5), size=4, what="rms_norm")
    # Centring loses what the mean is larger than the deviations, and eps bounds what division makes of the loss.
    deviation = np.sqrt(x.astype(np.float64).var(-1).min() + 1e-5)
    lost = max(1.0, float(np.abs(x).max()) / deviation)
    for bias in (None, weight[::-1].copy()):
        given = None if bias is None else home.asarray(bias)
        actual = layer_norm(home.asarray(x), home.asarray(weight), given, eps=1e-5)
        assert_close(home.to_numpy(actual), layer(x, weight, bias, 1e-5), size=8 * lost, what="layer_norm")


@pytest.mark.parametrize("width", [5, 48, 384])
def test_a_norm_of_a_sum(home: Home, rng: np.random.Generator, width: int) -> None:
    x, y = (rng.normal(size=(3, 2, width)).astype(np.float32) for _ in range(2))
    rows = [rng.normal(size=width).astype(np.float32) for _ in range(2)]
    expected = layer(x.astype(np.float64) + y, *rows, 1e-12)
    for impl in ("auto", "meaning"):
        actual = add_layer_norm(*(home.asarray(a) for a in (x, y, *rows)), eps=1e-12, impl=impl)
        assert_close(home.to_numpy(actual), expected, size=8, what=f"add_layer_norm {impl}")
    with pytest.raises(ShapeError, match=r"add_layer_norm: x is .* but y is"):
        add_layer_norm(*(home.asarray(a) for a in (x, y[:1], *rows)), eps=1e-12)


@pytest.mark.skipif(not native.state()[0], reason=native.state()[1])
def test_a_row_has_the_same_bits_in_every_batch(rng: np.random.Generator) -> None:
    home = home_named("jax")
    x, weight, bias = (home.asarray(rng.normal(size=s).astype(np.float32)) for s in ((100, 100), 100, 100))
    norms = (
        lambda x: rms_norm(x, weight, eps=1e-6),
        lambda x: layer_norm(x, weight, bias, eps=1e-6),
        lambda x: layer_norm(x, weight, None, eps=1e-6, impl="kernel"),
        lambda x: add_layer_norm(x, 2 * x, weight, bias, eps=1e-6),
    )
    for norm in norms:
        together = home.to_numpy(norm(x))
        for rows in (slice(0, 1), slice(33, 35), slice(60, 100)):
            np.testing.assert_array_equal(home.to_numpy(norm(x[rows])), together[rows])


@pytest.mark.parametrize("impl", ["meaning", "auto"])
@pytest.mark.parametrize("width", [37, 576])
def test_the_way_back(home: Home, rng: np.random.Generator, width: int, impl: str) -> None:
    grad, x, weight = rng.normal(size=(5, width)), rng.normal(size=(5, width)), rng.normal(size=width)
    size = np.sqrt((x * x).mean(-1, keepdims=True) + 1e-3)
    g = grad * weight
    expected = g / size - x * (g * x).mean(-1, keepdims=True) / size**3
    arrays = (home.asarray(a.astype(np.float32)) for a in (grad, x, weight))
    found = home.to_numpy(rms_norm_back(*arrays, eps=1e-3, impl=impl))
    assert_close(found, expected, summed=width, size=4, what="gradient of a norm")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_types_are_summed_wide(home: Home, dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    if dtype == "bfloat16" and home.name == "cupy":
        pytest.skip("cupy has no bfloat16")
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    x = np.full((1, 4096), 30, kind)  # the sum of squares, 3.7 million, is past float16
    result = home.to_numpy(rms_norm(home.asarray(x), home.asarray(np.ones(4096, kind)), eps=0.0))
    assert result.dtype == kind
    assert (result.astype(np.float32) == 1).all()


def test_gradient(rng: np.random.Generator) -> None:
    jax = pytest.importorskip("jax")
    x, weight, bias, toward = (rng.normal(size=s).astype(np.float32) for s in ((2, 6), 6, 6, (2, 6)))

    def loss(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> object:
        return (toward * (rms_norm(x, weight, eps=1e-5) + layer_norm(x, weight, bias, eps=1e-5))).sum()

    def oracle(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> float:
        return float((toward * (rms(x, weight, 1e-5) + layer(x, weight, bias, 1e-5))).sum())

    got = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*(jax.numpy.asarray(a) for a in (x, weight, bias)))
    assert_gradient(got[0], lambda a: oracle(a, weight, bias), x, summed=12, what="norms by x")
    assert_gradient(got[1], lambda a: oracle(x, a, bias), weight, summed=12, what="norms by weight")
    assert_gradient(got[2], lambda a: oracle(x, weight, a), bias, summed=12, what="norms by bias")


def test_refuses_with_the_numbers(home: Home) -> None:
    x, three = home.asarray(np.zeros((2, 4), np.float32)), home.asarray(np.zeros(3, np.float32))
    four = home.asarray(np.zeros(4, np.float32))
    with pytest.raises(
        ShapeError, match=r"rms_norm: weight is \(3,\), but the last axis of x \(2, 4\) is 4; pass \(4,\)"
    ):
        rms_norm(x, three, eps=1e-5, impl="meaning")
    with pytest.raises(ShapeError, match=r"layer_norm: bias is \(3,\)"):
        layer_norm(x, four, three, eps=1e-5)
    with pytest.raises(ShapeError, match="single number"):
        rms_norm(home.asarray(np.zeros((), np.float32)), four, eps=1e-5, impl="meaning")


def test_vmap_over_weights(rng: np.random.Generator) -> None:
    import jax

    x, weight = (rng.normal(size=(3, 32)).astype(np.float32) for _ in range(2))
    together = jax.vmap(partial(rms_norm, eps=1e-5))(x, weight)
    assert_close(together, np.stack([rms(a, w, 1e-5) for a, w in zip(x, weight, strict=True)]), size=4, what="rms_norm")
