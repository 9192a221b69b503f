"""Documents on their way through an encoder to the scores of a head that was trained on it: see trained_head.py."""

from collections.abc import Sequence

import numpy as np

from soberano.models.encoding import Encoding, Vectors
from soberano.models.trained_head import TrainedHead


class Relevances:
    """The vector of a query and those of documents, and the scores when all are there. `step` until `done`."""

    def __init__(self, encoding: Encoding, head: TrainedHead) -> None:
        """`encoding` is of the query, and behind it of the documents."""
        self.prompt_tokens, self.completion_tokens = encoding.prompt_tokens, 0
        self.done, self.finish_reason, self.timings = encoding.done, encoding.finish_reason, encoding.timings
        self._encoding, self._head = encoding, head
        self._rows: dict[int, np.ndarray] = {}

    def step(self) -> Sequence[Vectors]:
        """Run one batch; return the scores (n, 1) float64 of all documents with the last.

        Whatever it raises, the ranking is done.
        """
        try:
            for part in self._encoding.step():
                self._rows.update(zip(part.places, part.rows, strict=True))
        finally:
            self.done, self.timings = self._encoding.done, self._encoding.timings
        if not self.done or len(self._rows) < 2:
            return []
        documents = np.stack([self._rows[i] for i in range(1, len(self._rows))])
        scores = self._head.relevance(self._rows[0], documents).astype(np.float64)
        return [Vectors(list(range(len(scores))), scores[:, None])]

    def close(self) -> None:
        """Let go of the vectors."""
        self._rows.clear()
        self._encoding.close()
        self.done = True
