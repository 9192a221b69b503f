"""The gated feed-forward layer with each activation, against float64; the kernel on weights that are plain numbers."""

import math

import numpy as np
import pytest

from soberano.backends import native
from soberano.backends.base import Home
from soberano.core.errors import InputError
from soberano.ops.feed_forward import feed_forward
from soberano.quant.blocks import format_named
from soberano.quant.encode import encode
from tests.ops.test_linear import weight_of
from tests.tolerance import assert_close

ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_erf": lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("impl", ["meaning", "auto", "kernel"])
def test_each_activation(activation: str, impl: str, home: Home, rng: np.random.Generator) -> None:
    if impl == "kernel" and (home.name != "jax" or not native.state()[0]):
        pytest.skip("the kernel is for JAX on a CPU with native code")
    plain = format_named("F32")
    weights = [rng.normal(size=s).astype(np.float32) / 8 for s in ((96, 64), (96, 64), (64, 96))]
    here = [weight_of(plain, "tiles", encode(plain, weight), home) for weight in weights]
    x = rng.normal(size=(5, 64)).astype(np.float32) * 2
    gate, up, down = (weight.astype(np.float64) for weight in weights)
    expected = (ACTIVATIONS[activation](x @ gate.T) * (x @ up.T)) @ down.T
    found = feed_forward(*here, home.asarray(x), activation=activation, impl=impl)  # type: ignore[arg-type]
    assert_close(home.to_numpy(found), expected, summed=96 + 64, size=4, what=f"feed_forward {activation} {impl}")


def test_an_activation_that_is_not_known(home: Home) -> None:
    weight = home.asarray(np.zeros((4, 4), np.float32))
    with pytest.raises(InputError, match="activation is 'relu'; pass one of 'silu', 'gelu', 'gelu_erf'"):
        feed_forward(weight, weight, weight, weight, activation="relu")  # type: ignore[arg-type]
