"""Kernel of soberano/ops/self_attention.py for JAX on a CPU: that of attention.cc, over pages that last for one call.

A query of a causal cache sees what stands at or before its position; where every query stands at the end of its text,
it sees all of it. Keys and values are float16 in the pages, as in the cache of a decoder.
"""

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

PAGE = 16


def self_attention(q: Array, k: Array, v: Array, lengths: Array, *, scale: float | None = None) -> Array:
    """Row by row in one fixed order, so that neither its batch nor its padding changes a text."""
    plan = native_plan()
    meaning.check(q, k, v, lengths)
    width = q.shape[3]
    if any(x.dtype != jnp.float32 for x in (q, k, v)):
        raise Unsupported("attention.cc serves float32 queries, keys and values")
    if not kernel_serves(width):
        raise Unsupported(f"attention.cc serves heads of 16..512 by 16, not {width}")
    scale = width**-0.5 if scale is None else scale
    bf16 = plan is not None and plan.role == "prompt" and plan.isa == "amx" and width % 32 == 0

    def kernel(q: Array, k: Array, v: Array, lengths: Array) -> Array:
        batch, tokens = q.shape[:2]
        pages = -(-tokens // PAGE)
        keys, values = (_pages(x, pages) for x in (k, v))  # (1, B * pages, K, page, E)
        last = jnp.where(jnp.arange(tokens) < lengths[:, None], lengths[:, None] - 1, -1)  # (B, T)
        table = jnp.arange(batch * pages, dtype=jnp.int32).reshape(batch, pages)
        call = jax.ffi.ffi_call(
            native.target("soberano_attention_ffi"), jax.ShapeDtypeStruct(q.shape, q.dtype), vmap_method="sequential"
        )
        where = (last.astype(jnp.int32), table, jnp.int32(0))
        return call(q, keys.swapaxes(-1, -2), values, *where, scale=np.float32(scale), bf16=np.bool_(bf16))

    return with_gradient_of(partial(meaning.self_attention.meaning, scale=scale), kernel)(q, k, v, lengths)


def _pages(x: Array, pages: int) -> Array:
    """Keys or values (B, T, K, E) as pages of one layer (1, B * pages, K, page, E) float16."""
    batch, tokens, heads, width = x.shape
    padded = jnp.pad(x.astype(jnp.float16), ((0, 0), (0, pages * PAGE - tokens), (0, 0), (0, 0)))
    return padded.reshape(1, batch * pages, PAGE, heads, width).swapaxes(2, 3)
