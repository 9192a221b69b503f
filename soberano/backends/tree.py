"""Dataclasses that carry arrays: one list of them, which JAX learns when it is first used.

A pytree here is an array, a tuple or NamedTuple, a list, a dict, or a frozen dataclass marked with `@node`. NumPy and
CuPy walk it with `map_arrays`; JAX gets the same classes registered by soberano.backends.jax_, so no other file
mentions JAX.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, TypeVar

T = TypeVar("T")
NODES: dict[type, tuple[list[str], list[str]]] = {}
"""Class -> (fields that hold arrays or trees, fields that are static and belong to the jit key)."""

_listeners: list[Callable[[type, list[str], list[str]], None]] = []


def node(static: tuple[str, ...] = ()) -> Callable[[type[T]], type[T]]:
    """Mark a frozen dataclass as a tree; `static` names the fields that are no arrays and must be hashable."""

    def mark(kind: type[T]) -> type[T]:
        data = [f.name for f in fields(kind) if f.name not in static]  # type: ignore[arg-type]
        NODES[kind] = (data, list(static))
        for tell in _listeners:
            tell(kind, data, list(static))
        return kind

    return mark


def on_node(tell: Callable[[type, list[str], list[str]], None]) -> None:
    """Call `tell(kind, data fields, static fields)` for every node, known already or still to come."""
    for kind, (data, static) in NODES.items():
        tell(kind, data, static)
    _listeners.append(tell)


def leaves(tree: Any) -> list[Any]:
    """The arrays of a tree, in the order of `map_arrays`, and whatever else stands at the end of a branch."""
    found: list[Any] = []
    map_arrays(found.append, tree)
    return found


def map_arrays(change: Callable[[Any], Any], tree: Any) -> Any:
    """Rebuild a tree with `change` applied to every array in it. None stays None."""
    if tree is None:
        return None
    if type(tree) in NODES:
        data, _ = NODES[type(tree)]
        return replace(tree, **{name: map_arrays(change, getattr(tree, name)) for name in data})
    if isinstance(tree, tuple):
        parts = [map_arrays(change, part) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    if isinstance(tree, list):
        return [map_arrays(change, part) for part in tree]
    if isinstance(tree, dict):
        return {key: map_arrays(change, part) for key, part in tree.items()}
    return change(tree)
