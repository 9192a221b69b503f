"""`soberano bench llm`: speed, memory and cold start of a model, beside a peer on the same file, in one run."""

import time
from pathlib import Path

from soberano.backends import native
from soberano.backends.choose import choose
from soberano.backends.plan import Plan
from soberano.bench import cold_start, memory, speed
from soberano.bench.case import Ask, Case
from soberano.bench.peers import Peer
from soberano.bench.report import LlmResult
from soberano.bench.roof import Roof
from soberano.bench.rows import append, row
from soberano.bench.score import sample_text
from soberano.bench.speed import Pair
from soberano.core.memory import peak_memory
from soberano.core.progress import Progress, silent
from soberano.core.settings import settings
from soberano.formats import gguf
from soberano.models.load import check_decoder, load_decoder
from soberano.text import tokenizer as tokenizers


def run(ask: Ask, *, results: Path | None = None, progress: Progress = silent) -> LlmResult:
    """Measure a model; `results` is a folder that gets the rows which name a peer.

    Raises InputError when the peer is unknown or cannot be imported by `peer_python` (this Python if None), and for an
    encoder, which neither reads a prompt nor generates.
    """
    check_decoder(ask.path)
    plan, tokens = choose(ask.backend, progress=progress), _tokens(ask)
    found = LlmResult(
        model=ask.path.name,
        plan=f"{plan.backend}, {plan.isa}, {native.threads()} threads",
        prompt_tokens=ask.prompt_tokens,
        new_tokens=ask.new_tokens,
        repeat=ask.repeat,
        context=ask.room,
    )
    if ask.against:  # before anything is measured: it may not be there
        with Peer(ask.against, ask.path, native.threads(), ask.room, ask.peer_python) as peer:
            found.peer = {"name": ask.against, "label": peer.label} | peer.info
    note = _Notes(ask, plan, found)
    if ask.does("memory"):
        _memory(ask, tokens, found, note)
    if ask.does("cold-start"):
        _cold_start(ask, found, note, progress)
    if ask.does("speed"):
        _speed(ask, tokens, found, note, progress)
    if results:
        append([r for r in found.rows if r.peer_name], results)
    return found


def backend_label(plan: Plan) -> str:
    """The backend as rows call it: with the instruction set, where SOBERANO_ISA chose it."""
    return plan.backend if settings().isa == "auto" or not plan.native else f"{plan.backend} {plan.isa}"


class _Notes:
    """Puts rows into a result."""

    def __init__(self, ask: Ask, plan: Plan, found: LlmResult) -> None:
        self._stem, self._backend, self._found = ask.path.stem, backend_label(plan), found

    def __call__(
        self,
        what: str,
        unit: str,
        ours: float,
        theirs: float | None,
        *,
        peer_name: str | None = None,
        smaller_is_better: bool = False,
        limit_share: float | None = None,
    ) -> None:
        name = None if theirs is None else peer_name or self._found.peer["label"]
        self._found.rows.append(
            row(
                self._backend,
                f"{self._stem} {what}",
                ours,
                unit,
                theirs,
                name,
                smaller_is_better=smaller_is_better,
                limit_share=limit_share,
            )
        )


def _tokens(ask: Ask) -> list[int]:
    """Ordinary text, as many tokens as the longest case wants."""
    count = max(case.tokens for case in ask.cases)
    with gguf.read(ask.path) as file:
        tokenizer = tokenizers.from_metadata(file.metadata)
    found = tokenizer.encode(sample_text()[: 40 * count])
    return (found * (count // len(found) + 1))[:count]


def _speed(ask: Ask, tokens: list[int], found: LlmResult, note: _Notes, progress: Progress) -> None:
    started = time.perf_counter()
    with load_decoder(ask.path, backend=ask.backend, context=ask.room, cache=ask.cache, progress=progress) as model:
        found.load_s = time.perf_counter() - started
        found.first_token_s = speed.once(model, tokens, Case(0, 16, 1)).prefill_s
        roof = Roof(model)
        peer = Peer(ask.against, ask.path, native.threads(), ask.room, ask.peer_python) if ask.against else None
        try:
            pairs, beside = speed.measure(
                model,
                peer,
                tokens,
                ask.cases,
                repeat=ask.repeat,
                busy=ask.busy,
                each_round=roof.measure,
                progress=progress,
            )
        finally:
            if peer:
                peer.close()
    found.prefill_tps, found.decode_tps = pairs[0].ours.prefill_tps, pairs[0].ours.decode_tps
    found.peak_rss_bytes, found.machine = peak_memory(), roof.to_text()
    for case, (ours, theirs) in zip(ask.cases, pairs, strict=True):
        share = roof.prefill_share(ours.prefill_tps)
        note(case.prefill, "tok/s", ours.prefill_tps, theirs.prefill_tps if theirs else None, limit_share=share)
        share = roof.decode_share(ours.decode_tps, seen=case.tokens - case.new / 2)
        note(case.decode, "tok/s", ours.decode_tps, theirs.decode_tps if theirs else None, limit_share=share)
    if beside:
        _busy(f"{ask.cases[0].decode}, all cores busy", pairs[0], beside, note)


def _busy(what: str, idle: Pair, beside: Pair, note: _Notes) -> None:
    """The speed beside others, and the share of the undisturbed speed that it is."""
    (ours, theirs), theirs_idle = beside, idle.theirs
    note(what, "tok/s", ours.decode_tps, theirs.decode_tps if theirs else None)
    kept = 100 * ours.decode_tps / idle.ours.decode_tps
    note(
        f"{what}: kept", "%", kept, 100 * theirs.decode_tps / theirs_idle.decode_tps if theirs and theirs_idle else None
    )


def _memory(ask: Ask, tokens: list[int], found: LlmResult, note: _Notes) -> None:
    case, theirs = ask.cases[0], None
    how = {"backend": ask.backend, "context": ask.room, "cache": ask.cache}
    ours = memory.ours(ask.path, how, tokens, case)
    if ask.against:
        theirs = memory.theirs(ask.against, ask.path, native.threads(), ask.room, tokens, case, ask.peer_python)
    for what, i in (("private memory", 0), ("peak memory", 1)):
        other = None if theirs is None else theirs[i] / 1e6
        note(f"{what}, context {ask.room}", "MB", ours[i] / 1e6, other, smaller_is_better=True)


def _cold_start(ask: Ask, found: LlmResult, note: _Notes, progress: Progress) -> None:
    commands = {"ours": cold_start.ours(ask.path, ask.backend, ask.room)}
    names: dict[str, str] = {}
    if ask.against:
        names["python"] = f"{found.peer['label']} from Python"
        commands["python"] = cold_start.from_python(ask.against, ask.path, native.threads(), ask.room, ask.peer_python)
    if ask.peer_binary:
        commands["program"] = cold_start.program(ask.peer_binary, ask.path, native.threads(), ask.room)
        names["program"] = f"{Path(ask.peer_binary).name} {cold_start.program_set(commands['program'][0])}".strip()
    times = cold_start.measure(commands, repeat=ask.repeat, progress=progress)
    if not names:
        note("cold start to first token", "s", times["ours"], None)
    for side, name in names.items():
        note("cold start to first token", "s", times["ours"], times[side], peer_name=name, smaller_is_better=True)
