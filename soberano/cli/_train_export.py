"""`soberano train export ADAPTER --model MODEL --out PATH`: an adapter in the other form, PEFT's or GGUF's."""

import argparse
import sys
from pathlib import Path

HELP = "turn an adapter.gguf into a folder for PEFT, or such a folder into an adapter.gguf"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("adapter", metavar="ADAPTER", type=Path, help="an adapter.gguf, or a folder of PEFT")
    parser.add_argument("--model", metavar="MODEL", required=True, help="its model: a file, or a name")
    parser.add_argument("--out", metavar="PATH", type=Path, required=True, help="the folder or .gguf file to write")


def run(args: argparse.Namespace) -> int:
    from soberano.cli._terminal import progress
    from soberano.registry.store import resolve
    from soberano.train.convert import to_gguf, to_peft

    with progress() as show:
        (to_gguf if args.adapter.is_dir() else to_peft)(args.adapter, resolve(args.model), args.out, progress=show)
    print(f"{args.out} is written", file=sys.stderr)
    return 0
