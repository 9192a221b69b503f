"""Kernel of soberano/ops/pool.py for JAX on a CPU. Source: pool.cc."""

from functools import partial

import jax
import jax.numpy as jnp

from soberano.backends import native
from soberano.backends.jax_ import native_plan, with_gradient_of
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.ops import pool as meaning


def pool(x: Array, lengths: Array, *, how: meaning.Pooling) -> Array:
    """Add the tokens of a text in one order, so that the padding of its batch changes no bit."""
    native_plan()
    if how != "mean" or x.dtype != jnp.float32 or x.ndim != 3 or lengths.shape != x.shape[:1]:
        raise Unsupported("pool.cc serves the mean of float32 vectors; any other pooling adds nothing up")
    result = jax.ShapeDtypeStruct((x.shape[0], x.shape[2]), jnp.float32)
    call = jax.ffi.ffi_call(native.target("soberano_mean_ffi"), result, vmap_method="sequential")
    return with_gradient_of(partial(meaning.pool.meaning, how="mean"), call)(x, lengths)
