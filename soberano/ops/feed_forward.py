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
from soberano.ops.activation import clamped_swiglu, geglu, swiglu
from soberano.ops.linear import linear, linears
from soberano.quant.tensor import Weight

Activation = Literal["silu", "gelu", "gelu_erf", "clamped_swiglu"]

_UNITS: dict[str, Callable[..., Array]] = {
    "silu": swiglu,
    "gelu": geglu,
    "gelu_erf": partial(geglu, form="erf"),
    "clamped_swiglu": clamped_swiglu,
}


def gated_unit(name: str, activation: Activation) -> Callable[[Array, Array], Array]:
    """What makes one array of gate and up, for the op called `name`. Raises InputError for another activation."""
    if activation not in _UNITS:
        raise InputError(f"{name}: activation is {activation!r}; pass one of {', '.join(map(repr, _UNITS))}")
    return _UNITS[activation]


@op
def feed_forward(gate: Weight, up: Weight, down: Weight, x: Array, *, activation: Activation = "silu") -> Array:
    """Compute down(act(gate(x)) * up(x)): x (..., D) float32 -> (..., D) float32, weights of any kind.

    gate and up are (F, D), down (D, F). "gelu" is the tanh form, "gelu_erf" the exact one, "clamped_swiglu" gates as
    the op of that name. Raises InputError for another activation, ShapeError as `linear`. Source: Shazeer 2020, arXiv
    2002.05202.
    """
    return linear(down, gated_unit("feed_forward", activation)(*linears((gate, up), x)))
