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
    native_plan()
    if not isinstance(weight, QTensor) or weight.form != "tiles":
        raise Unsupported("linear.cc serves weights in tiles; this one is not")
    if x.dtype != jnp.float32:
        raise Unsupported(f"linear.cc serves float32 activations, not {x.dtype}")
    if x.shape[-1] != weight.shape[1]:
        raise Unsupported("shapes do not fit; the meaning says how")
    result = jax.ShapeDtypeStruct((*x.shape[:-1], weight.shape[0]), jnp.float32)
    call = jax.ffi.ffi_call(native.target("soberano_linear_ffi"), result, vmap_method="sequential")
    index = jnp.int32(0) if weight.index is None else jnp.asarray(weight.index, jnp.int32)
    kernel = partial(_call, call, np.int32(weight.layout.kind))
    meaning = partial(_meaning, weight)
    return with_gradient_of(meaning, kernel)(x, weight.data, index)


def _call(call: object, kind: np.int32, x: Array, data: Array, index: Array) -> Array:
    return call(x, data, index, kind=kind)  # type: ignore[operator]


def _meaning(weight: QTensor, x: Array, data: Array, index: Array) -> Array:
    view = QTensor(data, None if weight.index is None else index, weight.shape, weight.format, weight.form)
    return linear.product.meaning(view, x)
