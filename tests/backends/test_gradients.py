"""Every gradient rule on every home, against JAX's own gradient of the meaning, which tests/ops hold to differences."""

from collections.abc import Callable
from operator import add
from typing import Any

import numpy as np
import pytest

from soberano.backends.base import Home
from soberano.backends.choose import choose
from soberano.backends.plan import using
from soberano.backends.tree import leaves, map_arrays
from soberano.ops.activation import geglu, gelu, silu, soft_cap, swiglu
from soberano.ops.causal_attention import causal_attention
from soberano.ops.feed_forward import feed_forward
from soberano.ops.linear import linears
from soberano.ops.loss import cross_entropy, with_slope
from soberano.ops.low_rank import low_ranks
from soberano.ops.norm import layer_norm, rms_norm
from soberano.ops.rope import Rotation, rope
from soberano.quant.blocks import format_named
from soberano.quant.encode import encode
from soberano.quant.tensor import Adapted, QTensor
from tests.tolerance import assert_close

RNG = np.random.default_rng(3)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def packed(outputs: int, inputs: int) -> QTensor:
    kind = format_named("Q8_0")
    return QTensor(
        encode(kind, normal(outputs, inputs) / np.float32(inputs**0.5)), None, (outputs, inputs), "Q8_0", "blocks"
    )


W, V, SEGMENTS = packed(32, 32), packed(32, 32), np.array([[0, 0, 0, 1, 1, -1], [0, 0, 0, 0, 0, 0]], np.int32)
QKV = (normal(2, 6, 4, 8), normal(2, 6, 2, 8), normal(2, 6, 2, 8))
ANGLE = normal(2, 6, 4)
TURN = Rotation(np.cos(ANGLE), np.sin(ANGLE))
TARGETS = np.array([3, -100, 0, 4], np.int64)

# name -> (function of a tree of inputs and constants, inputs, constants)
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], tuple[Any, ...]]] = {
    "rms_norm": (lambda t, c: rms_norm(*t, eps=1e-3), (normal(3, 5), normal(5)), ()),
    "layer_norm": (lambda t, c: layer_norm(*t, eps=1e-3), (normal(3, 5), normal(5), normal(5)), ()),
    "silu": (lambda t, c: silu(*t), (normal(3, 5),), ()),
    "gelu": (lambda t, c: gelu(*t), (normal(3, 5),), ()),
    "gelu erf": (lambda t, c: gelu(*t, form="erf"), (normal(3, 5),), ()),
    "swiglu": (lambda t, c: swiglu(*t), (normal(3, 5), normal(3, 5)), ()),
    "geglu": (lambda t, c: geglu(*t), (normal(3, 5), normal(3, 5)), ()),
    "geglu erf": (lambda t, c: geglu(*t, form="erf"), (normal(3, 5), normal(3, 5)), ()),
    "soft_cap": (lambda t, c: soft_cap(*t, cap=1.5), (normal(3, 5),), ()),
    "rope": (lambda t, c: rope(*t, *c), (normal(2, 6, 2, 8),), (TURN,)),
    "rope in halves": (lambda t, c: rope(*t, *c, pairing="halves"), (normal(2, 6, 2, 10),), (TURN,)),
    "linears": (lambda t, c: sum(linears(c, *t)), (normal(3, 32),), (W, V)),
    "linears with a bias": (lambda t, c: sum(linears(c, t[0], (None, t[1]))), (normal(3, 32), normal(32)), (W, V)),
    "feed_forward": (lambda t, c: feed_forward(*c, *t), (normal(3, 32),), (W, V, W)),
    "feed_forward with biases": (
        lambda t, c: feed_forward(None, *c, t[0], (None, *t[1:]), activation="gelu_erf"),
        (normal(3, 32), normal(32), normal(32)),
        (W, V),
    ),
    "low_ranks": (
        lambda t, c: add(*low_ranks(t[0], t[1:3], t[3:], scales=(0.5, 2.0))),
        (normal(3, 5), (normal(2, 5), normal(4, 2)), (normal(3, 5), normal(4, 3)), normal(3, 4), normal(3, 4)),
        (),
    ),
    "adapted": (
        lambda t, c: linears((Adapted(c[0], t[1], t[2], 2.0), c[1]), t[0])[0],
        (normal(3, 32), normal(2, 32), normal(32, 2)),
        (W, V),
    ),
    "attention": (
        lambda t, c: causal_attention(*t, *c),
        (normal(2, 6, 4, 8), normal(2, 6, 2, 8), normal(2, 6, 2, 8)),
        (SEGMENTS,),
    ),
    "attention with window, cap and sinks": (
        lambda t, c: causal_attention(*t, *c, cap=0.7, scale=0.5),
        QKV,
        (SEGMENTS, np.int32(2), normal(4)),
    ),
    "cross_entropy": (lambda t, c: cross_entropy(*t, *c), (normal(4, 5),), (TARGETS,)),
    "between ops": (
        lambda t, c: (silu(t[0].reshape(3, 2, 4))[:, 1:] * 2.0 + t[1]).astype(np.float32) / 3.0,
        (normal(3, 8), normal(1, 4)),
        (),
    ),
    "an array used twice": (lambda t, c: t[0] * silu(t[0]) + t[0], (normal(3, 4),), ()),
}


@pytest.mark.parametrize("name", CASES)
def test_rules(home: Home, name: str) -> None:
    """By the tape or by JAX, with kernels where there are some, as JAX differentiates the meanings themselves."""
    jax = pytest.importorskip("jax")
    function, inputs, constants = CASES[name]

    def loss(tree: Any, fixed: Any, mix: Any) -> Any:
        return number(function(tree, fixed), mix)

    with using(choose("xla")):
        arrays, fixed = map_arrays(jax.numpy.asarray, inputs), map_arrays(jax.numpy.asarray, constants)
        mix = np.cos(np.arange(function(arrays, fixed).size), dtype=np.float32)
        expected = jax.grad(loss)(arrays, fixed, jax.numpy.asarray(mix))
    here = map_arrays(home.asarray, (inputs, constants, mix))
    value, grads = home.value_and_grad(loss)(*here)
    assert home.to_numpy(value) == pytest.approx(float(loss(*here)), rel=1e-5, abs=1e-5)
    for at, (grad, right) in enumerate(zip(leaves(grads), leaves(expected), strict=True)):
        assert_close(home.to_numpy(grad), right, summed=64, size=8, what=f"gradient of {name}, argument {at}")


def number(y: Any, mix: Any) -> Any:
    """The sum of the elements of y, each times a weight of its own."""
    one = mix[:1].reshape(1, 1)  # cos(0)
    pair = (mix.reshape(1, -1), one)
    return low_ranks(y.reshape(1, mix.shape[0]), (pair,), (one * 0.0,), scales=(1.0,))[0].reshape(1)[0]


def test_what_depends_on_nothing_has_no_gradient(home: Home) -> None:
    x = home.asarray(normal(3))
    _, grad = home.value_and_grad(lambda tree: silu(home.constant(tree[0]))[0])((x,))
    np.testing.assert_array_equal(home.to_numpy(grad[0]), np.zeros(3))


def test_a_known_slope_is_the_gradient(home: Home) -> None:
    x, slope = home.asarray(normal(3)), home.asarray(normal(3))
    value, grad = home.value_and_grad(lambda tree: with_slope(silu(home.constant(tree))[0], tree, slope) * 2.0)(x)
    np.testing.assert_allclose(home.to_numpy(grad), 2 * home.to_numpy(slope), rtol=1e-6)
    assert home.to_numpy(value) == pytest.approx(2 * float(silu(x)[0]), rel=1e-6)
