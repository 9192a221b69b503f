"""The gated feed-forward layer of a transformer, whole: two products, a gate, and a product back.

One op, because together its parts are cheaper: what lies between them is three times as wide as the model, and a kernel
need not bring it to memory.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

from soberano.backends.dispatch import op
from soberano.core.errors import InputError
from soberano.core.types import Array
from soberano.ops.activation import geglu, swiglu
from soberano.ops.linear import linear, linears
from soberano.quant.tensor import Weight

Activation = Literal["silu", "gelu", "gelu_erf"]


@op
def feed_forward(gate: Weight, up: Weight, down: Weight, x: Array, *, activation: Activation = "silu") -> Array:
    """Compute down(act(gate(x)) * up(x)): x (..., D) float32 -> (..., D) float32, weights of any kind.

    gate and up are (F, D), down (D, F). "gelu" is the tanh form, "gelu_erf" the exact one. Raises InputError for
    another activation, ShapeError as `linear`. Source: Shazeer 2020, arXiv 2002.05202.
    """
    gates: dict[str, Callable[..., Array]] = {"silu": swiglu, "gelu": geglu, "gelu_erf": partial(geglu, form="erf")}
    if activation not in gates:
        raise InputError(f"feed_forward: activation is {activation!r}; pass one of {', '.join(map(repr, gates))}")
    return linear(down, gates[activation](*linears((gate, up), x)))
