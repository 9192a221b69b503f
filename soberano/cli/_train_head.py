"""`soberano train head ENCODER DATA --out FOLDER`: a classifier, or relevance, on the vectors of a frozen encoder."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from soberano.cli._numbers import positive

HELP = "a small network on the vectors of a frozen encoder: classes, or relevance"


def add_arguments(head: argparse.ArgumentParser) -> None:
    head.add_argument("model", metavar="ENCODER", help="a folder, a .gguf file, or the name of a pulled model")
    head.add_argument(
        "data",
        metavar="DATA",
        type=Path,
        help=".jsonl, .json, .parquet, or a folder of them: text and label; query, document and score; or query, "
        "positive and negatives",
    )
    head.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="where it goes")
    head.add_argument("--backend", metavar="NAME", help="auto, cpu, cuda, xla, numpy or an installed one")
    head.add_argument("--context", type=positive, metavar="N", help="tokens that are read of a text")
    head.add_argument("--exact", action="store_true", help="float32 even where bfloat16 would be faster")
    head.add_argument("--hidden", type=positive, default=128, metavar="N", help="the inner width (default: 128)")
    head.add_argument("--rate", type=float, default=1e-3, metavar="X", help="the learning rate (default: 0.001)")
    head.add_argument("--decay", type=float, default=1e-2, metavar="X", help="weight decay (default: 0.01)")
    head.add_argument("--epochs", type=positive, default=100, metavar="N", help="at most (default: 100)")
    head.add_argument("--batch", type=positive, default=64, metavar="N", help="examples of a step (default: 64)")
    head.add_argument("--held-out", type=float, default=0.2, metavar="X", help="share to report on (default: 0.2)")
    head.add_argument(
        "--validation", type=float, default=0.1, metavar="X", help="share that says when to stop (default: 0.1)"
    )
    head.add_argument(
        "--patience", type=int, default=10, metavar="N", help="stop after N epochs that are no better; 0: never"
    )
    head.add_argument(
        "--class-weights",
        choices=("none", "balanced"),
        default="none",
        help="balanced: rare labels count as much as common ones (default: none)",
    )
    head.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    head.add_argument("--json", action="store_true", help="print what head.json says")


def run(args: argparse.Namespace) -> int:
    from soberano.cli._terminal import progress
    from soberano.models.load import load_encoder
    from soberano.registry.store import resolve
    from soberano.train.head import HeadSettings, train_head

    settings = HeadSettings(
        hidden=args.hidden,
        rate=args.rate,
        decay=args.decay,
        epochs=args.epochs,
        batch=args.batch,
        patience=args.patience,
        held_out=args.held_out,
        validation=args.validation,
        class_weights=args.class_weights,
        seed=args.seed,
    )
    settings.check()
    how: dict[str, Any] = {"backend": args.backend, "context": args.context, "exact": args.exact}
    with progress() as show, load_encoder(resolve(args.model), **how, progress=show) as model:
        card = train_head(model, args.data, args.out, settings, progress=show)
    if args.json:
        print(json.dumps(card))
        return 0
    for line in _told(card, args.out, args.model):
        print(line, file=sys.stderr)
    return 0


def _told(card: dict[str, Any], out: Path, model: str) -> list[str]:
    from soberano.core.printable import printable

    data, report = card["data"], card["report"]
    what = f"a classifier of {len(card['labels'])} labels" if card["labels"] else "relevance"
    lines = [
        f"{what}, of {data['form']} examples: {data['learnt']:,} learnt, {data['validation']:,} watched, "
        f"{data['held_out']:,} held out; epoch {card['epochs']} was the best"
    ]
    if report is not None:
        for name, was in report["before"].items():
            now = report["after"][name]
            if isinstance(was, float) and isinstance(now, float):
                lines.append(f"{name} on what was held out: {was:.3f} by {report['baseline']}, {now:.3f} by the head")
        table = report["after"].get("confusion")
        if table:
            lines.append("rows: the label; columns: what the head said")
            for label, row in zip(card["labels"], table, strict=True):
                lines.append(f"{printable(label[:24], lines=False):>24} " + " ".join(f"{count:6}" for count in row))
    ask = f"soberano classify {model} TEXT" if card["labels"] else f"soberano rerank {model} QUERY DOC"
    lines.append(f"Try it: {ask} --head {out}")
    return lines
