"""Exact k-NN over a million embeddings: ours beside NumPy, faiss and usearch, in turns, and the roof of the memory.

make evidence TOPIC=knn
scripts/evidence/knn.py [--peers numpy,faiss,usearch] [--peer-python PATH] [--rows 1000000] [--results FOLDER]

The vectors are the embeddings of real text (embeddings.py), less some that are the queries, repeated with small
Gaussian noise to the number of rows. Ours are the C++ kernels on NumPy arrays. Hits of packed scans are scored again in
float32; those in bytes go on until every answer is proven, and those in single bits, which prove little, do not.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from embeddings import embeddings

from soberano.backends import native
from soberano.bench import peer_knn
from soberano.bench.peaks import read_seconds
from soberano.bench.peers import Peer
from soberano.bench.rows import Row, append, machine, row
from soberano.core.settings import settings
from soberano.ops import knn_native
from soberano.ops.certified import Certified, certified
from soberano.quant.vectors import Vectors, vectors

Search = Callable[[np.ndarray], np.ndarray]  # queries (Q, D) -> ids (Q, K)
K, BATCH, NOISE = 10, 256, 0.01
FOLDER = settings().cache_dir() / "evidence"
CANDIDATES = {"int8": 64, "bit": 1000}
PAUSE = 0.2  # s before each measurement: threads of OpenBLAS and OpenMP spin on for a while after their work


class KnnPeer(Peer):
    """One of the engines of soberano/bench/peer_knn.py, with the base open."""

    def __init__(self, name: str, python: str) -> None:
        # Two variables that some machines set for an older OpenBLAS slow today's, and a peer is measured at its best.
        slow = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
        self._process = subprocess.Popen(
            [python, peer_knn.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={key: value for key, value in os.environ.items() if key not in slow},
        )
        self.name = name
        self.info = self.ask(do="open", engine=name, base=str(FOLDER / "knn-base.npy"), threads=native.threads())

    def search(self, way: str, queries: np.ndarray) -> tuple[float, np.ndarray]:
        """(seconds, ids)."""
        time.sleep(PAUSE)
        ask, answer = FOLDER / "knn-queries.npy", FOLDER / "knn-ids.npy"
        np.save(ask, queries)
        seconds = self.ask(do="time", way=way, queries=str(ask), k=K, out=str(answer))["seconds"]
        return seconds, np.load(answer)


def make_base(rows: int) -> tuple[Vectors, np.ndarray]:
    """The base, kept for the peers in a file, and the queries."""
    real = embeddings()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(real))
    queries, real = real[order[:BATCH]], real[order[BATCH:]]
    base = np.resize(real, (rows, real.shape[1])).astype(np.float32)
    for start in range(len(real), rows, 65536):
        part = base[start : start + 65536]
        part += NOISE * rng.standard_normal(part.shape, dtype=np.float32)
    exact = vectors(base, "cosine")
    np.save(FOLDER / "knn-base.npy", exact.data)
    print(
        f"base: {rows} x {real.shape[1]} float32: all-MiniLM-L6-v2 embeddings of {len(real)} passages of real text, "
        f"then again with Gaussian noise of {NOISE} a column, rows of length 1; queries: {BATCH} other passages"
    )
    return exact, queries


def ours_of(exact: Vectors, queries: np.ndarray) -> dict[str, Search]:
    """Ways of ours by name, and how far the first attempt of each packed one goes."""
    found: dict[str, Search] = {"float32": lambda q: knn_native.nearest(q, exact, K)[1]}
    expected = found["float32"](queries)
    for kind, candidates in CANDIDATES.items():
        packed, proves = exact.packed(kind), kind == "int8"

        def search(q: np.ndarray, exact_too: bool = proves, packed: Vectors = packed, n: int = candidates) -> Certified:
            return certified(q, packed, exact, K, candidates=n, exact=exact_too, scan=knn_native.NATIVE)

        found[f"{kind} rescored, {'proven' if proves else 'not proven'}"] = lambda q, search=search: search(q).ids
        once = search(queries, False)
        print(
            f"{kind}: {candidates} candidates prove {once.proven.mean():.1%} of {len(queries)} queries at once; proven "
            f"or not, {np.mean(once.ids == expected):.2%} of the ids are those of the float32 scan"
        )
    return found


def timed(search: Search, queries: np.ndarray) -> tuple[float, np.ndarray]:
    time.sleep(PAUSE)
    started = time.perf_counter()
    ids = search(queries)
    return time.perf_counter() - started, ids


def measure(peer: KnnPeer, ours: dict[str, Any], exact: Vectors, queries: np.ndarray, repeat: int) -> list[Row]:
    """Every way of ours and of the peer in turns, medians, one query and all of them."""
    rows = []
    for count, times in ((1, 3 * repeat), (len(queries), repeat)):
        taken: dict[str, list[float]] = {}
        ids: dict[str, np.ndarray] = {}
        for turn in range(times + 1):  # the first does not count
            some = queries[turn : turn + 1] if count == 1 else queries
            for name, search in ours.items():
                seconds, ids[name] = timed(search, some)
                taken.setdefault(name, []).append(seconds)
            for way in peer.info["ways"]:
                seconds, ids[way] = peer.search(way, some)
                taken.setdefault(way, []).append(seconds)
            time.sleep(PAUSE)
            taken.setdefault("roof", []).append(read_seconds(exact.data))
        median = {name: statistics.median(each[1:]) for name, each in taken.items()}
        median["roof"] = min(taken["roof"])  # a limit is the best that was ever seen
        print(f"\n{count} quer{'y' if count == 1 else 'ies'}, k = {K}, medians of {times} turns:")
        if count == 1:
            print(f"  {'read the float32 base, at best':36} {median['roof'] * 1e3:9.1f} ms")
        for name in [*ours, *peer.info["ways"]]:
            same = np.mean(ids[name] == ids["float32"])
            label = name if name in ours else f"{peer.name} {name}"
            ratio = "" if name in ours else "  ours: " + ", ".join(f"{median[name] / median[o]:.2f}x" for o in ours)
            print(f"  {label:36} {median[name] * 1e3:9.1f} ms  {same:7.2%} of ids as float32{ratio}")
        # Kept is what compares like with like: exact answers of ours, and of the peer its fastest way to right ids.
        right = [way for way in peer.info["ways"] if np.mean(ids[way] == ids["float32"]) > 0.99]
        best = min(right, key=lambda way: median[way])
        for name in ours:
            if name.endswith("not proven"):
                continue
            rows.append(
                row(
                    "cpu",
                    f"knn {len(exact)} x {exact.width} top {K}, {count} by {name}",
                    count / median[name],
                    "queries/s",
                    count / median[best],
                    f"{peer.name} {peer.info['version']} {best}",
                    limit_share=median["roof"] / median[name] if (count, name) == (1, "float32") else None,
                )
            )
    return rows


def main() -> int:
    """Measure, print, and keep the rows if a folder is given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", default="numpy,faiss,usearch")
    parser.add_argument("--peer-python", default=os.environ.get("KNN_PEER_PYTHON", sys.executable))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    exact, queries = make_base(args.rows)
    print(f"ours: {native.isa()}, {native.threads()} threads, {machine()}")
    ours, rows = ours_of(exact, queries), []
    for name in args.peers.split(","):
        with KnnPeer(name, args.peer_python) as peer:
            print(f"\n{name} {peer.info['version']}")
            rows += measure(peer, ours, exact, queries, args.repeat)
    if args.results:
        append(rows, args.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
