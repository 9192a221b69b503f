"""What a home of arrays can do beyond the functions that NumPy, CuPy and JAX share.

An op is portable array code over `home.xp`. The few things that the three libraries spell differently (in-place writes,
loops, bit casts, compilation) are the methods here; every method has the NumPy meaning unless a home says otherwise.
"""

from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from soberano.core.errors import Unsupported
from soberano.core.types import Array, Namespace


class Home:
    """Where arrays live. A subclass sets `name` and `xp` and overrides what its library does differently."""

    name: str
    xp: Namespace
    compiles = False
    """Whether `compile` makes a program for each shape, so that a new shape costs time."""

    def owns(self, kind: type) -> bool:
        """Whether arrays of this class live here."""
        return kind.__module__.partition(".")[0] == self.name

    def asarray(self, array: Any) -> Array:
        """Bring a NumPy array here; it may share memory, so nobody writes to it afterwards."""
        return self.xp.asarray(array)

    def zeros(self, shapes: Sequence[tuple[int, ...]], dtype: Any) -> list[Array]:
        """Arrays of zeros; where the home can, they take memory only as they are written to."""
        return [self.xp.zeros(shape, dtype) for shape in shapes]

    def to_numpy(self, array: Array) -> np.ndarray:
        """Bring an array of this home to NumPy; waits until it is computed."""
        return np.asarray(array)

    def synchronize(self, array: Array) -> None:
        """Wait until an array is computed."""

    def intact(self, array: Array) -> bool:
        """Whether an array can still be used: no program has consumed it, and what computes it has not failed."""
        return True

    def concrete(self, array: Array) -> bool:
        """Whether the numbers can be looked at now; not so while a function is being compiled."""
        return True

    def bitcast(self, array: Array, dtype: Any) -> Array:
        """Read the bytes of the last axis as `dtype`: uint8 (..., n * size) -> dtype (..., n)."""
        return self.xp.ascontiguousarray(array).view(dtype)

    def put(self, array: Array, index: tuple[Array, ...], values: Array) -> Array:
        """Write values at an advanced index, dropping indices past the end. Consumes `array`: use what it returns."""
        inside = index[0] < array.shape[0]
        for axis, i in enumerate(index[1:], 1):
            inside = inside & (i < array.shape[axis])
        kept = self.xp.broadcast_to(inside, index[0].shape)
        array[tuple(i[inside] for i in self.xp.broadcast_arrays(*index))] = values[kept]
        return array

    def loop(self, count: int, body: Callable[[Any, Any], Any], carry: Any) -> Any:
        """carry = body(i, carry) for i in range(count)."""
        for i in range(count):
            carry = body(i, carry)
        return carry

    def switch(self, index: Any, branches: Sequence[Callable[..., Any]], *args: Any) -> Any:
        """Call branches[index](*args)."""
        return branches[int(index)](*args)

    def at(self, stack: Array, index: Any) -> Array:
        """stack[index] along axis 0, for an index that may be a traced value."""
        return stack[index]

    def argsort(self, array: Array) -> Array:
        """Indices that sort the last axis upwards; equal numbers keep their order. JAX and CuPy do so by default."""
        return self.xp.argsort(array, axis=-1)

    def compile(
        self, function: Callable[..., Any], *, static: tuple[int, ...] = (), donate: tuple[int, ...] = ()
    ) -> Callable[..., Any]:
        """A faster function of the same meaning; `static` and `donate` are positions of arguments."""
        return function

    def value_and_grad(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that returns a number, `function`, and its gradient with respect to its first argument, a tree.

        Ops are differentiated by their rules; between ops, by what a Tracked array knows: see soberano.backends.tape.
        """
        from soberano.backends.tape import value_and_grad

        return value_and_grad(function)

    def spread(self, array: Array, count: int, axis: int | None) -> Array:
        """Lay an array over `count` devices, cut along an axis, or a copy on each where it is None.

        What is compiled runs on all devices that its arguments lie on. Raises Unsupported where there are not so many.
        """
        if count != 1:
            raise Unsupported(f"{self.name} computes on one device, not on {count}; the backend xla takes several")
        return array

    def checkpoint(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose insides are computed again for a gradient instead of kept, where that helps."""
        return function

    def constant(self, array: Array) -> Array:
        """The same numbers, through which no gradient flows."""
        from soberano.backends.tape import constant

        return constant(array)

    def persist(self, folder: Path) -> None:
        """Keep compiled programs in this folder from now on, so that the next process need not compile them again."""

    def find_kernel(self, module: str, name: str) -> Callable[..., Any] | None:
        """The function `name` in the file beside `module` that serves this home: ops/norm.py -> ops/norm_<home>.py."""
        beside = f"{module}_{self.name}"
        return getattr(import_module(beside), name, None) if find_spec(beside) else None

    def platform(self) -> str:
        """What kind of device computes: cpu, gpu or tpu."""
        return "cpu"

    def devices(self) -> list[str]:
        """The devices of this home, in words."""
        return ["cpu"]
