"""Several devices that train as one: each computes some rows of a batch, and their gradients are added.

A compiled step runs where its arguments lie, so this says only that: rows are cut, adapters are copied, and the frozen
weights are copied or, where one device could not hold them, cut as well; XLA then sends a layer's weights around when
their turn comes.
"""

from typing import Any

from soberano.backends.tree import map_arrays
from soberano.core.errors import Unsupported
from soberano.core.types import Array
from soberano.models.model import Model


class Devices:
    """Lays what a step takes over `count` devices. Raises Unsupported where there are not so many."""

    def __init__(self, model: Model, count: int, *, share: bool) -> None:
        if count > 1 and model.plan.native:
            raise Unsupported("our kernels take a whole CPU for one device; several need the backend xla")
        self._home, self._count = model.home, count
        self.weights = map_arrays(self._share if share else self._copy, model.weights)

    def copies(self, tree: Any) -> Any:
        """The arrays of a tree, on every device."""
        return map_arrays(lambda array: self._copy(self._home.asarray(array)), tree)

    def rows(self, tree: Any) -> Any:
        """The arrays of a tree, each device with some of their rows."""
        return map_arrays(lambda array: self._home.spread(self._home.asarray(array), self._count, 0), tree)

    def _copy(self, array: Array) -> Array:
        return self._home.spread(array, self._count, None)

    def _share(self, array: Array) -> Array:
        """Cut along the longest axis that can be; a layer is taken from the first of several, so that stays whole."""
        axes = range(1 if array.ndim > 2 else 0, array.ndim)
        cut = [axis for axis in axes if array.shape[axis] and array.shape[axis] % self._count == 0]
        return self._home.spread(array, self._count, max(cut, key=lambda axis: array.shape[axis], default=None))
