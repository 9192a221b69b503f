"""The peers of exact k-NN, in a process and an environment of their own: faiss, usearch, and NumPy itself.

Reads JSON commands, a line each, and answers likewise; imports nothing of this project. Vectors have length 1, so the
inner product is the cosine.

    {"do": "open", "engine", "base": .npy, "threads"}      -> {"version", "ways": [names]}
    {"do": "time", "way", "queries": .npy, "k", "out": .npy}    -> {"seconds"}; ids (Q, k) go into `out`
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Search = Callable[[np.ndarray, int], np.ndarray]  # queries (Q, D), k -> ids (Q, k)


def with_numpy(base: np.ndarray, threads: int) -> dict[str, Search]:
    """One matrix product and argpartition; and the same in blocks of rows whose scores stay in the cache."""

    def best(scores: np.ndarray, k: int) -> np.ndarray:
        at = np.argpartition(scores, -k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(scores, at, 1), axis=1)
        return np.take_along_axis(at, order, 1)

    def blocks(queries: np.ndarray, k: int) -> np.ndarray:
        found, ids = [], []
        for start in range(0, len(base), 16384):
            scores = queries @ base[start : start + 16384].T
            at = best(scores, k)
            found.append(np.take_along_axis(scores, at, 1))
            ids.append(at + start)
        return np.take_along_axis(np.concatenate(ids, 1), best(np.concatenate(found, 1), k), 1)

    return {"BLAS + argpartition": lambda queries, k: best(queries @ base.T, k), "BLAS + argpartition, blocks": blocks}


def with_faiss(base: np.ndarray, threads: int) -> dict[str, Search]:
    """The exact index, and 8-bit codes whose hits are scored again in float32."""
    import faiss

    faiss.omp_set_num_threads(threads)
    faiss.cvar.distance_compute_blas_threshold = 20  # several queries go through BLAS: 20 times faster than its default
    flat = faiss.IndexFlatIP(base.shape[1])
    flat.add(base)
    codes = faiss.IndexScalarQuantizer(base.shape[1], faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    codes.train(base[::16])
    codes.add(base)
    refined = faiss.IndexRefine(codes, flat)
    refined.k_factor = 4
    return {
        "IndexFlatIP": lambda queries, k: flat.search(queries, k)[1],
        "SQ8 + refine x4": lambda queries, k: refined.search(queries, k)[1],
    }


def with_usearch(base: np.ndarray, threads: int) -> dict[str, Search]:
    """Exact search in float32, and in bytes without a second look."""
    from usearch.index import MetricKind, search

    scale = 127 / np.abs(base).max()  # all that a byte can hold; a cosine does not mind

    def to_bytes(x: np.ndarray) -> np.ndarray:
        return np.rint(x * scale).clip(-127, 127).astype(np.int8)

    small = to_bytes(base)

    def run(rows: np.ndarray, queries: np.ndarray, k: int, metric: Any) -> np.ndarray:
        return np.atleast_2d(search(rows, queries, k, metric, exact=True, threads=threads).keys)

    return {
        "exact f32": lambda queries, k: run(base, queries, k, MetricKind.IP),
        "exact i8": lambda queries, k: run(small, to_bytes(queries), k, MetricKind.Cos),
    }


ENGINES = {"numpy": with_numpy, "faiss": with_faiss, "usearch": with_usearch}


def main() -> None:
    """Serve commands until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not mix with answers
    ways: dict[str, Search] = {}
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "open":
            ways = ENGINES[command["engine"]](np.load(command["base"]), command["threads"])
            answer: dict[str, Any] = {
                "version": __import__(command["engine"]).__version__,
                "ways": list(ways),
            }
        else:
            queries = np.load(command["queries"])
            started = time.perf_counter()
            ids = ways[command["way"]](queries, command["k"])
            answer = {"seconds": time.perf_counter() - started}
            np.save(command["out"], ids)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
