"""`soberano train lora`, as a function: from a model and data to an adapter, its numbers and its card."""

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from soberano.core import durable
from soberano.core.errors import InputError
from soberano.core.hashing import sha256
from soberano.core.memory import free_memory
from soberano.core.progress import Progress, silent
from soberano.models.model import Model
from soberano.train.data import read_examples
from soberano.train.encode import Encoded, encode_examples
from soberano.train.export import write_gguf, write_peft
from soberano.train.picture import picture
from soberano.train.plan import check
from soberano.train.run import Run, Settings

log = logging.getLogger("soberano.train")


def texts_of(model: Model, data: Path, settings: Settings, *, cut: bool = False) -> list[Encoded]:
    """The examples of a file or folder as tokens. Raises InputError with file and line for what is wrong."""
    return encode_examples(read_examples(data), model.tokenizer, model.chat, settings.length, cut=cut)


def split(texts: Sequence[Encoded], share: float, seed: int) -> tuple[list[Encoded], list[Encoded]]:
    """(what is learnt, what is held out): a share of the texts, at least one of two or more if the share is not 0."""
    if not 0 <= share < 1:
        raise InputError(f"the share that is held out is {share}, and must be at least 0 and below 1")
    count = 0 if share == 0 or len(texts) < 2 else max(1, round(share * len(texts)))
    turn = np.random.default_rng([seed, 1]).permutation(len(texts))
    return [texts[i] for i in sorted(turn[count:])], [texts[i] for i in sorted(turn[:count])]


def train_lora(
    model: Model,
    data: Path,
    out: Path,
    settings: Settings,
    *,
    held_out: float = 0.05,
    cut: bool = False,
    save_every: float = 60.0,
    tell: Callable[[dict[str, Any]], None] = lambda row: None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train, or go on where the folder `out` stopped; write adapter.gguf, the PEFT files, card.json and the loss.

    A checkpoint is written every `save_every` seconds, and after each epoch; loss.jsonl has a row for each step, and
    loss.png is its picture. Returns what the card says. Raises what reading data, the settings and the model's
    architecture raise, before anything is computed; CapacityError where a step cannot fit in memory.
    """
    texts, kept = split(texts_of(model, data, settings, cut=cut), held_out, settings.seed)
    settings.check()
    log.info("%s", check(model, settings.shape, settings.rows, settings.length, free := free_memory()).to_text(free))
    out.mkdir(parents=True, exist_ok=True)
    run = Run(model, texts, kept, settings, out, save_every=save_every)
    base_hash = sha256(model.path, progress)
    log_path = _cut(out / "loss.jsonl", run.seen.steps)
    with log_path.open("a") as lines:

        def both(row: dict[str, Any]) -> None:
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            tell(row)

        run.train(both, progress)
    picture(log_path, out / "loss.png")
    run.pairs = run.best()
    names = {"architecture": model.architecture, "name": out.name, "base_hash": base_hash}
    write_gguf(out / "adapter.gguf", run.pairs, settings.shape, **names)
    write_peft(out, run.pairs, settings.shape, module=model.module, config=model.config, base=model.name)
    card = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "soberano": version("soberano"),
        "base": {"name": model.name, "file": model.path.name, "sha256": base_hash},
        "data": {"path": str(data), "texts": len(texts), "held_out": len(kept), "blake2b": run.data_hash},
        "settings": asdict(settings),
        "backend": model.plan.backend,
        "steps": run.seen.steps,
        "held_out_loss": {"before": run.seen.before, "after": run.evaluate(kept) if kept else None},
    }
    part = out / ".card.json.part"
    part.write_text(json.dumps(card, indent=2) + "\n")
    durable.rename(part, out / "card.json")
    return card


def _cut(path: Path, steps: int) -> Path:
    """Leave in loss.jsonl what was before a step: what comes after it is done again."""
    if path.exists():
        rows = [line for line in path.read_text().splitlines(keepends=True) if _step(line) <= steps]
        part = path.with_name(f".{path.name}.part")
        part.write_text("".join(rows))
        durable.rename(part, path)
    return path


def _step(line: str) -> float:
    """The step that a row tells of; that of half a row never was."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
