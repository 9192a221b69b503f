"""An array that remembers how it was made, so that a gradient can walk back: the arithmetic between ops.

Model files add and scale arrays, cut them and reshape them; a Tracked array does the same to its value, and notes for
each step how the gradient of the result becomes those of what it was made from. Ops are noted by
soberano.backends.tape.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from soberano.core.types import Array

Pull = Callable[[Any], Sequence[Any]]
"""From the gradient of a result to those of its inputs; None for an input that has none."""


@dataclass
class Step:
    """Something that was computed: from which arrays, to which, and the way back."""

    inputs: Sequence["Tracked"]
    outputs: Sequence["Tracked"]
    pull: Callable[[Sequence[Any]], Sequence[Any]]


@dataclass
class Tape:
    """What was computed, in order."""

    steps: list[Step] = field(default_factory=list)

    def track(self, value: Array) -> "Tracked":
        """An array whose uses are noted on this tape."""
        return Tracked(value, self)

    def note(self, value: Array, pull: Pull, *inputs: Any) -> "Tracked":
        """Note one result made from `inputs`, of which the Tracked ones get gradients."""
        made = self.track(value)
        tracked = [each for each in inputs if isinstance(each, Tracked)]
        chosen = [i for i, each in enumerate(inputs) if isinstance(each, Tracked)]

        def back(grads: Sequence[Any]) -> list[Any]:
            given = pull(grads[0])
            return [given[i] for i in chosen]

        self.steps.append(Step(tracked, [made], back))
        return made

    def gradients(self, of: "Tracked") -> dict[int, Array]:
        """The gradient of a number with respect to every array on the tape that it depends on, by id."""
        found: dict[int, Array] = {id(of): of.value * 0 + 1}
        for step in reversed(self.steps):
            grads = [found.pop(id(out), None) for out in step.outputs]
            if all(grad is None for grad in grads):
                continue
            filled = [out.value * 0 if g is None else g for out, g in zip(step.outputs, grads, strict=True)]
            for array, grad in zip(step.inputs, step.pull(filled), strict=True):
                if grad is not None:
                    known = found.get(id(array))
                    found[id(array)] = grad if known is None else known + grad
        return found


class Tracked:
    """An array on a tape. It adds, multiplies, cuts and reshapes as its value does; more is an op's business."""

    __array_ufunc__ = None  # NumPy arrays leave arithmetic with a Tracked one to it

    def __init__(self, value: Array, tape: Tape) -> None:
        self.value, self.tape = value, tape

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the value."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """As of the value."""
        return self.value.ndim

    @property
    def dtype(self) -> Any:
        """As of the value."""
        return self.value.dtype

    def __add__(self, other: Any) -> "Tracked":
        return self.tape.note(
            self.value + plain(other), lambda g: (summed_to(g, self), summed_to(g, other)), self, other
        )

    def __sub__(self, other: Any) -> "Tracked":
        return self + -1.0 * other

    def __mul__(self, other: Any) -> "Tracked":
        a, b = self.value, plain(other)
        return self.tape.note(a * b, lambda g: (summed_to(g * b, self), summed_to(g * a, other)), self, other)

    def __truediv__(self, other: Any) -> "Tracked":
        return self * (1.0 / other)  # by what is no Tracked array: models divide by numbers only

    __radd__, __rmul__ = __add__, __mul__

    def __getitem__(self, key: Any) -> "Tracked":
        def pull(grad: Array) -> tuple[Array]:
            whole = self.value * 0
            whole[key] = grad  # `key` is slices, so no place is met twice
            return (whole,)

        return self.tape.note(self.value[key], pull, self)

    def reshape(self, *shape: int) -> "Tracked":
        """As of the value."""
        return self.tape.note(self.value.reshape(*shape), lambda g: (g.reshape(self.shape),), self)

    def astype(self, dtype: Any) -> "Tracked":
        """As of the value."""
        return self.tape.note(self.value.astype(dtype), lambda g: (g.astype(self.dtype),), self)


def plain(x: Any) -> Any:
    """The value of a Tracked array; anything else as it is."""
    return x.value if isinstance(x, Tracked) else x


def summed_to(grad: Array, like: Any) -> Array | None:
    """The gradient of what was broadcast: summed over the axes along which it was repeated. None for a number."""
    if not isinstance(like, Tracked):
        return None
    extra = grad.ndim - like.ndim
    axes = tuple(range(extra)) + tuple(
        i + extra for i, size in enumerate(like.shape) if size == 1 and grad.shape[i + extra] != 1
    )
    return (grad.sum(axis=axes, keepdims=True) if axes else grad).reshape(like.shape)
