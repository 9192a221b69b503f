"""One meaning, any number of kernels: the meaning says what an op computes, a kernel only makes it fast.

The kernel of op `rms_norm` in soberano/ops/norm.py for JAX arrays is the function `rms_norm` in
soberano/ops/norm_jax.py. That file is imported when the first JAX array arrives, so nobody pays for a home that they do
not use. A kernel that does not serve its arguments raises Unsupported, the meaning runs, and `declined()` keeps the
reason for `soberano doctor`.

Its gradient rule is the function `rms_norm` in soberano/ops/norm_grad.py: portable code, one for all homes.
"""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from soberano.backends.base import Home
from soberano.backends.homes import home_of
from soberano.backends.recorder import recording
from soberano.core.errors import InputError, Unsupported

Watcher = Callable[["Op", tuple[Any, ...], dict[str, Any], Any], None]

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)
_meaning_only: ContextVar[bool] = ContextVar("meaning_only", default=False)
_declined: Counter[tuple[str, str, str]] = Counter()


class Op:
    """A function of arrays with one meaning and, per home, at most one kernel."""

    __name__: str

    def __init__(self, meaning: Callable[..., Any]) -> None:
        functools.update_wrapper(self, meaning)
        self.meaning = meaning
        self.kernel = functools.cache(self._find_kernel)

    @functools.cached_property
    def rule(self) -> Callable[..., Any] | None:
        """The gradient rule: (gradient of result, result, *args, **options) -> that of each argument, None for none.

        An op without one is differentiated as the ops that its meaning calls.
        """
        beside = f"{self.meaning.__module__}_grad"
        return getattr(import_module(beside), self.__name__, None) if find_spec(beside) else None

    def _find_kernel(self, home: Home) -> Callable[..., Any] | None:
        return home.find_kernel(self.meaning.__module__, self.__name__)

    def __call__(self, *args: Any, impl: str = "auto", **options: Any) -> Any:
        """Run the kernel if there is one and it serves these arguments, else the meaning.

        `impl` is "auto", "meaning" (never a kernel, nor in the ops that the meaning calls) or "kernel" (raises
        Unsupported instead of falling back).
        """
        recorder = recording()
        if recorder is not None:
            return recorder(self, args, options)
        result = self._run(args, impl, options)
        watcher = _watcher.get()
        if watcher is not None:
            token = _watcher.set(None)  # what a watcher runs itself is not reported to it
            try:
                watcher(self, args, options, result)
            finally:
                _watcher.reset(token)
        return result

    def _run(self, args: tuple[Any, ...], impl: str, options: dict[str, Any]) -> Any:
        if impl == "meaning" and not _meaning_only.get():
            token = _meaning_only.set(True)
            try:
                return self.meaning(*args, **options)
            finally:
                _meaning_only.reset(token)
        if impl not in ("auto", "meaning", "kernel"):
            raise InputError(f"{self.__name__}: impl is {impl!r}; pass 'auto', 'meaning' or 'kernel'")
        if impl != "kernel" and _meaning_only.get():
            return self.meaning(*args, **options)
        home = home_of(*args)
        kernel = self.kernel(home)
        if kernel is not None:
            try:
                return kernel(*args, **options)
            except Unsupported as why:
                _declined[self.__name__, home.name, str(why)] += 1
                if impl == "kernel":
                    raise
        elif impl == "kernel":
            raise Unsupported(f"{self.__name__} has no kernel for {home.name}")
        return self.meaning(*args, **options)

    def __repr__(self) -> str:
        return f"<op {self.__module__.removeprefix('soberano.')}.{self.__name__}>"


def op(meaning: Callable[..., Any]) -> Op:
    """Make a portable function an op. Its kernels are found by their place; there is no list to edit."""
    return Op(meaning)


def declined() -> list[tuple[str, str, str, int]]:
    """(op, home, reason, times) of every kernel that declined so far."""
    return [(name, home, why, times) for (name, home, why), times in sorted(_declined.items())]


@contextmanager
def watch(watcher: Watcher) -> Iterator[None]:
    """Call `watcher(op, args, options, result)` after every op that runs inside. For eager runs: verify, teaching."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
