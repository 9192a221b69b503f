"""How fast a model loads, reads a prompt and writes tokens; beside a peer on the same file, in turns, in one run."""

import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from soberano.bench.peers import Peer
from soberano.bench.rows import Row, append, row
from soberano.bench.score import sample_text
from soberano.core.errors import InputError
from soberano.core.progress import Progress, silent
from soberano.core.units import bytes_text
from soberano.models.model import Model, load
from soberano.models.options import Options


@dataclass
class LlmResult:
    """Medians over the runs; the rows as they go into benchmarks/results."""

    model: str
    plan: str
    prompt_tokens: int
    new_tokens: int
    repeat: int
    prefill_tps: float
    decode_tps: float
    load_s: float
    first_token_s: float
    peak_rss_bytes: int | None  # None where the system does not say
    peer: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The numbers by name."""
        return {k: v for k, v in self.__dict__.items() if k != "rows"}

    def to_text(self) -> str:
        """A table for a person."""
        lines = [
            f"{self.model}: {self.plan}",
            f"{'':24}{'soberano':>12}" + (f"{self.peer['name']:>14}{'ratio':>9}" if self.peer else ""),
        ]
        for case, speed, key in (
            (f"prefill {self.prompt_tokens} tok/s", self.prefill_tps, "prefill_tps"),
            (f"decode {self.new_tokens} tok/s", self.decode_tps, "decode_tps"),
        ):
            line = f"{case:24}{speed:12.1f}"
            if self.peer:
                line += f"{self.peer[key]:14.1f}{speed / self.peer[key]:8.2f}x"
            lines.append(line)
        lines.append(f"{'load':24}{self.load_s:10.2f} s" + (f"{self.peer['load_s']:12.2f} s" if self.peer else ""))
        lines.append(f"{'first token after load':24}{self.first_token_s:10.2f} s")
        peak = f"{bytes_text(self.peer['peak_rss_bytes']):>14}" if self.peer else ""
        ours = "unknown" if self.peak_rss_bytes is None else bytes_text(self.peak_rss_bytes)
        lines.append(f"{'peak memory':24}{ours:>12}{peak}")
        if self.peer:
            lines += [f"{self.peer['name']} {self.peer['version']}: {self.peer['system']}"]
        return "\n".join(lines)


def run(
    path: Path,
    *,
    backend: str | None = None,
    context: int | None = None,
    cache: str | None = None,
    prompt_tokens: int = 512,
    new_tokens: int = 128,
    repeat: int = 3,
    against: str | None = None,
    peer_python: str | None = None,
    results: Path | None = None,
    progress: Progress = silent,
) -> LlmResult:
    """Measure a model. With `against`, a peer takes turns with ours; `results` is a folder that gets the rows.

    Raises InputError when there is nothing to measure, the context is too short for it, or the peer is unknown or
    cannot be imported by `peer_python` (this Python if None).
    """
    for name, value in (("prompt-tokens", prompt_tokens), ("new-tokens", new_tokens), ("repeat", repeat)):
        if value < 1:
            raise InputError(f"--{name} is {value}; a measurement needs 1 or more")
    if context is not None and context <= prompt_tokens + new_tokens:
        raise InputError(
            f"a context of {context} does not hold {prompt_tokens} prompt tokens and {new_tokens} new ones; "
            f"ask for at least {prompt_tokens + new_tokens + 1}"
        )
    started = time.perf_counter()
    room = context or prompt_tokens + new_tokens + 64
    with load(path, backend=backend, context=room, cache=cache, progress=progress) as model:
        load_s = time.perf_counter() - started
        prompt = model.tokenizer.encode(sample_text()[: 40 * prompt_tokens])[:prompt_tokens]
        first = _once(model, prompt[:16], 1)["prefill_s"]
        peer = Peer(against, path, model.plan.threads, model.context, peer_python) if against else None
        try:
            ours, theirs = _interleaved(model, peer, prompt, new_tokens, repeat, progress)
            found = LlmResult(
                model=path.name,
                plan=f"{model.plan.backend}, {model.plan.isa}, {model.plan.threads} threads",
                prompt_tokens=len(prompt),
                new_tokens=new_tokens,
                repeat=repeat,
                prefill_tps=len(prompt) / _median(ours, "prefill_s"),
                decode_tps=new_tokens / _median(ours, "decode_s"),
                load_s=load_s,
                first_token_s=first,
                peak_rss_bytes=peak_rss_bytes(),
            )
            if peer:
                found.peer = (
                    peer.info
                    | peer.ask(do="memory")
                    | {
                        "name": against,
                        "prefill_tps": len(prompt) / _median(theirs, "prefill_s"),
                        "decode_tps": new_tokens / _median(theirs, "decode_s"),
                    }
                )
                name = f"{against} {peer.info['version']}" + (" AMX" if "AMX_INT8 = 1" in peer.info["system"] else "")
                stem = path.stem
                found.rows = [
                    row(
                        model.plan.backend,
                        f"{stem} prefill {len(prompt)}",
                        found.prefill_tps,
                        "tok/s",
                        found.peer["prefill_tps"],
                        name,
                    ),
                    row(
                        model.plan.backend,
                        f"{stem} decode {new_tokens}",
                        found.decode_tps,
                        "tok/s",
                        found.peer["decode_tps"],
                        name,
                    ),
                ]
                if results:
                    append(found.rows, results)
        finally:
            if peer:
                peer.close()
    return found


def peak_rss_bytes() -> int | None:
    """The most memory that this process has held so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows has no such module
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _interleaved(
    model: Model, peer: Peer | None, prompt: list[int], new: int, repeat: int, progress: Progress
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Runs in turns, after one of each that does not count; of the peer, the better of its two ways to attend."""
    ours, theirs = [], []
    for i in range(repeat + 1):
        mine, yours = _once(model, prompt, new), {}
        if peer:
            ways = [
                peer.ask(do="time", prompt=prompt, new=new, flash=flash) for flash in ((True, False) if i else (True,))
            ]
            yours = {key: min(way[key] for way in ways) for key in ways[0]}
            if not i:
                peer.info |= peer.ask(do="memory")  # with one context, as a user has it
        if i:
            ours.append(mine)
            theirs.append(yours)
        progress("measure", i, repeat, "runs")
    return ours, theirs


def _once(model: Model, prompt: list[int], new: int) -> dict[str, float]:
    """The prompt, then `new` greedy tokens one by one, drawn and read back: what a user waits for."""
    generation = model.start(prompt, Options(temperature=0, max_tokens=new + 1, ignore_eos=True))
    for _ in generation:
        pass
    return {"prefill_s": generation.timings["prefill_s"], "decode_s": generation.timings.get("decode_s", 0.0)}


def _median(runs: list[dict[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)
