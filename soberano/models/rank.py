"""Documents by how well they answer a query: `model.rerank("query", ["one document", "another"])`.

Two kinds of model can tell. A cross-encoder reads both texts at once and has a head that scores the pair; a model that
generates text is asked whether the document answers the query, and the score is how likely it says yes: see judge.py.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from soberano.core.errors import InputError
from soberano.core.progress import Progress, silent
from soberano.models.encoding import Vectors


@dataclass(frozen=True)
class Ranked:
    """A document and how well it fits."""

    index: int  # its place in what was asked
    score: float  # from 0 to 1


class Pairs(NamedTuple):
    """A query with each document, as tokens that a model reads."""

    tokens: list[list[int]]
    cut: int  # of how many documents the end was left out, for want of room
    apart: bool = False  # the query is read by itself, first, and then each document by itself

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return len(self.tokens) - self.apart


class Ranking(Protocol):
    """Pairs on their way to scores: `step` until `done`, then `close`."""

    done: bool

    def step(self) -> Sequence[Vectors]:
        """Do a part of the work; return the scores (n, 1) that are known by it."""

    def close(self) -> None:
        """Let go of what is held."""


class Ranker(Protocol):
    """What ranking needs of a model."""

    def pairs(self, query: str, documents: Sequence[str], instruction: str | None = None) -> Pairs:
        """What the model reads. `instruction` says what makes a document fit, to models that take one."""

    def start_ranking(self, pairs: Sequence[Sequence[int]]) -> Ranking:
        """Begin to score pairs."""


def rerank(
    model: Ranker,
    query: str,
    documents: Sequence[str],
    *,
    top: int | None = None,
    instruction: str | None = None,
    progress: Progress = silent,
) -> list[Ranked]:
    """Score every document against the query -> the best `top` of them, or all, best first.

    A document that is longer than the context is cut. Raises InputError, and ContextError for a query that leaves no
    room for documents.
    """
    if isinstance(documents, str):
        raise InputError(f"documents is the string {documents!r:.60}; give a list of strings")
    for what, text in [("the query", query), *((f"document {i}", text) for i, text in enumerate(documents))]:
        if not isinstance(text, str):
            raise InputError(f"{what} is {text!r:.60}, and must be a string; decode it first")
    if top is not None and (type(top) is not int or top < 1):
        raise InputError(f"top is {top!r:.40}; give a number of documents, 1 or more")
    return best(scores(model, model.pairs(query, documents, instruction), progress), top)


def scores(model: Ranker, pairs: Pairs, progress: Progress = silent) -> list[float]:
    """The score of each pair, in order."""
    found, done = [0.0] * pairs.documents, 0
    for part in _steps(model.start_ranking(pairs.tokens)):
        for place, row in zip(part.places, part.rows, strict=True):
            found[place] = float(row[0])
        done += len(part.places)
        progress("rank", done, len(found), "documents")
    return found


def best(scores: Sequence[float], top: int | None) -> list[Ranked]:
    """The best `top` places, or all; of equal scores the first comes first.

    >>> best([0.25, 0.75, 0.25], 2)
    [Ranked(index=1, score=0.75), Ranked(index=0, score=0.25)]
    """
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    return [Ranked(i, scores[i]) for i in order[:top]]


def probability(logit: Any) -> float:
    """1 / (1 + exp(-logit)), of any number without overflow.

    >>> probability(0.0), probability(-1e6)
    (0.5, 0.0)
    """
    small = math.exp(-abs(logit))
    return (1.0 if logit >= 0 else small) / (1 + small)


def types(tokens: np.ndarray, separator: int | None) -> np.ndarray:
    """Which of two texts a token is of: tokens (B, T) -> (B, T) int32, 1 behind the first separator of a row, else 0.

    No text whatever holds a separator inside, as control tokens are never made of text.

    >>> types(np.array([[2, 5, 3, 6, 3]]), 3).tolist()
    [[0, 0, 0, 1, 1]]
    """
    is_end = tokens == separator
    return (np.cumsum(is_end, axis=1) - is_end > 0).astype(np.int32)


def _steps(ranking: Ranking) -> Iterator[Vectors]:
    try:
        while not ranking.done:
            yield from ranking.step()
    finally:
        ranking.close()
