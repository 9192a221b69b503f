"""How fast each kernel is, as a share of what this machine's memory or arithmetic allows, measured in the same run."""

import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from soberano.backends.choose import choose
from soberano.backends.homes import home
from soberano.backends.plan import Plan, Role, using
from soberano.core.errors import InputError
from soberano.core.progress import Progress, silent
from soberano.ops import pages
from soberano.ops.attention import attention, write_kv
from soberano.ops.linear import linear
from soberano.ops.norm import rms_norm
from soberano.ops.sample import Sampling, greedy, sample
from soberano.quant import tiles
from soberano.quant.blocks import format_named
from soberano.quant.tensor import QTensor

SECONDS = 0.2
"""How long each case is measured."""


@dataclass(frozen=True)
class OpCase:
    """One case: its time, and what it moved and computed in it."""

    name: str
    seconds: float
    moved: int  # bytes
    flops: float

    @property
    def rate(self) -> str:
        """Bytes and operations per second."""
        return f"{self.moved / self.seconds / 1e9:8.1f} GB/s {self.flops / self.seconds / 1e9:9.1f} GFLOP/s"

    def share(self, read_gbs: float, gflops: float) -> str:
        """How much of the time the limit that binds explains: reading from memory, or arithmetic in float32.

        More than all of it says that the limit does not hold: the bytes came from a cache, or the arithmetic was
        narrower than float32.
        """
        reading, computing = self.moved / read_gbs / 1e9, self.flops / gflops / 1e9
        explained = max(reading, computing) / self.seconds
        if reading >= computing:
            return "in cache" if explained > 1 else f"{explained:4.0%} of memory"
        return "beyond float32" if explained > 1 else f"{explained:4.0%} of arithmetic"


@dataclass
class OpsResult:
    """All cases, and what the machine can do."""

    plan: Plan
    read_gbs: float
    gflops: float
    cases: list[OpCase]

    def to_json(self) -> dict[str, Any]:
        """The numbers by name."""
        return {
            "backend": self.plan.backend,
            "isa": self.plan.isa,
            "threads": self.plan.threads,
            "read_gbs": self.read_gbs,
            "gflops": self.gflops,
            "cases": [{"name": c.name, "seconds": c.seconds, "bytes": c.moved, "flops": c.flops} for c in self.cases],
        }

    def to_text(self) -> str:
        """A table for a person."""
        p = self.plan
        lines = [
            f"{p.backend}, {p.isa}, {p.threads} threads; this host reads memory at {self.read_gbs:.1f} GB/s with "
            f"{p.threads} threads, and multiplies float32 matrices at {self.gflops:.1f} GFLOP/s"
        ]
        for c in self.cases:
            share = (
                f"  {c.share(self.read_gbs, self.gflops)}" if p.platform == "cpu" else ""
            )  # the limits are the host's
            lines.append(f"{c.name:34} {c.seconds * 1e6:10.1f} us {c.rate}{share}")
        return "\n".join(lines)


def run(*, backend: str | None = None, only: str | None = None, progress: Progress = silent) -> OpsResult:
    """Time the ops of a token on real shapes; `only` keeps the cases whose name holds it.

    Raises InputError when there is none.
    """
    plan = choose(backend, progress=progress)
    known = _cases(plan)
    cases = {name: case for name, case in known.items() if only is None or only in name}
    if not cases:
        raise InputError(f"no case has {only!r} in its name; the cases are: {'; '.join(known)}")
    found = []
    for i, (name, make) in enumerate(cases.items()):
        progress("measure", i, len(cases), "cases")
        call, moved, flops = make()
        found.append(OpCase(name, _time(call), moved, flops))
    return OpsResult(plan, _read_speed(plan.threads), _multiply_speed(), found)


def _time(call: Callable[[], Any]) -> float:
    call()
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(times) < 3:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _read_speed(threads: int) -> float:
    """GB/s at which so many threads sum 256 MB, a slice each: NumPy lets the others run meanwhile."""
    slices = np.array_split(np.ones(2**25, np.float64), threads)
    with ThreadPoolExecutor(threads) as pool:
        return 8 * 2**25 / _time(lambda: list(pool.map(np.sum, slices))) / 1e9


def _multiply_speed() -> float:
    """GFLOP/s of NumPy's product of two float32 matrices, on the threads that it takes by itself."""
    a = np.ones((1024, 1024), np.float32)
    return 2 * 1024**3 / _time(lambda: a @ a) / 1e9


