"""`soberano bench train MODEL`: a step of LoRA training, its speed and memory, beside PEFT on the same file.

A step is what training does: forward, backward, and the optimizer. Ours and the peer's take turns on the same tokens.
The peer runs in float32 and in bfloat16, and in each as it is and through torch.compile: the best counts.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from soberano.backends import native
from soberano.bench.llm import backend_label
from soberano.bench.peers import Process
from soberano.bench.rows import Row, append, row
from soberano.core.errors import InputError, SoberanoError
from soberano.core.memory import peak_memory
from soberano.core.progress import Progress, silent
from soberano.models.load import load_decoder
from soberano.train.encode import Encoded
from soberano.train.run import Run, Settings

WAYS = ("float32", "float32, compiled", "bfloat16", "bfloat16, compiled")
"""How a peer may compute a step; compiling takes it a minute or two."""


@dataclass(frozen=True)
class TrainAsk:
    """What to measure. Raises InputError for what cannot be measured."""

    path: Path
    backend: str | None = None
    tokens: int = 512  # of a step
    steps: int = 8
    exact: bool = False  # ours in float32, where a matrix unit would take bfloat16
    against: str | None = None
    peer_python: str | None = None
    ways: Sequence[str] = WAYS

    def __post_init__(self) -> None:
        for name in ("tokens", "steps"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} is {getattr(self, name)}; a measurement needs 1 or more")
        if self.against not in (None, "peft"):
            raise InputError(f"--against is {self.against!r}; training is measured against peft")
        if unknown := [way for way in self.ways if way not in WAYS]:
            raise InputError(f"no way of the peer is called {unknown[0]!r}; there are {'; '.join(WAYS)}")


@dataclass
class TrainResult:
    """What was found: tokens per second and the most memory, of us and of each way of the peer."""

    model: str
    plan: str
    tokens: int
    steps: int
    train_tps: float = 0.0
    peak_rss_bytes: int | None = None
    peer: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The numbers by name."""
        return asdict(self)

    def to_text(self) -> str:
        """A table for a person."""
        said = f"LoRA of rank 16 beside every product, {self.tokens} tokens a step, median of {self.steps} steps"
        lines = [f"{self.model}: {self.plan}; {said}"]
        lines.append(f"{'':44}{'tokens/s':>10}{'peak memory':>16}")
        peak = "" if self.peak_rss_bytes is None else f"{self.peak_rss_bytes / 1e6:,.0f} MB"
        lines.append(f"{'soberano':44}{self.train_tps:10,.0f}{peak:>16}")
        for name, found in self.peer.items():
            lines.append(f"{name:44}{found['train_tps']:10,.0f}{found['peak_rss_bytes'] / 1e6:13,.0f} MB")
        lines += [f"{r.case} against {r.peer_name}: {r.ratio:.2f}x" for r in self.rows if r.ratio is not None]
        return "\n".join(lines)


def run(ask: TrainAsk, *, results: Path | None = None, progress: Progress = silent) -> TrainResult:
    """Measure a model; `results` is a folder that gets the rows which name a peer.

    Raises InputError where the peer is not there.
    """
    texts = _texts(ask)
    with ExitStack() as stack:
        peers = {way: _peer(ask, way, stack) for way in (ask.ways if ask.against else ())}
        model = stack.enter_context(load_decoder(ask.path, backend=ask.backend, context=64, progress=progress))
        plan = model.plan
        found = TrainResult(ask.path.name, _arithmetic(ask, plan), ask.tokens, ask.steps)
        ours, theirs = list[float](), {way: list[float]() for way in peers}

        def turn(told: dict[str, Any]) -> None:
            ours.append(told["seconds"])
            for way, (peer, _) in peers.items():
                progress(f"beside {way}", len(ours), len(texts), "steps")
                rows = [texts[len(ours) - 1].tokens.tolist()]
                theirs[way].append(peer.ask(do="step", rows=rows, rate=2e-4)["seconds"])

        with tempfile.TemporaryDirectory() as folder:
            Run(model, texts, [], _settings(ask), Path(folder)).train(turn)
        rate = lambda times: ask.tokens / float(np.median(times[2:]))  # noqa: E731 - the first two compile
        found.train_tps = rate(ours)
        for way, (peer, version) in peers.items():
            found.peer[f"{ask.against} {version} {way}"] = {"train_tps": rate(theirs[way]), **peer.ask(do="memory")}
    found.peak_rss_bytes = _memory(ask)
    if found.peer:
        found.rows = list(_rows(ask, found, backend_label(plan)))
    if results:
        append(found.rows, results)
    return found


def _rows(ask: TrainAsk, found: TrainResult, backend: str) -> Any:
    case = f"{ask.path.stem} train lora {ask.tokens}{', float32' if ask.exact else ''}"
    fair = [name for name in found.peer if not ask.exact or "float32" in name]
    fast = max(fair, key=lambda name: found.peer[name]["train_tps"])
    yield row(backend, case, found.train_tps, "tok/s", found.peer[fast]["train_tps"], fast)
    if found.peak_rss_bytes is not None:
        small = min(fair, key=lambda name: found.peer[name]["peak_rss_bytes"])
        theirs = found.peer[small]["peak_rss_bytes"] / 1e6
        ours = found.peak_rss_bytes / 1e6
        yield row(backend, f"{case}: peak memory", ours, "MB", theirs, small, smaller_is_better=True)


def _arithmetic(ask: TrainAsk, plan: Any) -> str:
    kind = "bfloat16" if plan.native and plan.isa == "amx" and not ask.exact else "float32"
    return f"{plan.backend}, {plan.isa}, {native.threads()} threads, {kind}"


def _settings(ask: TrainAsk) -> Settings:
    return Settings(epochs=1, length=ask.tokens, rows=1, accumulate=1, exact=ask.exact)


def _texts(ask: TrainAsk) -> list[Encoded]:
    """A text for each step, of tokens that any model has."""
    rng = np.random.default_rng(0)
    learnt = np.arange(ask.tokens) > 0
    return [Encoded(rng.integers(3, 250, ask.tokens).astype(np.int32), learnt) for _ in range(ask.steps + 2)]


def _peer(ask: TrainAsk, way: str, stack: ExitStack) -> tuple[Process, str]:
    """The peer with the model open, and its version."""
    assert ask.against
    dtype, _, compiled = way.partition(", ")
    peer = stack.enter_context(Process(ask.against, ask.peer_python))
    info = peer.ask(do="open", path=str(ask.path.resolve()), threads=native.threads(), dtype=dtype)
    if compiled:
        peer.ask(do="compile")
    return peer, info["version"]


def _memory(ask: TrainAsk) -> int | None:
    """The most memory of a process that does nothing but a few of our steps."""
    if peak_memory() is None:
        return None
    task = json.dumps([str(ask.path), ask.backend, ask.tokens, ask.exact])
    command = [sys.executable, "-m", "soberano.bench.train"]
    done = subprocess.run(command, input=task, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise SoberanoError(f"the process whose memory is measured failed: {said[-1]}")
    return int(done.stdout)


def main() -> None:
    """Take three steps as standard input says, and print the most memory of this process."""
    path, backend, tokens, exact = json.load(sys.stdin)
    ask = TrainAsk(Path(path), backend=backend, tokens=tokens, steps=1, exact=exact)
    with load_decoder(ask.path, backend=backend, context=64) as model, tempfile.TemporaryDirectory() as folder:
        Run(model, _texts(ask), [], _settings(ask), Path(folder)).train()
    print(peak_memory())


if __name__ == "__main__":
    main()
