"""Kernels of soberano/ops/linear.py for JAX on a CPU: products with tiles. Source: linear.cc."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from soberano.backends import native
from soberano.backends.jax_ import native_plan, with_gradient
from soberano.backends.plan import Plan
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.ops.linear import Biases
from soberano.ops.linear_transposed import linears_transposed
from soberano.quant.tensor import Choice, Frozen, QTensor


def products(weights: tuple[Frozen, ...], x: Array, biases: Biases | None = None) -> tuple[Array, ...]:
    """Round x to 15 bits per 32 columns once, multiply by tiles in exact integers, add groups in one order.

    A prompt on a processor with a matrix unit goes through it, in bfloat16 with float32 sums: see linear_bf16.h.
    """
    packed = Packed.of(weights, biases)
    check_input(weights, x)
    results = [jax.ShapeDtypeStruct((*x.shape[:-1], weight.shape[0]), jnp.float32) for weight in weights]
    call = jax.ffi.ffi_call(native.target("soberano_linear_ffi"), results, vmap_method="sequential")

    def kernel(*arrays: Array) -> tuple[Array, ...]:
        return tuple(call(*arrays, **packed.attributes))

    def backward(arrays: tuple[Array, ...], grads: tuple[Array, ...]) -> tuple[Any, ...]:
        here, kept = packed.unpack(arrays[1:])
        sums = [g.reshape(-1, g.shape[-1]).sum(0) for g, bias in zip(grads, kept, strict=True) if bias is not None]
        return (linears_transposed(here, *grads), *[None] * (len(arrays) - 1 - len(sums)), *sums)

    return with_gradient(backward, kernel)(x, *packed.arrays)


def check_input(weights: tuple[Frozen, ...], x: Array) -> None:
    """Raise Unsupported, with the reason, unless kernels serve activations x for these weights."""
    if x.dtype != jnp.float32:
        raise Unsupported(f"linear.cc serves float32 activations, not {x.dtype}")
    if any(weight.shape[-1] != x.shape[-1] for weight in weights):
        raise Unsupported("shapes do not fit; the meaning says how")


class Packed(NamedTuple):
    """Weights as native kernels are given them: see soberano/ops/linear_weight.h."""

    like: tuple[Frozen, ...]
    biases: Biases
    arrays: tuple[Array, ...]  # the layer, then the tables and tiles of each weight, then the biases that there are
    attributes: dict[str, Any]

    @classmethod
    def of(cls, weights: tuple[Frozen, ...], biases: Biases | None = None) -> "Packed":
        """Check that kernels serve these weights; raise Unsupported, with the reason, if not."""
        plan, biases = native_plan(), biases or (None,) * len(weights)
        members = [weight.members if isinstance(weight, Choice) else (weight,) for weight in weights]
        for member in (m for each in members for m in each):
            if not isinstance(member, QTensor) or member.form != "tiles":
                raise Unsupported("linear.cc serves weights in tiles; this one is not")
        layers = {id(index): index for index in (getattr(weight, "index", None) for weight in weights)}
        if len(layers) > 1:
            raise Unsupported("linear.cc serves weights of one layer")
        (layer,) = layers.values()
        arrays = [jnp.int32(0) if layer is None else jnp.asarray(layer, jnp.int32)]
        for weight, stacks in zip(weights, members, strict=True):
            arrays += [weight.tag, weight.slot] if isinstance(weight, Choice) else []
            arrays += [stack.data for stack in stacks]
        for weight, bias in zip(weights, biases, strict=True):
            if bias is not None and (bias.dtype != jnp.float32 or bias.shape != (weight.shape[0],)):
                raise Unsupported("linear.cc serves a float32 bias with a number for each output")
        return cls(
            weights,
            biases,
            (*arrays, *(bias for bias in biases if bias is not None)),
            {
                "members": np.array([len(w.members) if isinstance(w, Choice) else 0 for w in weights], np.int32),
                "kinds": np.array([m.layout.kind for each in members for m in each], np.int32),
                "outputs": np.array([weight.shape[0] for weight in weights], np.int64),
                "biased": np.array([bias is not None for bias in biases], np.int32),
                "arithmetic": np.int32(_arithmetic(plan)),
            },
        )

    def unpack(self, arrays: tuple[Array, ...]) -> tuple[tuple[Frozen, ...], Biases]:
        """Weights and biases as those that were packed, but of other `arrays`: tracers of them, say."""
        layer, *left = arrays
        here = list[Frozen]()
        for weight in self.like:
            if isinstance(weight, Choice):
                tag, slot = left.pop(0), left.pop(0)
                members = tuple(_with_data(member, left.pop(0)) for member in weight.members)
                here.append(Choice(members, tag, slot, layer))
            else:
                view = _with_data(weight, left.pop(0))
                here.append(view if weight.index is None else view.at(layer))
        return tuple(here), tuple(None if bias is None else left.pop(0) for bias in self.biases)

    def meaning(self, meaning: Callable[..., Any]) -> Callable[..., Any]:
        """`meaning(weights, biases, x)` as a function of x and `arrays`, for gradients."""
        return lambda x, *arrays: meaning(*self.unpack(arrays), x)


def _arithmetic(plan: Plan | None) -> int:
    """An Arithmetic of linear_weight.h: 0 for integers, 1 for bfloat16, 2 for float32."""
    if plan is None:
        return 0
    return 2 if plan.exact else 1 if plan.isa == "amx" and plan.role == "prompt" else 0


def _with_data(weight: QTensor, data: Array) -> QTensor:
    return QTensor(data, None, weight.shape, weight.format, weight.form)
