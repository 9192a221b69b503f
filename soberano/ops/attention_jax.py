"""Kernels of soberano/ops/attention.py for JAX on a CPU. Source: attention.cc."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soberano.backends import native
from soberano.backends.jax_ import native_plan, with_gradient_of
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.ops import attention as meaning
from soberano.ops import pages
from soberano.ops.rope import Pairing, Rotation, check_rotation

_PAGES = (16, 32, 64, 128)


def _check(k_pages: Array, v_pages: Array, *floats: Array | None) -> bool:
    """Refuse what attention.cc does not serve; whether the matrix unit computes: for prompts, where there is one."""
    plan = native_plan()
    width, page = v_pages.shape[4], k_pages.shape[4]
    if k_pages.dtype not in pages.TYPES.values() or v_pages.dtype != k_pages.dtype:
        raise Unsupported(f"attention.cc serves the caches {', '.join(pages.TYPES)}, not {v_pages.dtype}")
    if any(x.dtype != jnp.float32 for x in floats if x is not None):
        raise Unsupported("attention.cc serves float32 queries, keys, values, angles and sinks")
    if not meaning.kernel_serves(width) or page not in _PAGES:
        raise Unsupported(f"attention.cc serves heads of 16..512 by 16 and pages of 16..128, not {width} and {page}")
    return plan is not None and plan.role == "prompt" and plan.isa == "amx" and width % 32 == 0


def _scale(scale: float | None, q: Array) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


def _rules(window: Array | None, sinks: Array | None) -> tuple[Array, Array]:
    """Window and sinks as attention.cc takes them: 0, and an empty array, where there are none."""
    none = jnp.zeros(0, jnp.float32)
    return jnp.asarray(0 if window is None else window, jnp.int32), none if sinks is None else sinks


def _like(*arrays: Array) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays)


def write_kv(
    k_pages: Array, v_pages: Array, k: Array, v: Array, positions: Array, table: Array, layer: Array | int
) -> tuple[Array, Array]:
    """Write in place: the results alias the arguments."""
    _check(k_pages, v_pages, k, v)
    meaning.check_new(k, v, v_pages)
    call = jax.ffi.ffi_call(
        native.target("soberano_write_kv_ffi"),
        _like(k_pages, v_pages),
        input_output_aliases={0: 0, 1: 1},
        vmap_method="sequential",
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
    window: Array | int | None = None,
    cap: float | None = None,
    sinks: Array | None = None,
) -> Array:
    """Row by row in one fixed order, so that a token's result does not depend on its batch."""
    bf16 = _check(k_pages, v_pages, q, sinks)
    meaning.check_queries(q, v_pages)
    meaning.check_rules(q, window, cap, sinks)
    scale = _scale(scale, q)
    call = jax.ffi.ffi_call(native.target("soberano_attention_ffi"), _like(q)[0], vmap_method="sequential")

    def kernel(*arrays: Any) -> Array:
        *rest, window, sinks = arrays
        return call(*rest, *_rules(window, sinks), scale=np.float32(scale), cap=np.float32(cap or 0), bf16=bf16)

    def composed(*arrays: Any) -> Array:
        *rest, window, sinks = arrays
        return meaning.attention.meaning(*rest, scale=scale, window=window, cap=cap, sinks=sinks)

    fast = with_gradient_of(composed, kernel)
    return fast(q, k_pages, v_pages, positions, table, jnp.asarray(layer, jnp.int32), window, sinks)


def attend(
    q: Array,
    k: Array,
    v: Array,
    rotation: Rotation,
    k_pages: Array,
    v_pages: Array,
    positions: Array,
    table: Array,
    layer: Array | int,
    *,
    pairing: Pairing = "interleaved",
    scale: float | None = None,
    window: Array | int | None = None,
    cap: float | None = None,
    sinks: Array | None = None,
) -> tuple[Array, Array, Array]:
    """One call for the three: the pages are written in place, and rows have the bits of `attention`."""
    bf16 = _check(k_pages, v_pages, q, k, v, *rotation, sinks)
    for x in (q, k):
        check_rotation(x, rotation, pairing)
    meaning.check_new(k, v, v_pages)
    meaning.check_queries(q, v_pages)
    meaning.check_rules(q, window, cap, sinks)
    scale = _scale(scale, q)
    call = jax.ffi.ffi_call(
        native.target("soberano_attend_ffi"),
        _like(q, k_pages, v_pages),
        input_output_aliases={5: 1, 6: 2},
        vmap_method="sequential",
    )
    halves = pairing == "halves"

    def kernel(*arrays: Any) -> tuple[Any, ...]:
        *rest, window, sinks = arrays
        rules = _rules(window, sinks)
        return tuple(call(*rest, *rules, scale=np.float32(scale), cap=np.float32(cap or 0), halves=halves, bf16=bf16))

    def composed(q: Array, k: Array, v: Array, cos: Array, sin: Array, *arrays: Any) -> tuple[Array, Array, Array]:
        *rest, window, sinks = arrays
        return meaning.attend.meaning(
            q, k, v, Rotation(cos, sin), *rest, pairing=pairing, scale=scale, window=window, cap=cap, sinks=sinks
        )

    fast = with_gradient_of(composed, kernel)
    return fast(q, k, v, *rotation, k_pages, v_pages, positions, table, jnp.asarray(layer, jnp.int32), window, sinks)
