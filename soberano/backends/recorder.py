"""Who runs the ops that are called while gradients are taken: nobody, the tape, or JAX by their gradient rules."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Recorder = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]

_recorder: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


def recording() -> Recorder | None:
    """Whoever is to run ops now as recorder(op, args, options)."""
    return _recorder.get()


@contextmanager
def record(recorder: Recorder | None) -> Iterator[None]:
    """Let `recorder` run every op that is called inside; None: ops run themselves."""
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)
