"""What this machine can do at most with the threads of the kernels: read memory, and multiply in registers.

peaks.cc measures where there are native kernels; NumPy does elsewhere.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from soberano.backends import native
from soberano.backends.plan import Plan, Role

Arithmetic = Literal["float32", "bytes", "bf16 tiles", "byte tiles"]
"""What is multiplied: float32 vectors, bytes in vectors (VNNI, say), or either of the two kinds of AMX tiles."""

_KINDS: tuple[Arithmetic, ...] = ("float32", "bytes", "bytes", "bf16 tiles", "byte tiles")  # in the order of peaks.cc

REPEATS = 5
"""How often is measured: a peak is what can be reached, not what is usual."""

SECONDS = 0.05
"""How long a peak of arithmetic is measured."""


def read_gbs(plan: Plan, data: np.ndarray) -> float:
    """GB/s at which the threads of a plan read an array, once: from memory, if it is larger than the caches."""
    if plan.native:
        return data.nbytes / min(read_seconds(data) for _ in range(REPEATS)) / 1e9
    slices = np.array_split(_words(data), plan.threads)
    with ThreadPoolExecutor(plan.threads) as pool:  # NumPy lets the others run while it sums
        return data.nbytes / _seconds(lambda: list(pool.map(np.sum, slices))) / 1e9


def read_seconds(data: np.ndarray) -> float:
    """Read an array once with all threads of the kernels, and return the time. Raises Unsupported without kernels."""
    words, total = _words(data), np.zeros(1, np.uint64)
    started = time.perf_counter()
    native.call("soberano_read_all", words, total, words.nbytes)
    return time.perf_counter() - started


def _words(data: np.ndarray) -> np.ndarray:
    flat = data.reshape(-1).view(np.uint8)
    return flat[: flat.size // 8 * 8].view(np.uint64)


def gigaops(plan: Plan) -> dict[Arithmetic, float]:
    """Billions of multiplications and additions per second, for each arithmetic that the plan's kernels have.

    Without native kernels: NumPy's product of two float32 matrices, on the threads that it takes by itself.
    """
    if not plan.native:
        a = np.ones((1024, 1024), np.float32)
        return {"float32": 2 * 1024**3 / _seconds(lambda: a @ a) / 1e9}
    found: dict[Arithmetic, float] = {}
    for i, kind in enumerate(_KINDS):
        found[kind] = max(found.get(kind, 0), _multiply(i))
    return {kind: rate for kind, rate in found.items() if rate}


def arithmetic_of(plan: Plan, role: Role) -> Arithmetic:
    """What the products of a plan multiply: decision 0008 says which role gets which."""
    if not plan.native:
        return "float32"
    return "bf16 tiles" if plan.isa == "amx" and role == "prompt" else "bytes"


def _multiply(kind: int) -> float:
    done, rounds = np.zeros(1), 1000
    while True:
        started = time.perf_counter()
        native.call("soberano_multiply", done, kind, rounds)
        seconds = time.perf_counter() - started
        if not done[0] or seconds >= SECONDS:
            return float(done[0]) / seconds / 1e9
        rounds = int(rounds * min(100, 1 + 1.2 * SECONDS / seconds))


def _seconds(call: Callable[[], Any]) -> float:
    """The shortest of a few calls."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)
