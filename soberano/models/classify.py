"""Texts by what they are: `model.classify(["one text", "another"])`, by a head that was trained on the model."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Classified(NamedTuple):
    """What a text is, and how likely."""

    label: str
    score: float  # from 0 to 1
    predictions: tuple[tuple[str, float], ...]  # every label with its score, the likeliest first


def classified(labels: Sequence[str], probabilities: np.ndarray) -> list[Classified]:
    """The labels of texts, of probabilities (N, C); of equal ones the first label comes first.

    >>> classified(("a", "b"), np.array([[0.25, 0.75]]))[0].label
    'b'
    """
    found = []
    for row in np.asarray(probabilities).tolist():
        order = sorted(range(len(labels)), key=lambda i: -row[i])
        ranked = tuple((labels[i], row[i]) for i in order)
        found.append(Classified(*ranked[0], ranked))
    return found
