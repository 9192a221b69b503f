"""The feed-forward layer, gated and not, with biases and without: against float64, and the kernel's promise of bits."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest

from soberano.backends import native
from soberano.backends.base import Home
from soberano.backends.homes import home as home_named
from soberano.backends.plan import using
from soberano.core.errors import InputError, ShapeError
from soberano.ops.feed_forward import feed_forward
from soberano.quant.blocks import BlockFormat, format_named
from soberano.quant.encode import encode
from tests.ops.test_linear import PROMPT, needs_amx, needs_native, weight_of
from tests.tolerance import GRADIENT, assert_close

DTYPE = "bfloat16" if native.state()[0] and native.isa() == "amx" else "float32"  # in which gradients pass back
D, F = 288, 320  # more columns than a run of linear_plain.h, and no whole number of runs
KINDS = [format_named(name) for name in ("Q8_0", "F16", "BF16", "F32")]
erf = np.vectorize(math.erf, otypes=[np.float64])
ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu_erf": lambda x: x / 2 * (1 + erf(x / np.sqrt(2))),
}


class Layer(NamedTuple):
    """Gate, up, down and their biases: for a home, and in float64."""

    weights: list[Any]
    biases: tuple[Any, ...]
    wide: list[np.ndarray]
    wide_biases: list[np.ndarray]

    def run(self, x: Any, **how: Any) -> Any:
        return feed_forward(*self.weights, x, self.biases, **how)

    def oracle(self, x: np.ndarray, activation: str) -> np.ndarray:
        gate, up, down = (lambda x, w=w, b=b: x @ w.T + b for w, b in zip(self.wide, self.wide_biases, strict=True))
        act = ACTIVATIONS[activation]
        return down(act(up(x)) if self.weights[0] is None else act(gate(x)) * up(x))


def layer(
    kind: type[BlockFormat], home: Home, rng: np.random.Generator, *, gated: bool, biased: bool, d: int = D, f: int = F
) -> Layer:
    """Random weights, of a size that keeps values at the order of one all along."""
    raws = [
        encode(kind, rng.normal(0, shape[1] ** -0.5, shape).astype(np.float32)) for shape in ((f, d), (f, d), (d, f))
    ]
    wide = [kind.dequantize(home_named("numpy"), raw).astype(np.float64) for raw in raws]
    weights: list[Any] = [weight_of(kind, "tiles", raw, home) for raw in raws]
    biases = [rng.normal(size=size).astype(np.float32) if biased else np.zeros(size, np.float32) for size in (f, f, d)]
    given = [home.asarray(bias) if biased else None for bias in biases]
    if not gated:
        weights[0] = given[0] = None
    return Layer(weights, tuple(given), wide, [bias.astype(np.float64) for bias in biases])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_the_meaning(activation: str, gated: bool, biased: bool, home: Home, rng: np.random.Generator) -> None:
    made, x = layer(KINDS[3], home, rng, gated=gated, biased=biased), rng.normal(size=(2, 3, D)).astype(np.float32)
    actual = home.to_numpy(made.run(home.asarray(x), activation=activation, impl="meaning"))
    assert_close(actual, made.oracle(x, activation), summed=32, what=f"feed_forward {activation}")


@needs_native
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("tokens", [1, 11, 40])
def test_the_kernel(kind: type[BlockFormat], gated: bool, tokens: int, rng: np.random.Generator) -> None:
    home, x = home_named("jax"), rng.normal(size=(tokens, D)).astype(np.float32)
    for activation in ACTIVATIONS:
        for biased in (True, False):
            made = layer(kind, home, rng, gated=gated, biased=biased)
            actual = home.to_numpy(made.run(home.asarray(x), activation=activation, impl="kernel"))
            size = 1 if kind.plain else 256  # codes meet activations of 15 bits, and 2^-15 of the largest in 32
            assert_close(actual, made.oracle(x, activation), summed=32, size=size, what=f"{kind.name} {activation}")
            for row in {0, tokens - 1}:
                alone = made.run(home.asarray(x[row : row + 1]), activation=activation)
                np.testing.assert_array_equal(home.to_numpy(alone)[0], actual[row])


@needs_amx
@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.name)
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("tokens", [1, 40])
def test_a_prompt_goes_through_the_matrix_unit(
    kind: type[BlockFormat], gated: bool, tokens: int, rng: np.random.Generator
) -> None:
    home, x = home_named("jax"), rng.normal(size=(tokens, D)).astype(np.float32)
    for activation in ACTIVATIONS:
        made = layer(kind, home, rng, gated=gated, biased=True)
        with using(PROMPT):
            actual = home.to_numpy(made.run(home.asarray(x), activation=activation, impl="kernel"))
            alone = home.to_numpy(made.run(home.asarray(x[-1:]), activation=activation, impl="kernel"))
        assert_close(actual, made.oracle(x, activation), "bfloat16", summed=4, what=f"{kind.name} {activation}")
        np.testing.assert_array_equal(alone[0], actual[-1])


@needs_native
@pytest.mark.parametrize("gated", [True, False])
def test_gradient(gated: bool, rng: np.random.Generator) -> None:
    """By x and by every bias: that of the meaning, whose parts have tests of their own."""
    import jax

    home = home_named("jax")
    made, x = layer(KINDS[0], home, rng, gated=gated, biased=True), rng.normal(size=(5, D)).astype(np.float32)

    def loss(x: Any, biases: tuple[Any, ...], impl: str) -> Any:
        return (made._replace(biases=biases).run(x, activation="gelu_erf", impl=impl) ** 2).sum() / 2

    found, wanted = (
        jax.tree.leaves(jax.grad(loss, argnums=(0, 1))(home.asarray(x), made.biases, impl))
        for impl in ("kernel", "meaning")
    )
    assert len(found) == len(wanted) == (4 if gated else 3)
    for actual, expected in zip(found, wanted, strict=True):
        size = GRADIENT * float(np.abs(expected).max()) / 16
        assert_close(actual, expected, DTYPE, summed=F, size=size, what="gradient of feed_forward")


def test_refuses_with_the_numbers(home: Home, rng: np.random.Generator) -> None:
    up, down, x = (home.asarray(np.zeros(shape, np.float32)) for shape in ((6, 4), (4, 6), (2, 4)))
    with pytest.raises(InputError, match="feed_forward: activation is 'tanh'; pass one of 'silu', 'gelu', 'gelu_erf'"):
        feed_forward(None, up, down, x, activation="tanh")
    with pytest.raises(ShapeError, match=r"linear: the weight is \(6, 4\), but the last axis of x \(2, 6\) is 6"):
        feed_forward(None, up, up, x)
    with pytest.raises(ShapeError, match=r"linear: bias is \(4,\), but the weight has 6 outputs"):
        feed_forward(None, up, down, x, (None, x[0], None))
