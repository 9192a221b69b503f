"""top_k for JAX: XLA has one, and its CPU version is a hundred times faster than a sort of a vocabulary."""

import jax.numpy as jnp
from jax import lax

from soberano.core.errors import Unsupported
from soberano.core.types import Array


def top_k(x: Array, k: int) -> tuple[Array, Array]:
    """The kernel of soberano.ops.topk.top_k."""
    if x.ndim == 0 or not 1 <= k <= x.shape[-1]:
        raise Unsupported(f"k {k} of x {x.shape} is an error, which the meaning explains")
    found = lax.top_k(jnp.where(x == 0, 0, x).astype(x.dtype), k)  # to XLA, -0.0 is below 0.0
    # Without the barrier XLA (jaxlib 0.10) folds a slice of the result into the top-k, and sorts: 16 ms, not 0.2.
    values, indices = lax.optimization_barrier(found)
    return values, indices.astype(jnp.int32)
