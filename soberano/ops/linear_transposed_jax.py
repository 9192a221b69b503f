"""Kernel of soberano/ops/linear_transposed.py for JAX on a CPU. Source: linear_transposed.cc."""

from typing import Any

import jax
import jax.numpy as jnp

from soberano.backends import native
from soberano.backends.jax_ import with_gradient
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.ops.linear import products
from soberano.ops.linear_jax import Packed
from soberano.quant.tensor import Frozen


def linears_transposed(weights: tuple[Frozen, ...], *ys: Array) -> Array:
    """Decode a few columns of the weights at a time; no weight is ever whole in memory.

    As `products` do, the gradients of a prompt's tokens go through a matrix unit, in bfloat16 with float32 sums; all
    others are float32.
    """
    packed = Packed.of(weights)
    if any(y.dtype != jnp.float32 for y in ys):
        raise Unsupported("linear_transposed.cc serves float32")
    if any(y.shape != (*ys[0].shape[:-1], weight.shape[0]) for weight, y in zip(weights, ys, strict=True)):
        raise Unsupported("shapes do not fit; the meaning says how")
    count = len(ys)
    result = jax.ShapeDtypeStruct((*ys[0].shape[:-1], weights[0].shape[-1]), jnp.float32)
    call = jax.ffi.ffi_call(native.target("soberano_linear_transposed_ffi"), result, vmap_method="sequential")

    def kernel(*arrays: Array) -> Array:
        return call(*arrays[count:], *arrays[:count], **packed.attributes)

    def backward(arrays: tuple[Array, ...], grad: Array) -> tuple[Any, ...]:
        here, _ = packed.unpack(arrays[count:])
        return (*products(here, grad), *(None for _ in arrays[count:]))

    return with_gradient(backward, kernel)(*ys, *packed.arrays)
