"""How fast prompts are read and tokens written, ours and a peer's in turns, also deep in a context or on busy cores."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from soberano.bench.busy import Busy
from soberano.bench.case import Case
from soberano.bench.peers import Peer
from soberano.core.progress import Progress, silent
from soberano.models.model import Model
from soberano.models.options import Options


class Times(NamedTuple):
    """Seconds of one run."""

    prefill_s: float
    decode_s: float


@dataclass
class Runs:
    """The runs of one side, by setting: a peer is tried in each way that may be its best one."""

    case: Case
    by_setting: dict[str, list[Times]] = field(default_factory=dict)

    def add(self, times: Times, setting: str = "") -> None:
        """Note a run."""
        self.by_setting.setdefault(setting, []).append(times)

    @property
    def prefill_tps(self) -> float:
        """Tokens of the prompt per second: the median, in the setting that suits prompts best."""
        return self.case.prompt / self._best(lambda t: t.prefill_s)

    @property
    def decode_tps(self) -> float:
        """New tokens per second: the median, in the setting that suits them best."""
        return self.case.new / self._best(lambda t: t.decode_s)

    def _best(self, seconds: Callable[[Times], float]) -> float:
        return min(statistics.median(map(seconds, runs)) for runs in self.by_setting.values())


class Pair(NamedTuple):
    """Ours and the peer's runs of a case."""

    ours: Runs
    theirs: Runs | None


def measure(
    model: Model,
    peer: Peer | None,
    tokens: list[int],
    cases: list[Case],
    *,
    repeat: int,
    busy: bool = False,
    each_round: Callable[[], None] = lambda: None,
    progress: Progress = silent,
) -> tuple[list[Pair], Pair | None]:
    """Run every case in turns, `repeat` times after one round that does not count.

    `tokens` are what is read and written. Returns a pair for each case, and with `busy` one for the first case while
    other processes keep all cores busy. `each_round` is called at the start of each round that counts.
    """

    def empty(case: Case) -> Pair:
        return Pair(Runs(case), Runs(case) if peer else None)

    pairs, beside = [empty(case) for case in cases], empty(cases[0]) if busy else None
    for i in range(repeat + 1):
        if i:
            each_round()
        for pair in pairs if i else map(empty, cases):
            _both(model, peer, tokens, pair)
        if beside and i:
            with Busy():
                _both(model, peer, tokens, beside)
        progress("measure", i, repeat, "rounds")
    return pairs, beside


def _both(model: Model, peer: Peer | None, tokens: list[int], pair: Pair) -> None:
    case = pair.ours.case
    pair.ours.add(once(model, tokens, case))
    if peer and pair.theirs:
        for flash in (True, False):
            answer = peer.ask(do="time", tokens=tokens[: case.tokens], flash=flash, **case._asdict())
            pair.theirs.add(Times(answer["prefill_s"], answer["decode_s"]), "flash" if flash else "plain")


def once(model: Model, tokens: list[int], case: Case) -> Times:
    """Read the prompt, then write greedy tokens one by one, drawn and read back: what a user waits for."""
    prompt = tokens[: case.depth + case.prompt]
    generation = model.start(prompt, Options(temperature=0, max_tokens=case.new + 1, ignore_eos=True))
    try:
        while generation.prefill_tokens_done < case.depth:
            generation.step()
        model.wait()  # a step returns before it is computed, where the home works ahead
        started = time.perf_counter()
        while generation.completion_tokens < 1:
            generation.step()
        middle = time.perf_counter()
        while not generation.done:
            generation.step()
        return Times(middle - started, time.perf_counter() - middle)
    finally:
        generation.close()
