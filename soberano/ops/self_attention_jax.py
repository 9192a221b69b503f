"""Kernel of soberano/ops/self_attention.py for JAX on a CPU. Source: self_attention.cc."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from soberano.backends import native
from soberano.backends.jax_ import native_plan, with_gradient_of
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.ops import self_attention as meaning
from soberano.ops.attention import kernel_serves


def self_attention(q: Array, k: Array, v: Array, lengths: Array, *, scale: float | None = None) -> Array:
    """In float32, each row in one fixed order, so that neither its batch nor its padding changes a text."""
    native_plan()
    meaning.check(q, k, v, lengths)
    width = q.shape[3]
    if any(x.dtype != jnp.float32 for x in (q, k, v)):
        raise Unsupported("self_attention.cc serves float32 queries, keys and values")
    if not kernel_serves(width):
        raise Unsupported(f"self_attention.cc serves heads of 16..512 by 16, not {width}")
    scale = width**-0.5 if scale is None else scale
    call = jax.ffi.ffi_call(
        native.target("soberano_self_attention_ffi"), jax.ShapeDtypeStruct(q.shape, q.dtype), vmap_method="sequential"
    )

    composed = partial(meaning.self_attention.meaning, scale=scale)
    return with_gradient_of(composed, partial(call, scale=np.float32(scale)))(q, k, v, lengths)
