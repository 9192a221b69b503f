"""Teacher-forced logits of a model, and how far two sets of them are apart."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from soberano.core.progress import Progress, silent
from soberano.core.types import Array
from soberano.models.model import Model


def sample_text() -> str:
    """Ordinary English prose that is on every machine: what Python's own help says of its topics."""
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


ROWS = 64
"""Tokens whose logits are compared at once: in float64, and of a large vocabulary, those of all would fill memory."""


def logits(
    model: Model, tokens: Sequence[int], *, single: bool = False, progress: Progress = silent
) -> Iterator[np.ndarray]:
    """Yield float32 (n, V): the logits after each token, given all before it.

    `single` feeds one token at a time, as decode does.
    """
    pages, programs = model.pages.take(len(tokens)), model.programs

    def table(end: int) -> Array:
        return model.home.asarray(programs.table(pages, programs.table_width(end, model.context)))

    try:
        done = 0
        while done < len(tokens):
            chunk, count = programs.prompt(tokens, done, table, single=single)
            out = model.forward(chunk, "token" if single else "prompt", every=True)
            done += count
            yield model.home.to_numpy(out)[0, :count]
            progress(f"{model.plan.backend} {'decode' if single else 'prefill'}", done, len(tokens), "tokens")
    finally:
        model.pages.give_back(pages)


@dataclass(frozen=True)
class Distance:
    """How far logits are from a reference, over some tokens."""

    tokens: int
    kl_mean: float
    kl_max: float
    agreement: float  # share of tokens whose best token is the same
    gap_p99: float  # where it is not: by how much the reference prefers its own, 99th percentile

    def to_json(self) -> dict[str, float]:
        """The fields by name."""
        return asdict(self)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64: a divergence of 1e-9 is the difference of numbers near 1."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _pieces(reference: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for expected, actual in zip(reference, others, strict=True):
        for at in range(0, max(len(expected), len(actual)), ROWS):
            yield expected[at : at + ROWS], actual[at : at + ROWS]


def nats(logits: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """How surprising each token but the first is, given those before it: logits (n, V), tokens (n) -> (n - 1,) nats.

    Perplexity is e to the mean of these.
    """
    found = []
    for at in range(0, len(tokens) - 1, ROWS):
        following = tokens[at + 1 : at + 1 + ROWS]
        found.append(-_log_softmax(logits[at : at + len(following)])[np.arange(len(following)), following])
    return np.concatenate(found)


def distance(reference: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> Distance:
    """Compare logits, chunk by chunk, each (n, V). The divergence is KL(reference || other), in nats."""
    divergences, agreements, gaps = [], [], []
    for expected, actual in _pieces(reference, others):
        p, q = _log_softmax(expected), _log_softmax(actual)
        divergences.append((np.exp(p) * (p - q)).sum(-1))
        best, theirs = expected.argmax(-1), actual.argmax(-1)
        agreements.append(best == theirs)
        rows = np.flatnonzero(best != theirs)
        gaps.append(expected[rows, best[rows]] - expected[rows, theirs[rows]])
    kl, same, gap = np.concatenate(divergences), np.concatenate(agreements), np.concatenate(gaps)
    p99 = float(np.percentile(gap, 99)) if len(gap) else 0.0
    return Distance(len(kl), float(kl.mean()), float(kl.max()), float(same.mean()), p99)