Made = tuple[Callable[[], None], int, float]


def _cases(plan: Plan) -> dict[str, Callable[[], Made]]:
    here, rng = home(plan.home), np.random.default_rng(0)

    def compiled(function: Callable[..., Any], *args: Any, role: Role = "token") -> Callable[[], None]:
        def traced(*args: Any) -> Any:
            with using(replace(plan, role=role)):
                return function(*args)

        fast = here.compile(traced)
        return lambda: here.synchronize(fast(*args))

    def product(name: str, outputs: int, inputs: int, tokens: int) -> Made:
        kind = format_named(name)
        raw = rng.integers(0, 60, (outputs, kind.row_bytes(inputs)), dtype=np.uint8)
        form = "tiles" if plan.native else "blocks"
        data = here.asarray(tiles.pack(kind, raw) if plan.native else raw)
        weight = QTensor(data, None, (outputs, inputs), name, form)  # type: ignore[arg-type]
        x = here.asarray(rng.normal(size=(tokens, inputs)).astype(np.float32))
        role: Role = "token" if tokens == 1 else "prompt"
        return compiled(linear, weight, x, role=role), int(data.nbytes), 2.0 * outputs * inputs * tokens

    def attend(heads: int, kv_heads: int, width: int, tokens: int, context: int, cache: str = "f16") -> Made:
        dtype: np.dtype[Any] = pages.TYPES[cache] if plan.native else np.dtype(np.float32)
        kept = [(1, context // 32, kv_heads, *shape) for shape in pages.shapes(dtype, width, 32)]
        new = here.asarray(rng.normal(size=(1, context, kv_heads, width)).astype(np.float32))
        q = here.asarray(rng.normal(size=(1, tokens, heads, width)).astype(np.float32))
        every = here.asarray(np.arange(context, dtype=np.int32)[None])
        where = here.asarray(np.arange(context - tokens, context, dtype=np.int32)[None])
        table = here.asarray(np.arange(context // 32, dtype=np.int32)[None])
        layer = here.asarray(np.int32(0))
        empty = (here.asarray(np.zeros(shape, dtype)) for shape in kept)
        k, v = write_kv(*empty, new, new, every, table, layer)
        return (
            compiled(attention, q, k, v, where, table, layer, role="token" if tokens == 1 else "prompt"),
            int(k.nbytes + v.nbytes),
            4.0 * heads * width * tokens * (context - (tokens - 1) / 2),
        )

    def norm(rows: int) -> Made:
        x = here.asarray(rng.normal(size=(rows, 576)).astype(np.float32))
        weight = here.asarray(np.ones(576, np.float32))
        return compiled(lambda x, w: rms_norm(x, w, eps=1e-5), x, weight), 8 * rows * 576, 4.0 * rows * 576

    def draw(temperature: float) -> Made:
        logits = here.asarray(rng.normal(size=(1, 49152)).astype(np.float32))
        row = [
            here.asarray(np.array([v], k))
            for v, k in ((temperature, np.float32), (40, np.int32), (0.95, np.float32), (0.05, np.float32))
        ]
        seed, position = here.asarray(np.zeros((1, 2), np.uint32)), here.asarray(np.zeros(1, np.int32))
        if temperature == 0:
            return compiled(greedy, logits), 4 * 49152, 49152.0
        return compiled(sample, logits, Sampling(*row), seed, position), 4 * 49152, 49152.0

    cases: dict[str, Callable[[], Made]] = {}
    for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"):
        cases[f"linear {name} 2048x2048, 1 token"] = partial(product, name, 2048, 2048, 1)
        cases[f"linear {name} 2048x2048, 256 tokens"] = partial(product, name, 2048, 2048, 256)
    for shape in ((9, 3, 64), (32, 8, 128)):
        label = "attention {}/{}x{}".format(*shape)
        for tokens, context in ((1, 512), (1, 4096), (512, 512), (512, 4096)):
            cases[f"{label}, {tokens} at {context}"] = partial(attend, *shape, tokens, context)
        for cache in ("bf16", "q8_0"):
            cases[f"{label} {cache}, 1 at 4096"] = partial(attend, *shape, 1, 4096, cache)
    cases["rms_norm 576, 1 row"] = partial(norm, 1)
    cases["rms_norm 576, 256 rows"] = partial(norm, 256)
    cases["greedy 49152"] = partial(draw, 0)
    cases["sample 49152"] = partial(draw, 0.8)
    return cases
