"""Heads on all-MiniLM-L6-v2, on real examples: from which corpus a question is, and which abstracts answer a query.

    soberano pull minilm            once
    make evidence TOPIC=head        some minutes

Examples are made of SOBERANO_SHARED: the questions of `chunking` with the corpus that each was asked of, and of each of
Cranfield's queries the nearest abstracts by cosine, which the head is to put into a better order. What is printed was
measured on questions and queries that were held out. It fails where a head is worse than what needs no training: the
commonest label, and the cosine. Cranfield's does (docs/log.md).
"""

import csv
import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from soberano.core.errors import SoberanoError
from soberano.core.settings import settings
from soberano.models.encoder import Encoder
from soberano.models.load import load_encoder
from soberano.registry.store import resolve
from soberano.train.head import HeadSettings, train_head

NEAREST = 50
SEEDS = (0, 1, 2)


def questions(data: Path) -> Iterator[dict[str, Any]]:
    with (data / "chunking" / "questions_df.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            yield {"text": row["question"], "label": row["corpus_id"]}


def judgements(data: Path, model: Encoder) -> Iterator[dict[str, Any]]:
    folder = data / "cranfield"
    documents = _marked(folder / "cran.doc.1400.xml", "doc")
    queries = _marked(folder / "cran.query.225.xml", "query")
    judged = {key: set(text.split()) for key, text in _marked(folder / "cran.res.225.xml", "res").items()}
    names = [name for name, text in documents.items() if text]
    near = model.embed(list(queries.values())) @ model.embed([documents[name] for name in names]).T
    for (key, query), row in zip(queries.items(), near, strict=True):
        nearest = [names[i] for i in np.argsort(-row, kind="stable")[:NEAREST]]
        fits = [name for name in nearest if name in judged.get(key, ())]
        others = [name for name in nearest if name not in judged.get(key, ())]
        if fits and others:
            yield {
                "query": query,
                "positive": [documents[name] for name in fits],
                "negatives": [documents[name] for name in others],
            }


def _marked(path: Path, tag: str) -> dict[str, str]:
    found = re.findall(rf'<{tag} id="(\d+)">(.*?)</{tag}>', path.read_text(), re.DOTALL)
    return {key: " ".join(text.split()) for key, text in found}


def main() -> int:
    data = Path(settings().shared) / "data"
    try:
        path = resolve("minilm")
    except SoberanoError as missing:
        print(f"skipped: {missing}")
        return 0
    if not (data / "chunking").is_dir() or not (data / "cranfield").is_dir():
        print(f"skipped: no chunking and cranfield in {data}; set SOBERANO_SHARED")
        return 0
    good = True
    with tempfile.TemporaryDirectory() as folder, load_encoder(path) as model:
        sets = {"corpus of a question": questions(data), "Cranfield": judgements(data, model)}
        for name, examples in sets.items():
            file = Path(folder) / "data.jsonl"
            file.write_text("".join(json.dumps(each) + "\n" for each in examples))
            for seed in SEEDS:
                card = train_head(model, file, Path(folder) / "head", HeadSettings(seed=seed))
                report, counts = card["report"], card["data"]
                print(f"{name}, seed {seed}: {counts['learnt']:,} learnt, {counts['held_out']:,} held out", flush=True)
                for measure, was in report["before"].items():
                    now = report["after"][measure]
                    if isinstance(was, float):
                        holds = now >= was
                        good &= holds
                        said = "better or equal" if holds else "WORSE"
                        print(f"    {measure:12} {was:.3f} by {report['baseline']}, {now:.3f} by the head  {said}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
