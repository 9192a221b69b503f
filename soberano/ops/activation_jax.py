"""Kernels of soberano/ops/activation.py for JAX on a CPU. Source: activation.cc."""

from typing import Any

import jax
import jax.numpy as jnp

from soberano.backends import native
from soberano.backends.jax_ import native_plan, with_gradient, with_gradient_of
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.ops import activation as meaning


def swiglu(gate: Array, up: Array) -> Array:
    """Read and write each number once."""
    _check(gate, up)
    call = _call("soberano_swiglu_ffi", jax.ShapeDtypeStruct(gate.shape, gate.dtype))

    def backward(arrays: tuple[Array, ...], grad: Array) -> tuple[Any, ...]:
        return meaning.swiglu_back(grad, *arrays)

    return with_gradient(backward, lambda gate, up: call(gate, up))(gate, up)


def swiglu_back(grad: Array, gate: Array, up: Array) -> tuple[Array, Array]:
    """Read and write each number once."""
    _check(grad, gate, up)
    call = _call("soberano_swiglu_back_ffi", [jax.ShapeDtypeStruct(gate.shape, gate.dtype)] * 2)
    kernel = with_gradient_of(meaning.swiglu_back.meaning, lambda *arrays: tuple(call(*arrays)))
    return kernel(grad, gate, up)


def _check(*arrays: Array) -> None:
    native_plan()
    if any(each.dtype != jnp.float32 or each.shape != arrays[0].shape for each in arrays):
        raise Unsupported("activation.cc serves float32 arrays of one shape")


def _call(name: str, results: Any) -> Any:
    return jax.ffi.ffi_call(native.target(name), results, vmap_method="broadcast_all")
