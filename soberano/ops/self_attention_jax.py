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
from soberano.ops.rope import Pairing, Rotation

_EVERYTHING = np.int32(2**31 - 1)  # a window that hides nothing


def self_attention(
    q: Array,
    k: Array,
    v: Array,
    lengths: Array,
    *,
    scale: float | None = None,
    rotation: Rotation | None = None,
    pairing: Pairing = "interleaved",
    window: Array | int | None = None,
    slopes: Array | None = None,
) -> Array:
    """In float32, each row in one fixed order, so that neither its batch nor its padding changes a text."""
    native_plan()
    meaning.check(q, k, v, lengths, rotation, pairing, slopes)
    width = q.shape[3]
    cos, sin = rotation or (jnp.zeros((1, q.shape[1], 0), jnp.float32),) * 2  # no pairs: nothing is turned
    slopes = jnp.zeros(q.shape[2], jnp.float32) if slopes is None else slopes
    floats = (q, k, v, cos, sin, slopes)
    if any(x.dtype != jnp.float32 for x in floats):
        raise Unsupported("self_attention.cc serves float32 queries, keys, values, angles and slopes")
    if not kernel_serves(width):
        raise Unsupported(f"self_attention.cc serves heads of 16..512 by 16, not {width}")
    scale = width**-0.5 if scale is None else scale
    call = jax.ffi.ffi_call(
        native.target("soberano_self_attention_ffi"), jax.ShapeDtypeStruct(q.shape, q.dtype), vmap_method="sequential"
    )

    def composed(*arrays: Array) -> Array:
        q, k, v, cos, sin, slopes, lengths, window = arrays
        how = {"scale": scale, "rotation": Rotation(cos, sin), "pairing": pairing, "window": window, "slopes": slopes}
        return meaning.self_attention.meaning(q, k, v, lengths, **how)

    fast = with_gradient_of(composed, partial(call, scale=np.float32(scale), halves=pairing == "halves"))
    return fast(*floats, lengths, jnp.asarray(_EVERYTHING if window is None else window, jnp.int32))
