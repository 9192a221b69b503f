"""`soberano classify ENCODER TEXT… --head FOLDER`: say what texts are, with a head that was trained on the encoder."""

import argparse
import json
from itertools import islice
from pathlib import Path

from soberano.cli._numbers import positive
from soberano.cli._texts import add_texts, texts_of

HELP = "say what texts are, with a trained head: from arguments, standard input or a file"

PART = 4096  # texts that are read, classified and printed at a time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="ENCODER", help="a folder, a .gguf file, or the name of a pulled model")
    parser.add_argument(
        "--head", metavar="FOLDER", type=Path, required=True, help="what `soberano train head` made of this encoder"
    )
    add_texts(parser, "texts", "TEXT")
    parser.add_argument("--exact", action="store_true", help="compute in float32 even where bfloat16 would be faster")
    parser.add_argument(
        "--context", type=positive, metavar="N", help="tokens that are read of a text (default: the model's)"
    )
    parser.add_argument("--backend", metavar="NAME", help="auto, cpu, cuda, xla, numpy or an installed one")
    parser.add_argument("--json", action="store_true", help="print JSON a line: prediction, score, predictions")


def run(args: argparse.Namespace) -> int:
    from soberano.cli._terminal import progress
    from soberano.core.printable import printable
    from soberano.models.load import load_encoder
    from soberano.registry.store import resolve

    with progress() as show, texts_of(args, args.texts) as texts:
        how = {"backend": args.backend, "context": args.context, "exact": args.exact, "progress": show}
        with load_encoder(resolve(args.model), head=args.head, **how) as model:
            model.classify([])  # a head of another kind is refused before anything is read
            while part := list(islice(texts, PART)):
                for text, found in zip(part, model.classify(part, progress=show), strict=True):
                    if args.json:
                        predictions = [{"label": label, "score": score} for label, score in found.predictions]
                        told = {"prediction": found.label, "score": found.score, "predictions": predictions}
                        print(json.dumps(told))
                    else:
                        label, shown = (printable(" ".join(each.split()), lines=False) for each in (found.label, text))
                        print(f"{found.score:.6f}\t{label}\t{shown}")
    return 0
