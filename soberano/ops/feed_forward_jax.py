"""Kernel of soberano/ops/feed_forward.py for JAX on a CPU. Source: feed_forward.cc."""

import jax
import jax.numpy as jnp
import numpy as np

from soberano.backends import native
from soberano.backends.jax_ import with_gradient_of
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.ops import feed_forward as meaning
from soberano.ops.linear import Biases
from soberano.ops.linear_jax import Packed, check_input
from soberano.quant.tensor import Weight

_ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_erf": 2}  # as in activation.h


def feed_forward(
    gate: Weight | None,
    up: Weight,
    down: Weight,
    x: Array,
    biases: Biases = (None, None, None),
    *,
    activation: meaning.Activation = "silu",
) -> Array:
    """Run all products in one call: the values between them stay near the threads that made them."""
    first = (up,) if gate is None else (gate, up)
    if activation not in _ACTIVATIONS or any(weight.shape[0] != down.shape[-1] for weight in first):
        raise Unsupported("shapes or activation do not fit; the meaning says how")
    packed = Packed.of((*first, down), biases[-1 - len(first) :])
    check_input(first, x)
    result = jax.ShapeDtypeStruct((*x.shape[:-1], down.shape[0]), jnp.float32)
    call = jax.ffi.ffi_call(native.target("soberano_feed_forward_ffi"), result, vmap_method="sequential")
    which = np.int32(_ACTIVATIONS[activation])

    def plain(weights: tuple[Weight, ...], biases: Biases, x: Array) -> Array:
        absent = (None,) * (3 - len(weights))
        return meaning.feed_forward.meaning(*absent, *weights, x, (*absent, *biases), activation=activation)

    def kernel(*arrays: Array) -> Array:
        return call(*arrays, activation=which, **packed.attributes)

    return with_gradient_of(packed.meaning(plain), kernel)(x, *packed.arrays)
