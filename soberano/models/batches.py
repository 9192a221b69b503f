"""Which texts go through an encoder together: those of nearly one length, in few shapes, so in few programs.

A batch is padded to a length of LENGTHS and to a number of texts of ROWS where a shape costs a compilation, and to its
own longest text where it does not.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from soberano.core.errors import CapacityError
from soberano.core.units import bytes_text

LENGTHS = (8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 448, 512)
"""The lengths in tokens that batches are padded to; longer ones to a multiple of the last."""
ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""The numbers of texts that batches are padded to."""
USUAL = 32
"""How many texts go together unless somebody asks for another number."""
MOST_TOKENS = 16_384
"""Tokens of a batch, padding included: what lies between the layers of a large model still fits into memory."""


class Batch(NamedTuple):
    """Some texts on their way through an encoder."""

    texts: list[int]  # which ones: their places in what was asked
    tokens: np.ndarray  # (B, T) int32, 0 behind the end of a text
    lengths: np.ndarray  # (B,) int32; a row without a text has one token


def batches(texts: Sequence[Sequence[int]], most: int, *, pads: bool) -> Iterator[Batch]:
    """Cut texts, each a sequence of token ids, into batches of at most `most` texts, the longest first.

    Whoever comes first shows what the largest batch takes, in memory and in time. A text of less than three quarters of
    the longest one begins the next batch.
    """
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    at = 0
    while at < len(order):
        longest = len(texts[order[at]])
        length = _above(LENGTHS, longest) if pads else longest
        count = max(1, min(most, MOST_TOKENS // length))
        chosen = [i for i in order[at : at + count] if 4 * len(texts[i]) >= 3 * longest]
        yield _padded(texts, chosen, length, _above(ROWS, len(chosen)) if pads else len(chosen))
        at += len(chosen)


def check_memory(weights: int, context: int, width: int, ffn: int, free: int) -> None:
    """Raise CapacityError unless `free` bytes hold those of the weights and the largest batch of texts.

    A batch is measured by what lies between the parts of a layer: five rows as wide as the model (what comes in,
    queries, keys, values, what they saw) and two of the feed-forward, in float32.
    """
    tokens = max(context, min(MOST_TOKENS, USUAL * context))
    batch = 4 * tokens * (5 * width + 2 * ffn)
    if weights + batch > free:
        raise CapacityError(
            f"the weights take {bytes_text(weights)} and texts of up to {context} tokens {bytes_text(batch)}, and "
            f"{bytes_text(free)} of memory are free; ask for a smaller context or model, or close other programs"
        )


def _padded(texts: Sequence[Sequence[int]], chosen: list[int], length: int, rows: int) -> Batch:
    tokens, lengths = np.zeros((rows, length), np.int32), np.ones(rows, np.int32)
    for row, i in enumerate(chosen):
        tokens[row, : len(texts[i])], lengths[row] = texts[i], len(texts[i])
    return Batch(chosen, tokens, lengths)


def _above(sizes: tuple[int, ...], size: int) -> int:
    """The smallest of the sizes that is no smaller; above them, the next multiple of the last.

    >>> _above(LENGTHS, 17), _above(LENGTHS, 513)
    (24, 1024)
    """
    return next((each for each in sizes if each >= size), -(-size // sizes[-1]) * sizes[-1])
