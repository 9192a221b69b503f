"""`soberano train head`, as a function: a small network on the vectors that a frozen encoder makes of texts.

    logits = skip x + out relu(hidden x + hidden_bias) + bias

Every text is embedded once. The network begins as what costs nothing to have, no opinion on a class and the cosine for
relevance, and learns what is better: AdamW by optax on a flax nnx module. When to stop is told by a part of the
examples that is not learnt; what is reported was measured on another part that nothing has looked at.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optax
from flax import nnx

from soberano.core.errors import InputError
from soberano.core.hashing import sha256
from soberano.core.progress import Progress, silent
from soberano.models.encoder import Encoder
from soberano.models.trained_head import Base, Layers, Reads, TrainedHead, base_hash, pair_features, write_head
from soberano.ops.softmax import logsumexp
from soberano.train.head_data import Examples, read_head_examples, split
from soberano.train.head_report import class_report, rank_report

LARGEST_PART = 4096
"""Examples whose features are made at a time, when nothing is learnt."""
SAMPLE = 16_384
"""Examples that the mean and the spread of features are taken from, at most."""


@dataclass(frozen=True)
class HeadSettings:
    """What a training of a head is made of, beside its encoder and its data."""

    hidden: int = 128
    rate: float = 1e-3
    decay: float = 1e-2
    epochs: int = 100
    batch: int = 64
    patience: int = 10  # epochs without progress until it stops; 0: never
    held_out: float = 0.2  # the share that is reported on
    validation: float = 0.1  # the share that says when to stop
    class_weights: Literal["none", "balanced"] = "none"
    seed: int = 0

    def check(self) -> None:
        """Raise InputError for a number that cannot be."""
        for name, least in (("hidden", 1), ("epochs", 1), ("batch", 1), ("patience", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, and must be at least {least}")
        if not 0 < self.rate < 1 or not 0 <= self.decay < 1:
            raise InputError(f"rate is {self.rate:g} and decay {self.decay:g}; both must be below 1, the rate above 0")


class _Network(nnx.Module):
    """The head while it is trained, on features of mean 0 and spread 1."""

    def __init__(self, inputs: int, hidden: int, outputs: int, rngs: nnx.Rngs) -> None:
        zeros = nnx.initializers.zeros_init()
        self.skip = nnx.Linear(inputs, outputs, use_bias=False, kernel_init=zeros, rngs=rngs)
        self.hidden = nnx.Linear(inputs, hidden, rngs=rngs)
        self.out = nnx.Linear(hidden, outputs, kernel_init=zeros, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        """x (B, I) -> (B, C)."""
        return self.skip(x) + self.out(nnx.relu(self.hidden(x)))


@nnx.jit
def _step(network: _Network, optimizer: nnx.Optimizer, x: Any, targets: Any, weights: Any) -> Any:
    """One step on a batch: x (B, I), targets (B, C), weights (B,), 0 for a row that only fills it -> the loss."""

    def loss(network: _Network) -> Any:
        logits = network(x)
        if targets.shape[1] > 1:
            each = optax.softmax_cross_entropy(logits, targets)
        else:
            each = optax.sigmoid_binary_cross_entropy(logits, targets)[:, 0]
        return (each * weights).sum() / weights.sum()

    value, slopes = nnx.value_and_grad(loss)(network)
    optimizer.update(network, slopes)
    return value


class Training:
    """A training of a head on vectors: `run()` does all of it and leaves the best head in `layers`."""

    def __init__(self, examples: Examples, vectors: np.ndarray, settings: HeadSettings) -> None:
        """`vectors` (T, D) float32 are those of examples.texts. Raises InputError."""
        settings.check()
        self.examples, self.vectors, self.settings = examples, vectors, settings
        self.learnt, self.watched, self.held_out = split(
            examples, (settings.validation if settings.patience else 0.0, settings.held_out), settings.seed
        )
        missing = examples.targets[self.learnt].sum(axis=0) == 0
        if examples.kind == "classifier" and missing.any():
            label = examples.labels[int(missing.argmax())]
            raise InputError(f"no example of the label {label!r:.60} is left to learn; give more, or smaller shares")
        if not len(self.learnt):
            raise InputError("no example is left to learn; give more, or smaller shares")
        self.weights = self._weights()
        sample = self.learnt[np.random.default_rng([settings.seed, 2]).permutation(len(self.learnt))[:SAMPLE]]
        x = self.features(sample).astype(np.float64)
        self.mean, spread = x.mean(axis=0), x.std(axis=0)
        self.spread = np.where(spread < 1e-6, 1.0, spread)
        self.epochs = 0
        self._network = _Network(x.shape[1], settings.hidden, examples.targets.shape[1], nnx.Rngs(settings.seed))
        if examples.kind == "relevance":  # the last feature is the cosine: it begins as that
            self._network.skip.kernel[...] = self._network.skip.kernel[...].at[-1, 0].set(1.0)
        self.layers = self._exported()

    def features(self, chosen: np.ndarray) -> np.ndarray:
        """What the head reads of examples, by number -> (n, I) float32."""
        rows = self.vectors[self.examples.rows[chosen]]  # (n, 1 or 2, D)
        return rows[:, 0] if self.examples.kind == "classifier" else pair_features(rows[:, 0], rows[:, 1])

    def logits(self, chosen: np.ndarray, layers: Layers) -> np.ndarray:
        """(n, C) float32, as they are when the head is served."""
        parts = [chosen[at : at + LARGEST_PART] for at in range(0, len(chosen), LARGEST_PART)]
        return np.concatenate([layers.logits(self.features(part)) for part in parts])

    def loss(self, chosen: np.ndarray, layers: Layers) -> float:
        """The mean loss in nats, weighted as it is learnt."""
        logits = self.logits(chosen, layers).astype(np.float64)
        targets, weights = self.examples.targets[chosen], self.weights[chosen]
        if logits.shape[1] > 1:
            each = logsumexp(logits, axis=1) - (logits * targets).sum(axis=1)
        else:
            each = (np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-np.abs(logits))))[:, 0]
        return float((each * weights).sum() / weights.sum())

    def run(self, tell: Callable[[dict[str, Any]], None] = lambda row: None, progress: Progress = silent) -> None:
        """Do every epoch, or stop when what is watched gets no better; `tell` gets the numbers of each epoch."""
        s, worse = self.settings, 0
        best = self.badness(self.layers) if len(self.watched) else float("inf")
        optimizer = nnx.Optimizer(self._network, optax.adamw(s.rate, weight_decay=s.decay), wrt=nnx.Param)
        for epoch in range(s.epochs):
            turn = self.learnt[np.random.default_rng([s.seed, 3, epoch]).permutation(len(self.learnt))]
            total = 0.0
            for at in range(0, len(turn), s.batch):
                part = turn[at : at + s.batch]
                total += float(_step(self._network, optimizer, *self._batch(part))) * len(part)
            row = {"epoch": epoch + 1, "loss": total / len(turn)}
            layers = self._exported()
            if len(self.watched):
                row["validation"] = now = self.badness(layers)
                worse = 0 if now < best else worse + 1
                best = min(best, now)
            if not worse:
                self.layers, self.epochs = layers, epoch + 1
            tell(row)
            progress(f"train, loss {row['loss']:.3f}", epoch + 1, s.epochs, "epochs")
            if 0 < s.patience <= worse:
                break
        if self.examples.kind == "relevance":
            self.layers = self._calibrated(self.layers)

    def badness(self, layers: Layers) -> float:
        """How bad a head is on what is watched: 1 - nDCG@10 where queries have a choice, else the loss.

        The order within a query is what relevance is for, and the loss over all pairs may fall while it gets worse.
        """
        if self.examples.kind == "relevance":
            rows = self.watched
            found = self.logits(rows, layers)[:, 0]
            order = rank_report(self.examples.groups[rows], self.examples.targets[rows, 0], found)["ndcg_at_10"]
            if order is not None:
                return 1 - order
        return self.loss(self.watched, layers)

    def report(self) -> dict[str, Any] | None:
        """What was held out, before (the commonest label; the cosine) and after; None where nothing was."""
        if not len(self.held_out):
            return None
        targets, logits = self.examples.targets[self.held_out], self.logits(self.held_out, self.layers)
        if self.examples.kind == "classifier":
            true, common = targets.argmax(axis=1), int(self.examples.targets[self.learnt].sum(axis=0).argmax())
            before = class_report(true, np.full_like(true, common), self.examples.labels)
            after = class_report(true, logits.argmax(axis=1), self.examples.labels)
            before = {name: before[name] for name in ("accuracy", "macro_f1")}
            return {"examples": len(true), "baseline": "majority", "before": before, "after": after}
        queries, cosine = self.examples.groups[self.held_out], self.features(self.held_out)[:, -1]
        before, after = (rank_report(queries, targets[:, 0], found) for found in (cosine, logits[:, 0]))
        return {"examples": len(queries), "baseline": "cosine", "before": before, "after": after}

    def _weights(self) -> np.ndarray:
        """(N,) float32: how much each example counts."""
        targets = self.examples.targets
        if self.settings.class_weights == "none":
            return np.ones(len(targets), np.float32)
        shares = targets if targets.shape[1] > 1 else np.concatenate([1 - targets, targets], axis=1)
        sums = shares[self.learnt].sum(axis=0)
        return (shares @ (len(self.learnt) / (shares.shape[1] * np.maximum(sums, 1e-6)))).astype(np.float32)

    def _batch(self, part: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Examples as a batch that is full: one shape, one program."""
        rows, short = np.resize(part, self.settings.batch), self.settings.batch - len(part)
        weights = np.concatenate([self.weights[part], np.zeros(short, np.float32)])
        x = (self.features(rows) - self.mean) / self.spread
        return x.astype(np.float32), self.examples.targets[rows], weights

    def _calibrated(self, layers: Layers) -> Layers:
        """The head with logits a z + b that make the least loss on what was learnt: the order stays (a > 0).

        Source: Platt 1999, Probabilistic outputs for support vector machines; by Newton's method.
        """
        z, y = self.logits(self.learnt, layers)[:, 0].astype(np.float64), self.examples.targets[self.learnt, 0]
        x = np.stack([z, np.ones_like(z)], axis=1)  # (n, 2)
        weights, ab = self.weights[self.learnt].astype(np.float64), np.array([1.0, 0.0])
        for _ in range(30):
            p = 0.5 + 0.5 * np.tanh(x @ ab / 2)
            slope = x.T @ (weights * (p - y)) / weights.sum() + 1e-6 * ab
            bend = (x * (weights * p * (1 - p))[:, None]).T @ x / weights.sum() + 1e-6 * np.eye(2)
            ab = ab - np.linalg.solve(bend, slope)
        if not np.isfinite(ab).all() or ab[0] <= 0:  # what was learnt contradicts itself: leave it as it is
            return layers
        a, b = np.float32(ab[0]), np.float32(ab[1])
        return layers._replace(skip=a * layers.skip, out=a * layers.out, bias=a * layers.bias + b)

    def _exported(self) -> Layers:
        """The head as it is now, on features as they are."""
        net = self._network
        skip, hidden, out = (np.asarray(each.kernel[...], np.float64).T for each in (net.skip, net.hidden, net.out))
        skip, hidden = skip / self.spread, hidden / self.spread
        biases: tuple[Any, ...] = (net.hidden.bias, net.out.bias)
        inner, bias = (np.asarray(each[...], np.float64) for each in biases)
        found = Layers(skip, hidden, inner - hidden @ self.mean, out, bias - skip @ self.mean)
        return Layers(*(np.ascontiguousarray(each, np.float32) for each in found))


