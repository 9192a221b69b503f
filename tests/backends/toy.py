"""A backend as a third party would write one: arrays of its own class, a namespace, a home, one fast kernel.

Its namespace is strict: it has the names that NumPy, JAX and CuPy 14 share and that CuPy's reference lists, and no
other. An op that runs here uses nothing that a GPU would turn out to lack.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from soberano.backends.base import Home

_SHARED = """
    abs any all arange argmax argmin argsort asarray bool_ broadcast_arrays broadcast_to clip concatenate cos
    count_nonzero cumsum empty exp expand_dims float16 float32 full inf int32 int8 isfinite isnan log log1p
    logaddexp matmul max maximum mean min minimum moveaxis nan ones partition reshape searchsorted sign sin
    sqrt squeeze stack sum swapaxes take_along_axis tanh uint16 uint32 uint8 where zeros zeros_like
"""
PORTABLE = frozenset(_SHARED.split())
HOME_ONLY = frozenset({"ascontiguousarray"})
"""Names that the methods of Home itself use; JAX has other methods."""

KERNEL_CALLS: list[tuple[Any, ...]] = []
"""The arguments of each call of the one kernel."""


class ToyArray(np.ndarray):
    """Stands for an array class that we did not write."""


def toy(value: Any) -> Any:
    """Bring arrays, or a tuple or list of them, into the toy home."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value).view(ToyArray)
    return type(value)(toy(part) for part in value) if isinstance(value, list | tuple) else value


class Namespace:
    """numpy, if numpy had only these names and returned toys."""

    def __getattr__(self, name: str) -> Any:
        if name not in PORTABLE | HOME_ONLY:
            raise AttributeError(f"{name} is not among the names that NumPy, JAX and CuPy share")
        found = getattr(np, name)
        if isinstance(found, type) or not callable(found):
            return found
        return lambda *args, **options: toy(found(*args, **options))


class ToyHome(Home):
    """What the entry point names."""

    name = "toy"
    xp = Namespace()

    def owns(self, kind: type) -> bool:
        return issubclass(kind, ToyArray)

    def asarray(self, array: Any) -> ToyArray:
        return toy(np.array(array))

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.array(array)

    def argsort(self, array: Any) -> ToyArray:
        return toy(np.argsort(array, axis=-1, kind="stable"))

    def find_kernel(self, module: str, name: str) -> Callable[..., Any] | None:
        return rms_norm if (module, name) == ("soberano.ops.norm", "rms_norm") else None


def rms_norm(x: Any, weight: Any, *, eps: float) -> Any:
    """The one fast kernel. Its answer is wrong on purpose, so that nobody can take the meaning's for it."""
    KERNEL_CALLS.append((x, weight))
    return x * 0 + 42


HOME = ToyHome()
