"""How fast each kernel is, as a share of what this machine's memory or arithmetic allows, measured in the same run."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from soberano.backends.choose import choose
from soberano.backends.plan import Plan
from soberano.bench import peaks
from soberano.bench.ops_cases import cases
from soberano.bench.peaks import Arithmetic
from soberano.core.errors import InputError
from soberano.core.progress import Progress, silent

SECONDS = 0.2
"""How long each case is measured."""

MEMORY = 2**30
"""Bytes that are read to measure the memory: more than caches hold."""


@dataclass(frozen=True)
class OpCase:
    """One case: its time, and what it moved and computed in it."""

    name: str
    seconds: float
    moved: int  # bytes
    operations: float
    arithmetic: Arithmetic = "float32"

    @property
    def rate(self) -> str:
        """Bytes and operations per second."""
        return f"{self.moved / self.seconds / 1e9:8.1f} GB/s {self.operations / self.seconds / 1e12:9.3f} Top/s"

    def share(self, read_gbs: float, gigaops: dict[Arithmetic, float]) -> str:
        """How much of the time the limit that binds explains: reading from memory, or arithmetic of its kind.

        More than all of it says that the limit does not hold: the bytes came from a cache, or the arithmetic was of a
        faster kind.
        """
        reading = self.moved / read_gbs / 1e9
        computing = self.operations / gigaops[self.arithmetic] / 1e9
        explained = max(reading, computing) / self.seconds
        if reading >= computing:
            return "in cache" if explained > 1 else f"{explained:4.0%} of memory"
        return f"beyond {self.arithmetic}" if explained > 1 else f"{explained:4.0%} of {self.arithmetic}"


@dataclass
class OpsResult:
    """All cases, and what the machine can do with the threads of the plan."""

    plan: Plan
    read_gbs: float
    gigaops: dict[Arithmetic, float]
    cases: list[OpCase]

    def to_json(self) -> dict[str, Any]:
        """The numbers by name."""
        p = self.plan
        return {
            "backend": p.backend,
            "isa": p.isa,
            "threads": p.threads,
            "read_gbs": self.read_gbs,
            "gigaops": self.gigaops,
            "cases": [asdict(c) | {"share": c.share(self.read_gbs, self.gigaops).strip()} for c in self.cases],
        }

    def to_text(self) -> str:
        """A table for a person."""
        p = self.plan
        arithmetic = ", ".join(f"{kind} {rate / 1e3:.2f} Top/s" for kind, rate in self.gigaops.items())
        lines = [
            f"{p.backend}, {p.isa}, {p.threads} threads; this host with so many threads: memory {self.read_gbs:.1f} "
            f"GB/s, {arithmetic}"
        ]
        for c in self.cases:  # the limits are the host's
            share = f"  {c.share(self.read_gbs, self.gigaops)}" if p.platform == "cpu" else ""
            lines.append(f"{c.name:36} {c.seconds * 1e6:10.1f} us {c.rate}{share}")
        return "\n".join(lines)


def run(*, backend: str | None = None, only: str | None = None, progress: Progress = silent) -> OpsResult:
    """Time the ops of a step on real shapes; `only` keeps the cases whose name holds it.

    Raises InputError when there is none.
    """
    plan = choose(backend, progress=progress)
    known = cases(plan)
    chosen = {name: case for name, case in known.items() if only is None or only in name}
    if not chosen:
        raise InputError(f"no case has {only!r} in its name; the cases are: {'; '.join(known)}")
    found = []
    for i, (name, make) in enumerate(chosen.items()):
        progress("measure", i, len(chosen), "cases")
        made = make()
        found.append(OpCase(name, _time(made.call), made.moved, made.operations, made.arithmetic))
    return OpsResult(plan, peaks.read_gbs(plan, np.ones(MEMORY, np.uint8)), peaks.gigaops(plan), found)


def _time(call: Callable[[], Any]) -> float:
    call()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 3:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)
