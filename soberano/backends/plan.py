"""How a model runs, decided once: a small frozen value that is part of the jit key and that `doctor` prints.

Array types cannot tell the cpu backend from xla, and a switch flipped after tracing changes nothing. So a compiled
function takes its plan as a static argument, enters it with `using(plan)` while it is traced, and kernels ask
`active(...)`: what runs is a function of the key.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

Weights = Literal["tiles", "dense", "blocks"]
Role = Literal["prompt", "token"]
"""What a token is to its sequence. Prompts may go through other kernels than generated tokens, whatever the batch."""


@dataclass(frozen=True)
class Plan:
    """Where arrays live and what computes on them."""

    backend: str  # numpy, cpu, cuda, xla, or an entry point
    home: str  # numpy, jax, cupy, or an entry point
    platform: str = "cpu"  # cpu, gpu, tpu
    native: bool = False  # our C++ kernels serve the ops that have one
    isa: str = "none"  # the instruction set of those kernels: amx, avx512, avx2, neon, portable
    threads: int = 1  # their threads
    role: Role = "token"  # of the tokens in this program: the arithmetic may follow it
    exact: bool = False  # all arithmetic in float32, where kernels would round activations to be faster
    weights: Weights = "dense"  # tiles for kernels, dense float32, or blocks as in the file
    reasons: tuple[str, ...] = field(default=(), compare=False)  # why this one, for doctor


_active: ContextVar[Plan | None] = ContextVar("plan", default=None)


@contextmanager
def using(plan: Plan) -> Iterator[None]:
    """Make `plan` the one that kernels see inside this block."""
    token = _active.set(plan)
    try:
        yield
    finally:
        _active.reset(token)


def active() -> Plan | None:
    """The plan in force, or None outside of any: then an eager op uses whatever its arrays allow."""
    return _active.get()
