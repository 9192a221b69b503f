"""Kernels of soberano/ops/attention.py for JAX on a CPU with a float16 cache. Source: attention.cc."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from soberano.backends import native
from soberano.backends.jax_ import native_plan, with_gradient_of
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.ops import attention as meaning


def _check(k_pages: Array, v_pages: Array, *floats: Array) -> None:
    native_plan()
    width, page = v_pages.shape[4], v_pages.shape[3]
    if v_pages.dtype != jnp.float16 or k_pages.dtype != jnp.float16:
        raise Unsupported(f"attention.cc serves a float16 cache, not {v_pages.dtype}")
    if any(x.dtype != jnp.float32 for x in floats):
        raise Unsupported("attention.cc serves float32 queries, keys and values")
    if width % 16 or width > 512 or page not in (16, 32, 64, 128):
        raise Unsupported(f"attention.cc serves heads of 16..512 by 16 and pages of 16..128, not {width} and {page}")


def write_kv(
    k_pages: Array, v_pages: Array, k: Array, v: Array, positions: Array, table: Array, layer: Array | int
) -> tuple[Array, Array]:
    """Write in place: the results alias the arguments."""
    _check(k_pages, v_pages, k, v)
    out = (jax.ShapeDtypeStruct(k_pages.shape, k_pages.dtype), jax.ShapeDtypeStruct(v_pages.shape, v_pages.dtype))
    call = jax.ffi.ffi_call(
        native.target("soberano_write_kv_ffi"), out, input_output_aliases={0: 0, 1: 1}, vmap_method="sequential"
    )
    fast = with_gradient_of(meaning.write_kv.meaning, lambda *arrays: tuple(call(*arrays)))
    return fast(k_pages, v_pages, k, v, positions, table, jnp.asarray(layer, jnp.int32))


def attention(
    q: Array,
    k_pages: Array,
    v_pages: Array,
    positions: Array,
    table: Array,
    layer: Array | int,
    *,
    scale: float | None = None,
) -> Array:
    """Row by row in one fixed order, so that a token's result does not depend on its batch."""
    _check(k_pages, v_pages, q)
    call = jax.ffi.ffi_call(
        native.target("soberano_attention_ffi"), jax.ShapeDtypeStruct(q.shape, jnp.float32), vmap_method="sequential"
    )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    fast = with_gradient_of(partial(meaning.attention.meaning, scale=scale), partial(call, scale=np.float32(scale)))
    return fast(q, k_pages, v_pages, positions, table, jnp.asarray(layer, jnp.int32))
