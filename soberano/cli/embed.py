"""`soberano embed MODEL TEXT…`: turn texts into vectors."""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soberano.cli._numbers import positive
from soberano.cli._texts import add_texts, texts_of
from soberano.core.errors import InputError
from soberano.core.progress import Progress

if TYPE_CHECKING:
    import numpy as np

    from soberano.models.encoder import Encoder, Options

HELP = "turn texts into vectors: from arguments, standard input or a file, to standard output or a file"

PART = 4096  # texts that are read, embedded and written at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a folder, a .gguf file, or the name of a pulled model")
    add_texts(parser, "texts", "TEXT")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="write .npy, .jsonl, .arrow or .parquet (default: JSON a line, printed)",
    )
    parser.add_argument("--dimensions", type=positive, metavar="N", help="keep the first N numbers of each vector")
    parser.add_argument("--pooling", choices=("mean", "cls", "last"), help="default: what the model's files say")
    parser.add_argument(
        "--normalize", action=argparse.BooleanOptionalAction, help="vectors of length 1 (default: what the files say)"
    )
    parser.add_argument("--batch", type=positive, default=32, metavar="N", help="texts at a time (default: 32)")
    parser.add_argument("--exact", action="store_true", help="compute in float32 even where bfloat16 would be faster")
    parser.add_argument(
        "--context", type=positive, metavar="N", help="tokens that are read of a text (default: the model's)"
    )
    parser.add_argument("--backend", metavar="NAME", help="auto, cpu, cuda, xla, numpy or an installed one")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object: model, dimensions, tokens, embeddings"
    )


def run(args: argparse.Namespace) -> int:
    from soberano.cli._terminal import progress
    from soberano.formats.embeddings import writing
    from soberano.models.encoder import Options
    from soberano.models.load import load_encoder
    from soberano.registry.store import resolve

    if args.json and args.out:
        raise InputError("--json prints the vectors and --out writes them; give one of the two")
    options = Options(args.batch, args.dimensions, args.normalize, args.pooling)
    with progress() as show, texts_of(args, args.texts) as texts:
        how: dict[str, Any] = {"backend": args.backend, "context": args.context, "exact": args.exact, "progress": show}
        with load_encoder(resolve(args.model), **how) as model:
            width, done, read, cut = args.dimensions or model.width, 0, 0, 0
            kept = _Kept()
            with writing(args.out, width) if args.out else nullcontext(kept if args.json else _Printed()) as sink:
                while part := list(islice(texts, PART)):
                    whole = [model.tokens(text, cut=False) for text in part]
                    tokens = [model.cut(each) for each in whole]
                    sink.add(part, _embed(model, tokens, options, width, show, done))
                    done, read = done + len(part), read + sum(map(len, tokens))
                    cut += sum(len(each) > model.context for each in whole)
            context = model.context
    if args.json:
        print(json.dumps({"model": model.name, "dimensions": width, "tokens": read, "embeddings": kept.rows}))
    if cut:
        print(f"cut at {context} tokens: {cut:,} of {done:,} texts; the model reads no more", file=sys.stderr)
    if args.out:
        print(f"{args.out}: {done:,} vectors of {width} numbers", file=sys.stderr)
    return 0


def _embed(
    model: "Encoder", tokens: list[list[int]], options: "Options", width: int, show: Progress, before: int
) -> "np.ndarray":
    import numpy as np

    encoding, rows = model.start(tokens, options), np.empty((len(tokens), width), np.float32)
    while not encoding.done:
        for part in encoding.step():
            rows[part.places] = part.rows
        show("embed", before + encoding.texts_done, None, "texts")
    return rows


class _Printed:
    """Print a JSON list a line."""

    def add(self, texts: Sequence[str], vectors: "np.ndarray") -> None:
        for row in vectors:
            print(json.dumps(row.tolist()))


class _Kept:
    """Keep the vectors."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []

    def add(self, texts: Sequence[str], vectors: "np.ndarray") -> None:
        self.rows += vectors.tolist()
