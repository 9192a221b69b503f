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


def self_attention(
    q: Array,
    k: Array,
    v: Array,
    lengths: Array,
    biases: tuple[Array, Array, Array] | None = None,
    *,
    scale: float | None = None,
) -> Array:
    """In float32, each row in one fixed order, so that neither its batch nor its padding changes a text."""
    native_plan()
    meaning.check(q, k, v, lengths)
    width = q.shape[3]
    sizes = [each.shape[2] * width for each in (q, k, v)]
    if biases is None:
        biases = tuple(jnp.zeros(size, jnp.float32) for size in sizes)  # type: ignore[assignment]
    assert biases is not None
    if any(x.dtype != jnp.float32 for x in (q, k, v, *biases)):
        raise Unsupported("self_attention.cc serves float32 queries, keys, values and biases")
    if not kernel_serves(width):
        raise Unsupported(f"self_attention.cc serves heads of 16..512 by 16, not {width}")
    if [bias.size for bias in biases] != sizes:
        raise Unsupported("shapes do not fit; the meaning says how")
    scale = width**-0.5 if scale is None else scale
    call = jax.ffi.ffi_call(
        native.target("soberano_self_attention_ffi"), jax.ShapeDtypeStruct(q.shape, q.dtype), vmap_method="sequential"
    )

    def composed(q: Array, k: Array, v: Array, q_bias: Array, k_bias: Array, v_bias: Array, lengths: Array) -> Array:
        return meaning.self_attention.meaning(q, k, v, lengths, (q_bias, k_bias, v_bias), scale=scale)

    return with_gradient_of(composed, partial(call, scale=np.float32(scale)))(q, k, v, *biases, lengths)
