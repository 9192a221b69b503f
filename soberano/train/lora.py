"""`soberano train lora`, as a function: from a model and data to an adapter, its numbers and its card."""

import json
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
from soberano.core.progress import Progress, silent
from soberano.models.model import Model
from soberano.train.data import read_examples
from soberano.train.encode import Encoded, encode_examples
from soberano.train.export import write_gguf, write_peft
from soberano.train.run import Run, Settings


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
    tell: Callable[[dict[str, Any]], None] = lambda row: None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train, or go on where the folder `out` stopped; write adapter.gguf, the PEFT files, loss.jsonl and card.json.

    Returns what the card says. Raises what reading data, the settings and the model's architecture raise, before
    anything is computed.
    """
    texts, kept = split(texts_of(model, data, settings, cut=cut), held_out, settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    run = Run(model, texts, kept, settings, out)
    base_hash = sha256(model.path, progress)
    before = run.evaluate(kept) if kept else None
    with (out / "loss.jsonl").open("a") as log:

        def both(row: dict[str, Any]) -> None:
            log.write(json.dumps(row) + "\n")
            log.flush()
            tell(row)

        run.train(both, progress)
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
        "held_out_loss": {"before": before, "after": run.evaluate(kept) if kept else None},
    }
    part = out / ".card.json.part"
    part.write_text(json.dumps(card, indent=2) + "\n")
    durable.rename(part, out / "card.json")
    return card
