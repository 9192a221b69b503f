"""Texts of all lengths into rows of one length, so that no step computes padding and none compiles anew.

Rows are filled first-fit in a shuffled order. A token sees its own text only (see soberano.train.texts), so packing
changes no loss. Everything follows from a seed and the number of the epoch: a run that goes on needs to know no more.
"""

from collections.abc import Sequence

import numpy as np

from soberano.train.encode import Encoded
from soberano.train.step import Batch

OPEN = 64
"""Rows that a text may still go into: enough to fill well, and bounded for millions of texts."""


def order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of the texts in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def pack(lengths: Sequence[int], length: int) -> list[list[int]]:
    """Which texts go into which row of `length` tokens: each into the first open row that has room for it.

    >>> pack([5, 6, 3, 2], 8)
    [[0, 2], [1, 3]]
    """
    rows: list[list[int]] = []
    free: list[list[int]] = []  # [room, row], the open ones
    for text, size in enumerate(lengths):
        for place in free:
            if place[0] >= size:
                rows[place[1]].append(text)
                place[0] -= size
                break
        else:
            rows.append([text])
            free.append([length - size, len(rows) - 1])
            if len(free) > OPEN:
                free.remove(min(free))
    return rows


def batch_of(rows: Sequence[Sequence[Encoded]], length: int, count: int) -> Batch:
    """Rows of texts as arrays (count, length); rows that are missing, and the ends of the others, are padding."""
    tokens, positions = np.zeros((2, count, length), np.int32)
    segments, targets = np.full((2, count, length), -1, np.int32)
    for at, row in enumerate(rows):
        start = 0
        for i, text in enumerate(row):
            stop = start + len(text.tokens)
            tokens[at, start:stop] = text.tokens
            positions[at, start:stop] = np.arange(stop - start)
            segments[at, start:stop] = i
            targets[at, start : stop - 1] = np.where(text.learnt[1:], text.tokens[1:], -1)
            start = stop
    return Batch(tokens, positions, segments, targets)
