"""Kernels of soberano/ops/low_rank.py for JAX on a CPU with a matrix unit. Source: low_rank.cc."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from soberano.backends import native
from soberano.backends.jax_ import native_plan, with_gradient
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.ops import low_rank as meaning
from soberano.ops.low_rank import Pairs


def low_ranks(x: Array, pairs: Pairs, onto: tuple[Array, ...], *, scales: tuple[float, ...]) -> tuple[Array, ...]:
    """A few tokens at a time, so that what lies between the two products never leaves the cache."""
    _check(x, pairs, onto)
    halves, count = [half for pair in pairs for half in pair], len(pairs)
    results = [jax.ShapeDtypeStruct(y.shape, jnp.float32) for y in onto]
    call = jax.ffi.ffi_call(
        native.target("soberano_low_ranks_ffi"),
        results,
        vmap_method="sequential",
        input_output_aliases={1 + 2 * count + k: k for k in range(count)},  # what is added to becomes the result
    )

    def kernel(*arrays: Array) -> tuple[Array, ...]:
        return tuple(call(*arrays, scales=np.array(scales, np.float32)))

    def backward(arrays: tuple[Array, ...], grads: tuple[Array, ...]) -> tuple[Any, ...]:
        dx, slopes = meaning.low_ranks_back(grads, arrays[0], _paired(arrays[1 : 1 + 2 * count]), scales=scales)
        return (dx, *(half for pair in slopes for half in pair), *grads)

    return with_gradient(backward, kernel)(x, *halves, *onto)


def low_ranks_back(
    grads: tuple[Array, ...], x: Array, pairs: Pairs, *, scales: tuple[float, ...]
) -> tuple[Array, Pairs]:
    """Twice over the tokens: once for the gradient of x, once for those of the pairs, which are sums over tokens."""
    _check(x, pairs, grads)
    halves = [half for pair in pairs for half in pair]
    results = [jax.ShapeDtypeStruct(each.shape, jnp.float32) for each in (x, *halves)]
    call = jax.ffi.ffi_call(native.target("soberano_low_ranks_back_ffi"), results, vmap_method="sequential")
    dx, *slopes = call(x, *halves, *grads, scales=np.array(scales, np.float32))
    return dx, _paired(slopes)


def _check(x: Array, pairs: Pairs, ys: tuple[Array, ...]) -> None:
    plan = native_plan()
    if plan is None or plan.isa != "amx" or plan.role != "prompt":
        raise Unsupported("low_rank.cc serves the tokens of a prompt on a processor with a matrix unit")
    if any(each.dtype != jnp.float32 for pair in (*pairs, (x, *ys)) for each in pair):
        raise Unsupported("low_rank.cc serves float32")
    if any(y.shape != (*x.shape[:-1], b.shape[0]) for y, (_, b) in zip(ys, pairs, strict=True)):
        raise Unsupported("shapes do not fit; the meaning says how")
    if any(a.shape[-1] != x.shape[-1] or a.shape[-1] % 32 or b.shape[0] % 32 for a, b in pairs):
        raise Unsupported("low_rank.cc serves widths that are multiples of 32")


def _paired(halves: Any) -> Pairs:
    return tuple(zip(halves[::2], halves[1::2], strict=True))
