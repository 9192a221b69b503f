"""Gradients without a compiler: run a function on Tracked arrays, note every op, walk back by the ops' rules.

This is the whole of reverse-mode differentiation, for homes that compile nothing (NumPy, CuPy). JAX walks the same
rules in soberano.backends.jax_. Source: Griewank and Walther, Evaluating Derivatives, chapter 3.
"""

from collections.abc import Callable, Iterator
from typing import Any

from soberano.backends.recorder import record
from soberano.backends.tracked import Step, Tape, Tracked, plain
from soberano.backends.tree import leaves, map_arrays
from soberano.core.types import Array


def value_and_grad(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that returns (value, gradient) of `function`, a number, with respect to its first argument, a tree."""

    def run(tree: Any, *rest: Any) -> tuple[Array, Any]:
        tape = Tape()
        tracked = map_arrays(tape.track, tree)
        with record(_note):
            value = function(tracked, *rest)
        if not isinstance(value, Tracked):  # it depends on nothing
            return value, map_arrays(lambda array: array * 0, tree)
        found = tape.gradients(value)
        return value.value, map_arrays(lambda array: found.get(id(array), array.value * 0), tracked)

    return run


def constant(array: Any) -> Any:
    """The same numbers, through which no gradient flows."""
    return plain(array)


def _note(op: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Run an op on Tracked arrays by its rule; one that has none, as the ops inside its meaning."""
    tracked = [each for each in leaves(args) if isinstance(each, Tracked)]
    rule = op.rule
    if tracked and rule is None:
        return op.meaning(*args, **options)
    values = map_arrays(plain, args)
    with record(None):
        result = op(*values, **options)
    if not tracked:
        return result
    tape, many = tracked[0].tape, isinstance(result, tuple)
    outputs = [tape.track(each) for each in (result if many else (result,))]

    def pull(grads: Any) -> list[Any]:
        with record(None):
            given = rule(type(result)(grads) if many else grads[0], result, *values, **options)[: len(args)]
        return [grad for array, grad in _pairs(args, given) if isinstance(array, Tracked)]

    tape.steps.append(Step(tracked, outputs, pull))
    return tuple(outputs) if many else outputs[0]


def _pairs(tree: Any, given: Any) -> Iterator[tuple[Any, Any]]:
    """The leaves of a tree with the gradients that a rule gave them; a None of the rule stands for a whole branch."""
    if isinstance(tree, tuple):
        parts = (None,) * len(tree) if given is None else given
        for branch, part in zip(tree, parts, strict=True):
            yield from _pairs(branch, part)
    elif isinstance(tree, Tracked):
        yield tree, given
