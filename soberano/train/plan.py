"""What a training step will take of memory, told before the first one is compiled.

A compiled step holds the weights, the adapters and their gradient, what each layer was given (the rest of a layer is
computed again), and then, never at the same time, the inside of one layer on its way back or the logits of a few
tokens. The numbers of a layer's inside are counts of arrays that are alive together, with our kernels and without;
tests/train/test_plan.py holds the sum to what XLA says of the program itself.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from soberano.backends.tree import leaves
from soberano.core.errors import CapacityError
from soberano.core.units import bytes_text
from soberano.models.model import Model
from soberano.train.adapters import Shape
from soberano.train.loss import PART

FLOAT = 4  # bytes


class _Alive(NamedTuple):
    """Arrays of a layer that live at once on the way back, by their width."""

    width: float  # of the model
    keys: float  # of keys or values, all heads
    ffn: float
    scores: float  # of each query with all keys, for every head


NATIVE, COMPOSED = _Alive(7.2, 2.2, 5.0, 0.0), _Alive(14.5, 7.0, 12.0, 1.15)


@dataclass(frozen=True)
class Memory:
    """Bytes of a step, by what they are for."""

    weights: int
    adapters: int  # and their gradient
    inputs: int  # of every layer
    inside: int  # of one layer
    logits: int
    optimizer: int

    @property
    def program(self) -> int:
        """What the compiled step holds: what XLA would say."""
        return self.weights + self.adapters + self.inputs + max(self.inside, self.logits)

    @property
    def more(self) -> int:
        """What is taken beside the weights, which are there; with the optimizer's state, and what it makes of it."""
        return self.program - self.weights + self.optimizer

    def to_text(self, free: int) -> str:
        """In words."""
        return (
            f"memory of a step beside the weights' {bytes_text(self.weights)}: adapters and optimizer "
            f"{bytes_text(self.adapters + self.optimizer)}, activations {bytes_text(self.inputs + self.inside)}, "
            f"logits {bytes_text(self.logits)}, together at most {bytes_text(self.more)} of the {bytes_text(free)} "
            f"that are free"
        )


def memory_plan(model: Model, shape: Shape, rows: int, length: int) -> Memory:
    """What a step of `rows` rows of `length` tokens takes, where steps are compiled.

    Elsewhere a tape keeps the inside of every layer.
    """
    c, tokens = model.config, rows * length
    pairs = adapter_bytes(model.module, c, shape)
    alive = NATIVE if model.plan.native else COMPOSED
    inside = (
        alive.width * c.width + alive.keys * c.kv_heads * c.head + alive.ffn * c.ffn + alive.scores * c.heads * length
    )
    return Memory(
        weights=sum(array.nbytes for array in leaves(model.weights)),
        adapters=2 * pairs,
        inputs=FLOAT * tokens * c.width * c.layers,
        inside=int(FLOAT * tokens * inside) * (1 if model.home.compiles else c.layers),
        logits=FLOAT * (2 * min(PART, tokens) * c.vocabulary + 2 * tokens * c.width),
        optimizer=5 * pairs,  # two moments, and new ones with new adapters beside the old
    )


def adapter_bytes(module: Any, config: Any, shape: Shape) -> int:
    """The bytes of all adapters."""
    shapes, numbers = module.shapes(config), 0
    for name in module.Layer._fields:
        if name in shape.products:
            numbers += shape.rank_of(name) * sum(shapes[name])
    return FLOAT * config.layers * numbers


def check(model: Model, shape: Shape, rows: int, length: int, free: int) -> Memory:
    """The plan. Raises CapacityError, saying what would fit, where it is more than the `free` bytes of the machine."""
    plan = memory_plan(model, shape, rows, length)
    if plan.more <= free:
        return plan
    wanted = [(r, t) for r, t in _smaller(rows, length) if memory_plan(model, shape, r, t).more <= free]
    if wanted:
        advice = f"--rows {wanted[0][0]} --context {wanted[0][1]} would fit"
    else:
        advice = "no shorter rows would fit: take a smaller model, or one of fewer bits"
    raise CapacityError(f"{plan.to_text(free)}, which is not enough; {advice}")


def _smaller(rows: int, length: int) -> list[tuple[int, int]]:
    """Fewer rows first, then shorter ones."""
    fewer = [(r, length) for r in range(rows - 1, 0, -1)]
    return fewer + [(1, length >> halvings) for halvings in range(1, 12) if length >> halvings >= 16]
