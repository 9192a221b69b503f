"""The C++ kernels of soberano/ops/knn.py, called on NumPy arrays: for indexes that keep their vectors there.

The same functions with the same arguments. Raises Unsupported where there is no library; then the ops serve.
"""

from typing import get_args

import numpy as np

from soberano.backends import native
from soberano.core.errors import Unsupported
from soberano.ops.certified import Scan
from soberano.ops.knn import check_ids, lengths, prepare
from soberano.quant.vectors import Kind, Vectors

KINDS = {kind: number for number, kind in enumerate(get_args(Kind))}
"""The numbers that knn.cc gives them."""


def nearest(queries: np.ndarray, base: Vectors, k: int, *, upper: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Find the k nearest, as soberano.ops.knn.nearest does."""
    queries = np.ascontiguousarray(prepare("nearest", queries, base, k))
    reach = lengths(queries) if upper and base.error is not None else None
    scores, ids = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int32)
    native.call(
        "soberano_nearest",
        queries,
        *map(_or_null, (reach, base.data, base.scale, base.error, base.half)),
        *(scores, ids, len(queries), len(base), base.width, k, KINDS[base.kind]),
    )
    return scores, ids


def rescore(queries: np.ndarray, base: Vectors, ids: np.ndarray) -> np.ndarray:
    """Compute the scores of rows of a float32 or bfloat16 base, as soberano.ops.knn.rescore does."""
    if base.kind not in ("float32", "bfloat16"):
        raise Unsupported(f"knn.cc rescores float32 and bfloat16 vectors, not {base.kind}")
    queries = np.ascontiguousarray(prepare("rescore", queries, base))
    check_ids(queries, base, ids)
    scores = np.empty(ids.shape, np.float32)
    native.call(
        "soberano_rescore",
        *(queries, base.data, _or_null(base.half), np.ascontiguousarray(ids), scores),
        *(len(queries), len(base), base.width, ids.shape[1], KINDS[base.kind]),
    )
    return scores


NATIVE = Scan(nearest, rescore)
"""For the `scan` of soberano.ops.certified.certified."""


def _or_null(array: np.ndarray | None) -> np.ndarray | int:
    return 0 if array is None else array
