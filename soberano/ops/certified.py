"""Exact answers at the price of a packed scan: candidates, their float32 scores, and a certificate.

A packed row bounds the float32 score of its original from above (soberano.quant.vectors). So the scan ranks rows by
that bound; the first C become candidates and are scored in float32. Whatever is no candidate has a bound, hence a
score, of at most the bound of the last candidate. If the k-th best score is above that, the answer is proven: it is the
one that a float32 scan gives. If not, the bound says what could have been missed, and `exact=True` looks on until
nothing can have been.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from soberano.backends.homes import home_of
from soberano.core.errors import InputError
from soberano.core.types import Array
from soberano.ops import knn
from soberano.ops.topk import top_k
from soberano.quant.vectors import Vectors

WIDER = 8
"""How many times more candidates the next attempt takes."""


class Scan(NamedTuple):
    """The two functions that a certified search is made of, with the signatures of those in ops/knn.py."""

    nearest: Callable[..., tuple[Array, Array]]
    rescore: Callable[..., Array]


class Certified(NamedTuple):
    """An answer, and what is known about it."""

    scores: Array  # (Q, k) float32: those of the original vectors
    ids: Array  # (Q, k) int32
    proven: Array  # (Q,) bool: these are the k nearest
    bound: Array  # (Q,) float32: no vector that was not a candidate scores above this


OPS = Scan(knn.nearest, knn.rescore)
"""The ops, which run on every home. ops/knn_native.py has kernels for NumPy arrays."""


def certified(
    queries: Array,
    packed: Vectors,
    original: Vectors,
    k: int,
    *,
    candidates: int | None = None,
    exact: bool = False,
    scan: Scan = OPS,
) -> Certified:
    """Find the k nearest by a scan of `packed`, scored by `original`, of which it was made: original.packed(kind).

    `candidates` are those of each query, 4 k and at least 64 unless said. With `exact`, queries that are not proven
    try more, and are at last scanned in the original, so that all are proven; this needs to look at numbers, so it
    cannot be compiled. Raises InputError, ShapeError.
    """
    home, size = home_of(queries), len(original)
    knn.prepare("certified", queries, original, k)
    if (len(packed), packed.width, packed.metric) != (size, original.width, original.metric) or packed.error is None:
        raise InputError(
            f"certified: packed holds {len(packed)} x {packed.width} in {packed.kind} for {packed.metric}, the "
            f"original {size} x {original.width} for {original.metric}; make it by original.packed('int8'), say"
        )
    if original.kind not in ("float32", "bfloat16"):
        raise InputError(f"certified: the original is in {original.kind}; pass the float32 or bfloat16 vectors")
    wanted = max(4 * k, 64) if candidates is None else candidates
    if candidates is not None and candidates < k:
        raise InputError(f"certified: {candidates} candidates are too few for the {k} nearest; pass {k} or more")
    wanted = min(wanted, size)
    found = _attempt(queries, packed, original, k, wanted, scan)
    if not exact:
        return found
    xp = home.xp
    while not (proven := home.to_numpy(found.proven)).all():
        open_ones = np.flatnonzero(~proven)
        at = home.asarray(open_ones.astype(np.int32))
        wanted *= WIDER
        if wanted * WIDER**2 <= size:  # else a scan of the original is no slower
            better = _attempt(queries[at], packed, original, k, wanted, scan)
        else:
            scores, ids = scan.nearest(queries[at], original, k)
            better = Certified(scores, ids, xp.ones(len(open_ones), dtype=bool), scores[:, -1])
        found = Certified(*(home.put(old, (at,), new) for old, new in zip(found, better, strict=True)))
    return found


def _attempt(queries: Array, packed: Vectors, original: Vectors, k: int, wanted: int, scan: Scan) -> Certified:
    xp = home_of(queries).xp
    bounds, ids = scan.nearest(queries, packed, wanted, upper=True)
    ids = xp.sort(ids, axis=1)  # so that of equal scores the smaller id comes first
    scores, at = top_k(scan.rescore(queries, original, ids), k)
    all_seen = wanted == len(original)
    bound = xp.full_like(bounds[:, -1], -xp.inf) if all_seen else bounds[:, -1]
    return Certified(scores, xp.take_along_axis(ids, at, axis=1), scores[:, -1] > bound, bound)
