"""How good a head is on examples that it has not seen: counts of a classifier, order and separation of relevance."""

from typing import Any

import numpy as np

MOST_SHOWN = 12
"""Labels of the largest table that is reported."""
FITS = 0.5
"""The score from which on a document counts as relevant, where it is yes or no."""


def confusion(true: np.ndarray, found: np.ndarray, count: int) -> np.ndarray:
    """How often a label (row) was called another (column). true and found (N,) of 0..count-1 -> (count, count) int64.

    >>> confusion(np.array([0, 1, 1]), np.array([0, 0, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    return np.bincount(true * count + found, minlength=count * count).reshape(count, count)


def class_report(true: np.ndarray, found: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy; F1 of each label that occurs or was said, and their mean; the table, if the labels are few."""
    table = confusion(true, found, len(labels))
    right, sums = np.diag(table), table.sum(axis=0) + table.sum(axis=1)
    f1 = {label: float(2 * r / s) for label, r, s in zip(labels, right, sums, strict=True) if s}
    told: dict[str, Any] = {"accuracy": float(right.sum() / len(true)), "macro_f1": float(np.mean(list(f1.values())))}
    if len(labels) <= MOST_SHOWN:
        told |= {"f1": f1, "confusion": table.tolist()}
    return told


def rank_report(queries: np.ndarray, scores: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """nDCG@10 and MRR, means over queries that have a choice, and AUC over all pairs; None where there is none.

    queries (N,), scores (N,) from 0 to 1, found (N,). The gain of a document is its score; of equal `found` the first
    comes first. A query has a choice when its scores differ.
    """
    gains, ranks = [], []
    for query in dict.fromkeys(queries.tolist()):
        mine = np.flatnonzero(queries == query)
        if len(set(scores[mine].tolist())) < 2:
            continue
        given = scores[mine][np.argsort(-found[mine], kind="stable")]
        weights = 1 / np.log2(np.arange(len(given)) + 2.0)
        ideal = np.sort(given)[::-1]
        gains.append(float((given * weights)[:10].sum() / (ideal * weights)[:10].sum()))
        fits = np.flatnonzero(given >= FITS)
        ranks.append(1 / (1 + int(fits[0])) if len(fits) else 0.0)
    means = {"ndcg_at_10": gains, "mrr": ranks}
    told: dict[str, Any] = {name: float(np.mean(each)) if each else None for name, each in means.items()}
    return told | {"auc": auc(scores >= FITS, found), "queries": len(gains)}


def auc(fits: np.ndarray, found: np.ndarray) -> float | None:
    """How likely one that fits is above one that does not, ties half; None where either is missing.

    >>> auc(np.array([True, False, False]), np.array([0.5, 0.5, 0.1]))
    0.75
    """
    yes, no = int(fits.sum()), int((~fits).sum())
    if not yes or not no:
        return None
    _, place, counts = np.unique(found, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2  # the mean rank, from 1, of equal values
    return float((middle[place][fits].sum() - yes * (yes + 1) / 2) / (yes * no))
