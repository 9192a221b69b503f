"""Kernels of soberano/ops/norm.py for JAX on a CPU. Source: norm.cc."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from soberano.backends import native
from soberano.backends.jax_ import native_plan, with_gradient_of
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.ops import norm


def rms_norm(x: Array, weight: Array, *, eps: float) -> Array:
    """Each row in one fixed order of sums, so that it has the same bits in every batch."""
    native_plan()
    if x.dtype != jnp.float32 or weight.dtype != jnp.float32 or weight.shape != x.shape[-1:]:
        raise Unsupported("norm.cc serves float32 rows with a float32 weight of the same width")
    call = jax.ffi.ffi_call(
        native.target("soberano_rms_norm_ffi"), jax.ShapeDtypeStruct(x.shape, x.dtype), vmap_method="broadcast_all"
    )
    return with_gradient_of(partial(norm.rms_norm.meaning, eps=eps), partial(call, eps=np.float32(eps)))(x, weight)


def rms_norm_back(grad: Array, x: Array, weight: Array, *, eps: float) -> Array:
    """One pass over grad and x, sums in the order of `rms_norm`."""
    native_plan()
    if any(a.dtype != jnp.float32 for a in (grad, x, weight)) or grad.shape != x.shape or weight.shape != x.shape[-1:]:
        raise Unsupported("norm.cc serves float32 rows with a float32 weight of the same width")
    call = jax.ffi.ffi_call(
        native.target("soberano_rms_norm_back_ffi"), jax.ShapeDtypeStruct(x.shape, x.dtype), vmap_method="sequential"
    )
    fast = with_gradient_of(partial(norm.rms_norm_back.meaning, eps=eps), partial(call, eps=np.float32(eps)))
    return fast(grad, x, weight)


def add_layer_norm(x: Array, y: Array, weight: Array, bias: Array, *, eps: float) -> Array:
    """One pass over x and y; the norm has the bits of `layer_norm`."""
    native_plan()
    if x.shape != y.shape or any(a.shape != x.shape[-1:] for a in (weight, bias)):
        raise Unsupported("shapes do not fit; the meaning says how")
    arrays = (x, y, weight, bias)
    if any(a.dtype != jnp.float32 for a in arrays):
        raise Unsupported("norm.cc serves float32 rows, weights and biases")
    call = jax.ffi.ffi_call(
        native.target("soberano_add_layer_norm_ffi"), jax.ShapeDtypeStruct(x.shape, x.dtype), vmap_method="sequential"
    )
    return with_gradient_of(partial(norm.add_layer_norm.meaning, eps=eps), partial(call, eps=np.float32(eps)))(*arrays)


def layer_norm(x: Array, weight: Array, bias: Array | None, *, eps: float) -> Array:
    """Each row in one fixed order of sums, so that it has the same bits in every batch."""
    native_plan()
    bias = jnp.zeros(weight.shape, jnp.float32) if bias is None else bias  # to add 0 changes no bit
    if any(a.dtype != jnp.float32 for a in (x, weight, bias)) or not weight.shape == bias.shape == x.shape[-1:]:
        raise Unsupported("norm.cc serves float32 rows with a float32 weight and bias of the same width")
    call = jax.ffi.ffi_call(
        native.target("soberano_layer_norm_ffi"), jax.ShapeDtypeStruct(x.shape, x.dtype), vmap_method="sequential"
    )
    fast = with_gradient_of(partial(norm.layer_norm.meaning, eps=eps), partial(call, eps=np.float32(eps)))
    return fast(x, weight, bias)
