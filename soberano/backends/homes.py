"""Find homes by name and by array. Ours are three files; others arrive by the entry point group `soberano.backends`."""

import functools
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import numpy as np

from soberano.backends.base import Home
from soberano.backends.tracked import Tracked
from soberano.core.errors import InputError
from soberano.core.types import Namespace

BACKENDS = ("auto", "cpu", "cuda", "xla", "numpy")  # what a person may ask for; choose.py says what each is
_BUILT_IN = {"numpy": "numpy", "jax": "jax", "jaxlib": "jax", "cupy": "cupy"}


@functools.cache
def home(name: str) -> Home:
    """The home called numpy, jax, cupy, or as an entry point is; imports its library. Raises InputError otherwise."""
    if name in _BUILT_IN.values():
        return import_module(f"soberano.backends.{name}_").HOME
    for point in entry_points(group="soberano.backends"):
        if point.name == name:
            return point.load()
    known = [*BACKENDS, *sorted(p.name for p in entry_points(group="soberano.backends"))]
    raise InputError(f"no backend is called {name!r}; there are {', '.join(known)}")


@functools.cache
def home_of_type(kind: type) -> Home | None:
    """The home whose arrays have this class, or None if it is no array class."""
    if not hasattr(kind, "ndim") or issubclass(kind, np.generic):
        return None
    root = kind.__module__.partition(".")[0]
    if root in _BUILT_IN:
        return home(_BUILT_IN[root])
    for point in entry_points(group="soberano.backends"):
        other = home(point.name)
        if other.owns(kind):
            return other
    return None


def home_of(*args: Any) -> Home:
    """The one home of all arrays among `args`. Raises TypeError when there is none, or more than one."""
    found: Home | None = None
    for arg in args:
        here = home_of_type(arg.value.__class__ if isinstance(arg, Tracked) else arg.__class__)
        if here is None or here is found:
            continue
        if found is not None:
            raise TypeError(f"an op got arrays of {found.name} and of {here.name}; move them to one home with asarray")
        found = here
    if found is None:
        kinds = ", ".join(type(a).__name__ for a in args) or "nothing"
        raise TypeError(f"an op got no array, only {kinds}; pass arrays of one home")
    return found


def namespace(*args: Any) -> Namespace:
    """The array functions for these arrays: numpy, jax.numpy or cupy."""
    return home_of(*args).xp
