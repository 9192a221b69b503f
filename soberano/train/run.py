"""A training run: epochs of packed rows, steps of the optimizer, evaluations, checkpoints; it goes on where it stopped.

The run depends on its settings, its data and its model alone: a run that was killed and goes on makes the very adapter
that an undisturbed one would have made.
"""

import functools
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from soberano.backends.tree import map_arrays
from soberano.core.errors import InputError
from soberano.core.memory import peak_memory
from soberano.core.progress import Progress, silent
from soberano.core.units import bytes_text
from soberano.models.adapter import Pair
from soberano.models.model import Model
from soberano.train import checkpoint
from soberano.train.adapters import Shape, fresh
from soberano.train.devices import Devices
from soberano.train.encode import Encoded
from soberano.train.optimizer import Rates, follow, optimizer
from soberano.train.packing import batch_of, order, pack
from soberano.train.step import Batch, loss_and_grad, loss_only


@dataclass(frozen=True)
class Settings:
    """What a run is made of, beside its model and its data."""

    shape: Shape = field(default_factory=Shape)
    rates: Rates = field(default_factory=Rates)
    epochs: int = 3
    length: int = 512  # tokens of a row
    rows: int = 1  # of a batch: what is computed at once
    accumulate: int = 4  # batches of a step
    seed: int = 0
    devices: int = 1  # that share the rows of a batch
    share_base: bool = False  # each device holds a share of the frozen weights, and not a copy
    exact: bool = False  # float32 where kernels would round activations
    patience: int = 0  # evaluations without progress until it stops; 0: never

    def check(self) -> None:
        """Raise InputError for a number that cannot be."""
        for name in ("epochs", "length", "rows", "accumulate", "devices"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, and must be at least 1")
        if self.rows % self.devices:
            raise InputError(f"{self.devices} devices cannot share {self.rows} rows evenly; let rows be a multiple")


@dataclass
class Seen:
    """How far a run is."""

    epoch: int = 0
    step: int = 0  # of the epoch
    steps: int = 0  # of all
    before: float | None = None  # the loss on what is held out before the first step
    best: float | None = None  # the least loss of an evaluation
    worse: int = 0  # evaluations since then


BEST = "best.npz"


class Run:
    """A run: `train()` does what is left of it."""

    def __init__(
        self,
        model: Model,
        texts: Sequence[Encoded],
        held_out: Sequence[Encoded],
        settings: Settings,
        folder: Path,
        *,
        save_every: float = 60.0,
    ) -> None:
        settings.check()
        self.save_every = save_every  # seconds between checkpoints within an epoch: no more than that is lost
        self.model, self.texts, self.held_out, self.settings, self.folder = model, texts, held_out, settings, folder
        how = model.home, model.module_name, model.config, model.plan, settings.shape
        self._gradient = loss_and_grad(*how, exact=settings.exact)
        self._loss = loss_only(*how, exact=settings.exact)
        self._devices = Devices(model, settings.devices, share=settings.share_base)
        self.per_epoch = len(self._steps_of(0))
        self.optimizer = optimizer(settings.rates, settings.epochs * self.per_epoch)
        self._follow = follow(self.optimizer)
        self.pairs: dict[str, Pair] = fresh(model.module, model.config, settings.shape, settings.seed)
        self.state = self.optimizer.init(self.pairs)
        self.seen = Seen()
        found = checkpoint.load(folder, (self.pairs, self.state))
        if found:
            told, (self.pairs, self.state) = found
            if told["settings"] != self._said():
                raise InputError(
                    f"{folder} holds a run with other settings; give it the same, or another --out, or remove it"
                )
            self.seen = Seen(**told["seen"])

    def train(self, tell: Callable[[dict[str, Any]], None] = lambda row: None, progress: Progress = silent) -> None:
        """Do every step that is left; `tell` gets a row of numbers after each step and each evaluation."""
        if self.held_out and self.seen.before is None:
            self.seen.before = self.evaluate(self.held_out)
            tell({"step": 0, "held_out_loss": self.seen.before})
        saved = time.monotonic()
        for epoch in range(self.seen.epoch, self.settings.epochs):
            steps = self._steps_of(epoch)
            for at in range(self.seen.step, len(steps)):
                started = time.perf_counter()
                loss, tokens, norm = self._step(steps[at])
                self.seen.step, self.seen.steps = at + 1, self.seen.steps + 1
                took, total = time.perf_counter() - started, self.settings.epochs * self.per_epoch
                progress("train", self.seen.steps, total, f"steps, loss {loss:.3f}, {self._pace(len(steps[at]), took)}")
                tell({"step": self.seen.steps, "loss": loss, "tokens": tokens, "grad_norm": norm, "seconds": took})
                if time.monotonic() - saved >= self.save_every:
                    self.save()
                    saved = time.monotonic()
            self.seen.epoch, self.seen.step = epoch + 1, 0
            if self._evaluate(tell):
                break

    def _pace(self, rows: int, seconds: float) -> str:
        peak = peak_memory()
        memory = "" if peak is None else f", {bytes_text(peak)}"
        return f"{rows * self.settings.length / seconds:,.0f} tokens/s{memory}"

    def _steps_of(self, epoch: int) -> list[list[list[int]]]:
        """The rows of each step of an epoch: lists of texts by number."""
        s = self.settings
        turn = order(len(self.texts), s.seed, epoch)
        rows = [[int(turn[i]) for i in row] for row in pack([len(self.texts[i].tokens) for i in turn], s.length)]
        many = s.rows * s.accumulate
        return [rows[at : at + many] for at in range(0, len(rows), many)]

    def _batches(self, rows: Sequence[Sequence[Encoded]]) -> list[Batch]:
        s = self.settings
        return [batch_of(rows[at : at + s.rows], s.length, s.rows) for at in range(0, len(rows), s.rows)]

    def _step(self, rows: list[list[int]]) -> tuple[float, int, float]:
        """One step of the optimizer: (loss for each learnt token, learnt tokens, length of the gradient)."""
        pairs = self._devices.copies(self.pairs)
        total, learnt, gradient = 0.0, 0, None
        for batch in self._batches([[self.texts[i] for i in row] for row in rows]):
            value, grads = self._gradient(pairs, self._devices.weights, self._devices.rows(batch))
            learnt += int((batch.targets >= 0).sum())
            total += float(value)
            gradient = grads if gradient is None else _added(gradient, grads)
        gradient = map_arrays(self.model.home.to_numpy, gradient)
        pairs, self.state, norm = self._follow(self.pairs, self.state, gradient, np.float32(learnt))
        self.pairs = {name: Pair(*map(np.asarray, pairs[name])) for name in self.pairs}  # JAX sorts names, we do not
        return total / learnt, learnt, float(norm)

    def evaluate(self, texts: Sequence[Encoded]) -> float:
        """The loss of texts for each learnt token, with the adapters as they are now, in nats."""
        total, learnt = 0.0, 0
        pairs = self._devices.copies(self.pairs)
        rows = [[texts[i] for i in row] for row in pack([len(text.tokens) for text in texts], self.settings.length)]
        for batch in self._batches(rows):
            total += float(self._loss(pairs, self._devices.weights, self._devices.rows(batch)))
            learnt += int((batch.targets >= 0).sum())
        return total / learnt

    def save(self) -> None:
        """Write a checkpoint, from which another process goes on."""
        checkpoint.save(self.folder, {"settings": self._said(), "seen": asdict(self.seen)}, (self.pairs, self.state))

    def _evaluate(self, tell: Callable[[dict[str, Any]], None]) -> bool:
        """Evaluate after an epoch, keep the best adapters, write a checkpoint; whether it is time to stop."""
        if self.held_out:
            loss = self.evaluate(self.held_out)
            tell({"step": self.seen.steps, "held_out_loss": loss})
            if self.seen.best is None or loss < self.seen.best:
                self.seen.best, self.seen.worse = loss, 0
                checkpoint.save(self.folder, {"loss": loss}, self.pairs, name=BEST)
            else:
                self.seen.worse += 1
        self.save()
        return 0 < self.settings.patience <= self.seen.worse

    def best(self) -> dict[str, Pair]:
        """The adapters with the least loss on what was held out; the last ones where nothing was."""
        found = checkpoint.load(self.folder, self.pairs, name=BEST) if self.held_out else None
        return found[1] if found else self.pairs

    @functools.cached_property
    def data_hash(self) -> str:
        """What tells one set of texts from another."""
        seen = hashlib.blake2b(digest_size=16)
        for text in (*self.texts, *self.held_out):
            seen.update(text.tokens.tobytes() + text.learnt.tobytes())
        return seen.hexdigest()

    def _said(self) -> dict[str, Any]:
        """The settings and the data, as a checkpoint holds them."""
        return {**json.loads(json.dumps(asdict(self.settings))), "data": self.data_hash, "model": self.model.name}


def _added(a: Any, b: Any) -> Any:
    """The sum of two gradients."""
    return {name: Pair(*(x + y for x, y in zip(pair, b[name], strict=True))) for name, pair in a.items()}
