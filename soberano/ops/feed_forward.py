"""The feed-forward layer of a transformer, whole: up, an activation, perhaps a gate, and down again.

One op, because together its parts are cheaper: what lies between them is several times as wide as the model, and a
kernel need not bring it to memory.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

from soberano.backends.dispatch import op
from soberano.core.errors import InputError
from soberano.core.types import Array
from soberano.ops.activation import clamped_swiglu, geglu, gelu, silu, swiglu
from soberano.ops.linear import Biases, linear, linears
from soberano.quant.tensor import Weight

Activation = Literal["silu", "gelu", "gelu_erf", "clamped_swiglu"]
"""gelu is the tanh form, gelu_erf the exact one; clamped_swiglu, the op of that name, needs a gate."""

_UNITS: dict[str, Callable[..., Array]] = {
    "silu": swiglu,
    "gelu": geglu,
    "gelu_erf": partial(geglu, form="erf"),
    "clamped_swiglu": clamped_swiglu,
}
_ALONE: dict[str, Callable[..., Array]] = {"silu": silu, "gelu": gelu, "gelu_erf": partial(gelu, form="erf")}


def gated_unit(name: str, activation: Activation) -> Callable[[Array, Array], Array]:
    """What makes one array of gate and up, for the op called `name`. Raises InputError for another activation."""
    return _known(_UNITS, name, activation)


def _known(units: dict[str, Callable[..., Array]], name: str, activation: Activation) -> Callable[..., Array]:
    if activation not in units:
        raise InputError(f"{name}: activation is {activation!r}; pass one of {', '.join(map(repr, units))}")
    return units[activation]


@op
def feed_forward(
    gate: Weight | None,
    up: Weight,
    down: Weight,
    x: Array,
    biases: Biases = (None, None, None),
    *,
    activation: Activation = "silu",
) -> Array:
    """Compute down(act(gate(x)) * up(x)), or down(act(up(x))) without a gate: x (..., D) float32 -> (..., D) float32.

    Weights of any kind: gate and up are (F, D), down (D, F). `biases` are those of gate, up and down, where they have
    one. Raises InputError for another activation, ShapeError as `linear`. Source: Shazeer 2020, arXiv 2002.05202.
    """
    if gate is None:
        return linear(down, _known(_ALONE, "feed_forward", activation)(linear(up, x, biases[1])), biases[2])
    return linear(down, gated_unit("feed_forward", activation)(*linears((gate, up), x, biases[:2])), biases[2])
