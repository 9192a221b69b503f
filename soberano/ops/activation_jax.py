"""Kernel of soberano/ops/activation.py for JAX on a CPU. Source: activation.cc."""

import jax
import jax.numpy as jnp
import numpy as np

from soberano.backends import native
from soberano.backends.jax_ import native_plan, with_gradient_of
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.ops import activation as meaning


def gelu(x: Array, bias: Array | None = None, *, form: meaning.Form = "tanh") -> Array:
    """Read and write each number once."""
    native_plan()
    if x.ndim == 0 or x.dtype != jnp.float32 or form not in ("erf", "tanh"):
        raise Unsupported("activation.cc serves float32 rows, and the forms erf and tanh")
    bias = jnp.zeros(x.shape[-1:], jnp.float32) if bias is None else bias
    if bias.dtype != jnp.float32 or bias.shape != x.shape[-1:]:
        raise Unsupported("activation.cc serves a float32 bias as wide as the rows")
    call = jax.ffi.ffi_call(
        native.target("soberano_gelu_ffi"), jax.ShapeDtypeStruct(x.shape, x.dtype), vmap_method="sequential"
    )

    def composed(x: Array, bias: Array) -> Array:
        return meaning.gelu.meaning(x, bias, form=form)

    return with_gradient_of(composed, lambda x, bias: call(x, bias, erf=np.bool_(form == "erf")))(x, bias)
