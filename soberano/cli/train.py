"""`soberano train lora MODEL DATA --out ADAPTER`: fine-tune a model as it is served; and what comes after."""

import argparse
import json
import sys
from pathlib import Path

from soberano.cli import _train_export, _train_head, _train_merge
from soberano.cli._numbers import positive

HELP = "fine-tune: a LoRA adapter beside packed weights, merged into them, or a head on an encoder"

STARTS = ("lora", "loftq", "pissa")  # those of soberano.train.starts, which takes NumPy to say
OTHERS = {"head": _train_head, "merge": _train_merge, "export": _train_export}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="WHAT")
    lora = kinds.add_parser(
        "lora", help="an adapter: two small matrices beside each product of the model", allow_abbrev=False
    )
    lora.add_argument("model", metavar="MODEL", help="a .gguf file, or the name of a pulled model")
    lora.add_argument("data", metavar="DATA", type=Path, help=".jsonl, .json, .parquet, or a folder of them")
    lora.add_argument("--out", metavar="FOLDER", type=Path, required=True, help="where it goes, and goes on from")
    lora.add_argument("--backend", metavar="NAME", help="auto, cpu, cuda, xla, numpy or an installed one")
    lora.add_argument("--rank", type=positive, default=16, metavar="R", help="the inner width (default: 16)")
    lora.add_argument("--alpha", type=float, default=32.0, metavar="A", help="the scale is A / R (default: 32)")
    lora.add_argument("--rslora", action="store_true", help="the scale is A / root of R")
    lora.add_argument(
        "--start",
        choices=STARTS,
        default="lora",
        help="lora: at nothing; loftq: at what quantising lost; pissa: in the principal directions (default: lora)",
    )
    lora.add_argument("--sixteen", metavar="FILE", type=Path, help="a 16-bit copy of the model, for --start loftq")
    lora.add_argument("--rate", type=float, default=2e-4, metavar="X", help="the learning rate (default: 0.0002)")
    lora.add_argument(
        "--schedule", choices=("cosine", "linear", "constant"), default="cosine", help="of the rate (default: cosine)"
    )
    lora.add_argument("--warmup", type=float, default=0.05, metavar="X", help="share of steps (default: 0.05)")
    lora.add_argument("--decay", type=float, default=0.0, metavar="X", help="weight decay (default: 0)")
    lora.add_argument("--lora-plus", type=float, default=1.0, metavar="X", help="B learns X times as fast (LoRA+)")
    lora.add_argument("--epochs", type=positive, default=3, metavar="N", help="default: 3")
    lora.add_argument("--context", type=positive, default=512, metavar="N", help="tokens of a row (default: 512)")
    lora.add_argument("--rows", type=positive, default=1, metavar="N", help="rows computed at once (default: 1)")
    lora.add_argument(
        "--devices", type=positive, default=1, metavar="N", help="devices that share the rows, backend xla (default: 1)"
    )
    lora.add_argument("--share-base", action="store_true", help="each device holds a share of the model, not a copy")
    lora.add_argument("--accumulate", type=positive, default=4, metavar="N", help="batches of a step (default: 4)")
    lora.add_argument("--held-out", type=float, default=0.05, metavar="X", help="share to evaluate on (default: 0.05)")
    lora.add_argument(
        "--patience", type=int, default=0, metavar="N", help="stop after N evaluations that are no better"
    )
    lora.add_argument(
        "--save-every", type=float, default=60.0, metavar="SECONDS", help="between checkpoints (default: 60)"
    )
    lora.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    lora.add_argument("--cut", action="store_true", help="cut what is longer than a row, rather than refuse it")
    lora.add_argument("--exact", action="store_true", help="float32 even where bfloat16 would be faster")
    lora.add_argument("--json", action="store_true", help="print the card as JSON")
    for name, command in OTHERS.items():
        command.add_arguments(kinds.add_parser(name, help=command.HELP, allow_abbrev=False))


def run(args: argparse.Namespace) -> int:
    return OTHERS[args.kind].run(args) if args.kind in OTHERS else _lora(args)


def _lora(args: argparse.Namespace) -> int:
    from soberano.cli._terminal import progress
    from soberano.models.load import load_decoder
    from soberano.registry.store import resolve
    from soberano.train.adapters import Shape
    from soberano.train.lora import train_lora
    from soberano.train.optimizer import Rates
    from soberano.train.run import Settings

    settings = Settings(
        shape=Shape(rank=args.rank, alpha=args.alpha, root=args.rslora),
        rates=Rates(args.rate, args.warmup, args.schedule, args.decay, b_times=args.lora_plus),
        epochs=args.epochs,
        length=args.context,
        rows=args.rows,
        start=args.start,
        devices=args.devices,
        share_base=args.share_base,
        accumulate=args.accumulate,
        seed=args.seed,
        exact=args.exact,
        patience=args.patience,
    )
    with (
        progress(notes=True) as show,
        load_decoder(resolve(args.model), backend=args.backend, context=64, progress=show) as model,
    ):
        how = {"held_out": args.held_out, "cut": args.cut, "save_every": args.save_every, "sixteen": args.sixteen}
        card = train_lora(model, args.data, args.out, settings, **how, progress=show)
    if args.json:
        print(json.dumps(card))
        return 0
    loss = card["held_out_loss"]
    print(f"{card['steps']} steps; {args.out / 'adapter.gguf'} and a PEFT adapter beside it", file=sys.stderr)
    if loss["after"] is not None:
        print(f"loss on what was held out: {loss['before']:.3f} before, {loss['after']:.3f} after", file=sys.stderr)
    print(f"Try it: soberano chat {args.model} --adapter {args.out / 'adapter.gguf'}", file=sys.stderr)
    return 0
