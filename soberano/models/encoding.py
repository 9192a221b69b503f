"""Texts on their way through an encoder: a batch a step, so that others may have their turn in between."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from soberano.models.batches import Batch


class Vectors(NamedTuple):
    """The vectors of some texts."""

    places: list[int]  # of the texts in what was asked
    rows: np.ndarray  # (n, dimensions) float32; of pairs that are ranked the scores (n, 1) float64


class Encoding:
    """Some texts, given as tokens, and the batches that they make. `step` until `done`."""

    def __init__(
        self, texts: Sequence[Sequence[int]], todo: Iterator[Batch], run: Callable[[Batch], np.ndarray]
    ) -> None:
        """`run` turns a batch into its rows."""
        self.prompt_tokens, self.completion_tokens = sum(map(len, texts)), 0
        self.texts_done, self.finish_reason, self.timings = 0, "stop", dict[str, float]()
        self.done = not texts
        self._todo, self._run, self._count = todo, run, len(texts)
        self._started = time.perf_counter()

    def step(self) -> list[Vectors]:
        """Run one batch.

        Whatever it raises, the encoding is done.
        """
        if self.done:
            return []
        try:
            batch = next(self._todo)
            rows = self._run(batch)
        except BaseException:
            self.done = True
            raise
        self.texts_done += len(batch.texts)
        self.done = self.texts_done == self._count
        self.timings = {"embed_s": time.perf_counter() - self._started}
        return [Vectors(batch.texts, rows)]

    def close(self) -> None:
        """Nothing is held; what is closed is done."""
        self.done = True
