"""Kernels of soberano/ops/causal_attention.py for JAX on a CPU. Source: causal_attention.cc."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soberano.backends import native
from soberano.backends.jax_ import native_plan, with_gradient
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.ops import causal_attention as meaning
from soberano.ops.attention import kernel_serves


def causal_attention(
    q: Array,
    k: Array,
    v: Array,
    segments: Array,
    window: Array | int | None = None,
    sinks: Array | None = None,
    *,
    scale: float | None = None,
    cap: float | None = None,
) -> Array:
    """In float32, each row in one fixed order, so that no company in a batch changes a text."""
    arrays, how = _arguments(q, k, v, segments, window, sinks, scale, cap)
    call = _call("soberano_causal_attention_ffi", jax.ShapeDtypeStruct(q.shape, jnp.float32))

    def kernel(*arrays: Array) -> Array:
        return call(*arrays, **how)

    def backward(arrays: tuple[Array, ...], grad: Array) -> tuple[Any, ...]:
        q, k, v, sinks, segments, window = arrays
        result = kernel(*arrays)
        grads = causal_attention_back(grad, result, q, k, v, segments, window, sinks, scale=scale, cap=cap)
        return (*grads, None, None, None)

    return with_gradient(backward, kernel)(*arrays)


def causal_attention_back(
    grad: Array,
    result: Array,
    q: Array,
    k: Array,
    v: Array,
    segments: Array,
    window: Array | int | None = None,
    sinks: Array | None = None,
    *,
    scale: float | None = None,
    cap: float | None = None,
) -> tuple[Array, Array, Array]:
    """In float32; parts of the tokens are added up in one fixed order, whatever the number of threads."""
    arrays, how = _arguments(q, k, v, segments, window, sinks, scale, cap)
    results = [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in (q, k, v)]
    dq, dk, dv = _call("soberano_causal_attention_back_ffi", results)(grad, result, *arrays, **how)
    return dq, dk, dv


def _call(symbol: str, results: Any) -> Any:
    return jax.ffi.ffi_call(native.target(symbol), results, vmap_method="sequential")


def _arguments(
    q: Array,
    k: Array,
    v: Array,
    segments: Array,
    window: Array | int | None,
    sinks: Array | None,
    scale: float | None,
    cap: float | None,
) -> tuple[tuple[Array, ...], dict[str, Any]]:
    """What the kernel takes. Raises Unsupported, with the reason, for what it does not serve."""
    plan = native_plan()
    meaning.check(q, k, v)
    heads, width = q.shape[2:]
    sinks = jnp.full(heads, -jnp.inf, jnp.float32) if sinks is None else sinks
    if any(x.dtype != jnp.float32 for x in (q, k, v, sinks)):
        raise Unsupported("causal_attention.cc serves float32 queries, keys, values and sinks")
    if not kernel_serves(width):
        raise Unsupported(f"causal_attention.cc serves heads of 16..512 by 16, not {width}")
    if sinks.shape != (heads,) or segments.shape != q.shape[:2]:
        raise Unsupported("shapes do not fit; the meaning says how")
    bf16 = plan is not None and plan.isa == "amx" and plan.role == "prompt" and width % 32 == 0
    numbers = {
        "scale": np.float32(width**-0.5 if scale is None else scale),
        "cap": np.float32(cap or 0),
        "bf16": np.bool_(bf16),
    }
    whole = jnp.asarray(0 if window is None else window, jnp.int32)
    return (q, k, v, sinks, segments, whole), numbers