def train_head(
    model: Encoder,
    data: Path,
    out: Path,
    settings: HeadSettings,
    *,
    tell: Callable[[dict[str, Any]], None] = lambda row: None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Train a head on examples of a file or folder and write it to the folder `out` -> what its head.json says.

    Raises what reading data, settings and the encoder raise, before anything is computed.
    """
    settings.check()
    examples = read_head_examples(data)
    if model.ranks:
        raise InputError(f"{model.name} is a cross-encoder with a head of its own; give an encoder that embeds texts")
    split(examples, (settings.validation, settings.held_out), settings.seed)  # what cannot be is said before embedding
    training = Training(examples, model.embed(examples.texts, progress=progress), settings)
    training.run(tell, progress)
    reads = Reads.of(model.sentence, model.width, model.context)
    base = Base(model.name, base_hash(model.path, progress))
    head = TrainedHead(examples.kind, examples.labels, training.layers, reads, base)
    told = {
        "data": {
            "path": str(data),
            "form": examples.form,
            "sha256": sha256(data) if data.is_file() else None,
            "learnt": len(training.learnt),
            "validation": len(training.watched),
            "held_out": len(training.held_out),
            "twice": examples.twice,
        },
        "settings": asdict(settings),
        "backend": model.plan.backend,
        "epochs": training.epochs,
        "report": training.report(),
        "versions": {name: version(name) for name in ("soberano", "flax", "optax", "jax", "numpy")},
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return write_head(out, head, told)
