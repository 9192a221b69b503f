"""Find the nearest vectors by comparing with every one: exact k-NN, for the metrics dot, cosine and l2.

A score is larger for what is nearer, whatever the metric: q.x for dot, the same of vectors of length 1 for cosine, and
q.x - |x|^2 / 2 for l2, which is (|q|^2 - distance^2) / 2. Equal scores: the smaller id first.

The base is a soberano.quant.vectors.Vectors: float32, or packed in fewer bits. Scores of a packed base are those of the
packed rows; ops/certified.py makes exact answers of them. Never is there a matrix of all scores: the base is scanned
block by block, and only the best k of each query are kept. This is the meaning; knn.cc does the same on a CPU, where a
query's scores have the same bits whatever the batch and the number of threads.
"""

from typing import Any

import numpy as np

from soberano.backends.dispatch import op
from soberano.backends.homes import home_of
from soberano.core.errors import InputError, ShapeError
from soberano.core.types import Array
from soberano.ops.distance import dot, unit
from soberano.ops.topk import top_k
from soberano.quant.vectors import LONGEST, TINY, Vectors

BLOCK = 4096
"""Rows of the base whose scores are in memory at a time, for each query."""


@op
def nearest(queries: Array, base: Vectors, k: int, *, upper: bool = False) -> tuple[Array, Array]:
    """Find the k nearest of N vectors: scores in descending order, and ids. Equal scores: the smaller id first.

    queries (Q, D) floating -> scores (Q, k) float32, ids (Q, k) int32. With `upper`, the score of a packed row is not
    its own but the most that the float32 score of its original can be, so what is not found has no original above the
    last. Raises InputError, ShapeError.
    """
    home = home_of(queries)
    xp = home.xp
    queries = prepare("nearest", queries, base, k)
    reach = lengths(queries) if upper else None
    size = len(base)
    block = min(BLOCK, size)

    def scan(i: Any, best: tuple[Array, Array]) -> tuple[Array, Array]:
        start = xp.minimum(xp.asarray(i * block, dtype=xp.int32), size - block)  # the last block overlaps another
        ids = start + xp.arange(block, dtype=xp.int32)
        scores = dot(queries, base.rows(home, ids))  # (Q, block)
        if reach is not None and base.error is not None:
            scores = scores + reach[:, None] * base.error[ids]
        if base.half is not None:
            scores = scores - base.half[ids]
        scores = xp.where(ids >= i * block, scores, -xp.inf)
        scores = xp.concatenate([best[0], scores], axis=1)  # what was found before has smaller ids
        ids = xp.concatenate([best[1], xp.broadcast_to(ids, (queries.shape[0], block))], axis=1)
        scores, at = top_k(scores, k)
        return scores, xp.take_along_axis(ids, at, axis=1)

    shape = (queries.shape[0], k)
    none = xp.full(shape, -xp.inf, dtype=xp.float32), xp.zeros(shape, dtype=xp.int32)
    return home.loop(-(-size // block), scan, none)


@op
def rescore(queries: Array, base: Vectors, ids: Array) -> Array:
    """Compute the scores of some vectors for each query.

    queries (Q, D) floating, ids (Q, C) int32 in [0, N) -> (Q, C) float32. Raises InputError, ShapeError. In a program
    that is being compiled only a kernel can refuse an id, and does, when it runs.
    """
    home = home_of(queries)
    queries = prepare("rescore", queries, base)
    check_ids(queries, base, ids)
    scores = home.xp.sum(queries[:, None] * base.rows(home, ids), axis=-1)
    return scores if base.half is None else scores - base.half[ids]


def prepare(name: str, queries: Array, base: Vectors, k: int = 1) -> Array:
    """Check the arguments of a search, and return the queries in float32; for cosine, of length 1."""
    home = home_of(queries)
    xp = home.xp
    if queries.ndim != 2 or queries.shape[1] != base.width:
        raise ShapeError(
            f"{name}: queries are {queries.shape} and the base is ({len(base)}, {base.width}); pass (Q, "
            f"{base.width}), and query[None] for a single one"
        )
    if not np.issubdtype(queries.dtype, np.floating) and queries.dtype.name != "bfloat16":
        raise InputError(f"{name}: queries are {queries.dtype}; pass floating-point numbers")
    if not 1 <= k <= len(base):
        raise InputError(f"{name}: k is {k}, but the base has {len(base)} vectors; pass a k from 1 to {len(base)}")
    queries = queries.astype(xp.float32)
    if home.concrete(queries):
        good = home.to_numpy(xp.max(xp.abs(queries), axis=1) <= LONGEST / base.width**0.5)
        if not good.all():
            raise InputError(
                f"{name}: query {int(np.argmin(good))} holds NaN, an infinity or numbers so large that its length may "
                f"exceed {LONGEST:g}; leave it out or scale it down"
            )
    return unit(queries) if base.metric == "cosine" else queries


def lengths(queries: Array) -> Array:
    """Bound the lengths of queries (Q, D) float32 from above -> (Q,) float32."""
    xp = home_of(queries).xp
    return xp.sqrt(xp.sum(queries * queries, axis=1)) * (1 + queries.shape[1] * 2.0**-23 + 1e-6) + TINY


def check_ids(queries: Array, base: Vectors, ids: Array) -> None:
    """Check the ids that `rescore` gets: their shape, their type and, where they can be seen, their values."""
    if ids.ndim != 2 or ids.shape[0] != queries.shape[0] or ids.dtype.name != "int32":
        raise ShapeError(
            f"rescore: ids are {ids.dtype} {ids.shape} for {queries.shape[0]} queries; pass int32 "
            f"({queries.shape[0]}, C)"
        )
    home = home_of(ids)
    if home.concrete(ids):
        seen = home.to_numpy(ids)
        bad = seen[(seen < 0) | (seen >= len(base))]
        if bad.size:
            raise InputError(
                f"rescore: {bad[0]} is no id of a base of {len(base)} vectors; pass ids from 0 to {len(base) - 1}"
            )
