"""Kernels of soberano/ops/linear.py for JAX on a CPU: products with tiles. Source: linear.cc."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from soberano.backends import native
from soberano.backends.jax_ import native_plan, with_gradient_of
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.ops import linear
from soberano.quant.tensor import QTensor


def product(weight: Array | QTensor, x: Array) -> Array:
    """Round x to 15 bits per 32 columns, multiply by tiles in exact integers, add groups in one order."""
    return products((weight,), x)[0]


def products(weights: tuple[Array | QTensor, ...], x: Array) -> tuple[Array, ...]:
    """As `product`, for weights that share x: it is rounded once, and the threads meet once.

    A prompt on a processor with a matrix unit goes through it, in bfloat16 with float32 sums: see linear_bf16.h.
    """
    plan = native_plan()
    for weight in weights:
        if not isinstance(weight, QTensor) or weight.form != "tiles":
            raise Unsupported("linear.cc serves weights in tiles; this one is not")
        if x.shape[-1] != weight.shape[1]:
            raise Unsupported("shapes do not fit; the meaning says how")
        if weight.index is not weights[0].index:
            raise Unsupported("linear.cc serves weights of one layer")
    if x.dtype != jnp.float32:
        raise Unsupported(f"linear.cc serves float32 activations, not {x.dtype}")
    results = [jax.ShapeDtypeStruct((*x.shape[:-1], weight.shape[0]), jnp.float32) for weight in weights]
    call = jax.ffi.ffi_call(native.target("soberano_linear_ffi"), results, vmap_method="sequential")
    kinds = np.array([weight.layout.kind for weight in weights], np.int32)
    index = jnp.int32(0) if weights[0].index is None else jnp.asarray(weights[0].index, jnp.int32)

    bf16 = np.bool_(plan is not None and plan.isa == "amx" and plan.role == "prompt")

    def kernel(x: Array, index: Array, *data: Array) -> tuple[Array, ...]:
        return tuple(call(x, index, *data, kinds=kinds, bf16=bf16))

    return with_gradient_of(partial(_meaning, weights), kernel)(x, index, *(weight.data for weight in weights))


def _meaning(weights: tuple[QTensor, ...], x: Array, index: Array, *data: Array) -> tuple[Array, ...]:
    here = [
        QTensor(d, None if w.index is None else index, w.shape, w.format, w.form)
        for w, d in zip(weights, data, strict=True)
    ]
    return linear.products.meaning(tuple(here), x)
