"""all-MiniLM-L6-v2 beside sentence-transformers: ids, vectors, speed; and how well it agrees with people.

    scripts/peers/encoders.sh FOLDER              once: makes an environment with the peers
    export PEER_PYTHON=FOLDER/bin/python
    make evidence TOPIC=encoder                   a few minutes, on an idle machine
    scripts/evidence/encoder.py people            one of: ids vectors speed people
    RESULTS=benchmarks/results                    adds the rows of `speed`

Texts are sentences of the Cranfield abstracts in SOBERANO_SHARED. The judgements of people travel in the package
gensim: Lee's 50 news texts, compared in pairs by students, and the word pairs of WordSim-353 and SimLex-999.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from soberano.bench.rows import append, row
from soberano.core.settings import settings
from soberano.models.encoder import Encoder
from soberano.models.load import load_encoder
from soberano.registry.store import resolve

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "scripts" / "peers" / "encoders.py"
GENSIM = "gensim==4.4.0"
ROUNDS = int(os.environ.get("ROUNDS", "5"))
TIMED = 640  # sentences of a round


def sentences() -> list[str]:
    """Every sentence of the abstracts, of 5 words and more."""
    raw = (Path(settings().shared) / "data" / "cranfield" / "cran.doc.1400.xml").read_text()
    texts = re.findall(r'<doc id="\d+">(.*?)</doc>', raw, re.DOTALL)
    found = [" ".join(sentence.split()) for text in texts for sentence in text.split(" . ")]
    return [sentence for sentence in found if len(sentence.split()) >= 5]


def some(texts: list[str], count: int) -> list[str]:
    """So many of them, evenly spaced."""
    return [texts[i * len(texts) // count] for i in range(count)]


class Peers:
    """The process that runs the peers."""

    def __init__(self, python: str, folder: Path) -> None:
        self.process = subprocess.Popen(
            [python, str(PEERS), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **command: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        print(json.dumps(command), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the peers ended: run {PEERS} by hand to see why")
        return json.loads(line)


def show(what: str, value: str, holds: bool) -> bool:
    print(f"  {what:62}{value:>12}  {'holds' if holds else 'MISS'}", flush=True)
    return holds


def ids(peers: Peers, exact: Encoder, fast: Encoder, texts: list[str]) -> Iterable[bool]:
    chosen = some(texts, 200)
    wanted = peers.ask(ids=chosen)
    same = sum(exact.tokens(text) == ids for text, ids in zip(chosen, wanted, strict=True))
    yield show(f"ids of {len(chosen)} sentences are those of transformers", str(same), same == len(chosen))


def vectors(peers: Peers, exact: Encoder, fast: Encoder, texts: list[str]) -> Iterable[bool]:
    chosen = some(texts, 200)
    with tempfile.TemporaryDirectory() as folder:
        oracle = peers.ask(embed=chosen, to=f"{folder}/out.npy")
        wanted = np.load(f"{folder}/out.npy").astype(np.float64)
    for model, what, least in ((exact, "float32", 0.99999), (fast, arithmetic(fast), 0.999)):
        found = model.embed(chosen).astype(np.float64)
        cosine = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
        yield show(
            f"smallest cosine to {oracle} f32, {what} (at least {least})", f"{cosine.min():.7f}", cosine.min() >= least
        )
        alone = np.stack([model.embed(text) for text in chosen[:50]])
        apart = float(np.abs(alone - found[:50]).max())
        yield show(f"largest change of a number by company and padding, {what}", f"{apart:.1e}", apart <= 1e-6)


def speed(peers: Peers, exact: Encoder, fast: Encoder, texts: list[str]) -> Iterable[bool]:
    chosen = some(texts, TIMED)
    length = np.mean([len(exact.tokens(text)) for text in chosen])
    print(
        f"  {TIMED} sentences, {length:.1f} tokens on average, from text to vector, batch 32, median of {ROUNDS} rounds"
    )
    names = peers.ask(engines=True)
    ours = {f"soberano {exact.plan.isa} f32": exact, f"soberano {fast.plan.isa} {arithmetic(fast)}": fast}
    took: dict[str, list[float]] = {name: [] for name in [*ours, *names]}
    for _ in range(ROUNDS + 1):  # the first round compiles
        for name, model in ours.items():
            started = time.perf_counter()
            model.embed(chosen)
            took[name].append(time.perf_counter() - started)
        for name in names:
            took[name].append(peers.ask(time=name, texts=chosen))
    rate = {name: TIMED / float(np.median(times[1:])) for name, times in took.items()}
    for name, value in rate.items():
        print(f"    {name:40}{value:10,.0f} sentences/s")
    for name, model in ours.items():
        kind = "f32" if model is exact else "bf16"
        best = max((each for each in names if each.endswith(kind)), key=lambda each: rate[each])
        ratio = rate[name] / rate[best]
        if folder := os.environ.get("RESULTS"):
            case = f"all-MiniLM-L6-v2 embed, batch 32, {kind}"
            append([row(model.plan.backend, case, rate[name], "texts/s", rate[best], best)], Path(folder))
        yield show(f"{name} against the best of {kind}, {best} (at least 1.2)", f"{ratio:.2f}x", ratio >= 1.2)


def people(peers: Peers, exact: Encoder, fast: Encoder, texts: list[str]) -> Iterable[bool]:
    with tempfile.TemporaryDirectory() as folder:
        fetch = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "-d",
            folder,
            GENSIM,
        ]
        subprocess.run(fetch, check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            read = lambda name: wheel.read(f"gensim/test/test_data/{name}").decode("utf-8", "replace")  # noqa: E731
            lee = read("lee.cor").strip().splitlines()
            matrix = np.array([row.split() for row in read("similarities0-1.txt").strip().splitlines()], np.float64)
            words = {name: read(name) for name in ("wordsim353.tsv", "simlex999.txt")}
    vectors = exact.embed(lee)
    pairs = np.triu_indices(len(lee), 1)
    said = spearman((vectors @ vectors.T)[pairs], matrix[pairs])
    yield show(
        f"Spearman with people, Lee's {len(lee)} news texts, {len(pairs[0])} pairs (at least 0.4)",
        f"{said:.3f}",
        said > 0.5,
    )
    for name, text in words.items():
        rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
        left, right = (exact.embed([row[i] for row in rows]) for i in (0, 1))
        said = spearman((left * right).sum(1), np.array([float(row[2]) for row in rows]))
        yield show(
            f"Spearman with people, {name}, {len(rows)} pairs of words (at least 0.4)", f"{said:.3f}", said >= 0.4
        )


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of ranks; ties share the mean of theirs."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def arithmetic(model: Encoder) -> str:
    return "bf16" if model.plan.isa == "amx" and model.plan.role == "prompt" else "f32"


LINES = {"ids": ids, "vectors": vectors, "speed": speed, "people": people}


def main(asked: list[str]) -> int:
    unknown = [name for name in asked if name not in LINES]
    python = os.environ.get("PEER_PYTHON")
    if unknown or not python:
        print(
            f"no line is called {unknown[0]!r}; there are {', '.join(LINES)}"
            if unknown
            else "PEER_PYTHON is not set; scripts/peers/encoders.sh makes the environment"
        )
        return 2
    folder = resolve("minilm").parent
    peers, texts = Peers(python, folder), sentences()
    good = True
    with load_encoder(folder, exact=True) as exact, load_encoder(folder) as fast:
        print(f"minilm on {exact.plan.backend}: native kernels for {exact.plan.isa}, {exact.plan.threads} threads")
        for name in asked or LINES:
            print(f"{name}:", flush=True)
            good &= all([*LINES[name](peers, exact, fast, texts)])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
