"""`soberano bench llm`, `bench train` and `bench ops`: how fast this machine is, beside a peer if one is given."""

import argparse
import json
from pathlib import Path
from typing import Any

from soberano.cli._numbers import positive
from soberano.cli._sampling import add_loading

HELP = "measure a model, or the ops, on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(title="what to measure", dest="kind", metavar="KIND", required=True)
    llm = kinds.add_parser("llm", help="load, prefill and decode speed of a model", allow_abbrev=False)
    llm.add_argument("model", metavar="MODEL", help="a .gguf file, or the name of a pulled model")
    llm.add_argument(
        "--prompt-tokens", type=positive, default=512, metavar="N", help="tokens of the prompt (default: 512)"
    )
    llm.add_argument("--new-tokens", type=positive, default=128, metavar="N", help="tokens to generate (default: 128)")
    llm.add_argument("--depth", type=positive, default=0, metavar="N", help="also measure after N tokens of context")
    llm.add_argument("--busy", action="store_true", help="also measure decode while other processes use all cores")
    llm.add_argument(
        "--only",
        action="append",
        default=[],
        choices=("speed", "memory", "cold-start"),
        help="measure this part, may be given again (default: speed, and all of them with --against)",
    )
    llm.add_argument("--repeat", type=positive, default=3, metavar="N", help="runs; the median counts (default: 3)")
    llm.add_argument("--against", metavar="PEER", help="measure a peer in the same run: llama.cpp")
    llm.add_argument("--peer-python", metavar="PATH", help="the Python that has the peer (default: this one)")
    llm.add_argument("--peer-binary", metavar="PATH", help="a llama-completion, for the cold start of a native program")
    llm.add_argument("--results", metavar="FOLDER", help="add the comparison to the rows of this folder")
    llm.add_argument("--json", action="store_true", help="print the numbers as JSON")
    add_loading(llm)
    train = kinds.add_parser("train", help="speed and memory of a step of LoRA training", allow_abbrev=False)
    train.add_argument("model", metavar="MODEL", help="a .gguf file, or the name of a pulled model")
    train.add_argument("--tokens", type=positive, default=512, metavar="N", help="tokens of a step (default: 512)")
    train.add_argument("--steps", type=positive, default=8, metavar="N", help="steps; the median counts (default: 8)")
    train.add_argument("--exact", action="store_true", help="float32 even where bfloat16 would be faster")
    train.add_argument("--backend", metavar="NAME", help="auto, cpu, cuda, xla or numpy (default: SOBERANO_BACKEND)")
    train.add_argument("--against", metavar="PEER", help="measure a peer in the same run: peft")
    train.add_argument("--peer-python", metavar="PATH", help="the Python that has the peer (default: this one)")
    train.add_argument("--results", metavar="FOLDER", help="add the comparison to the rows of this folder")
    train.add_argument("--json", action="store_true", help="print the numbers as JSON")
    ops = kinds.add_parser("ops", help="speed of each op, as a share of what the machine can do", allow_abbrev=False)
    ops.add_argument("--only", metavar="TEXT", help="only the cases whose name holds this text")
    ops.add_argument("--backend", metavar="NAME", help="auto, cpu, cuda, xla or numpy (default: SOBERANO_BACKEND)")
    ops.add_argument("--json", action="store_true", help="print the numbers as JSON")


def run(args: argparse.Namespace) -> int:
    from soberano.cli._terminal import progress
    from soberano.core.printable import printable

    result: Any
    with progress() as show:
        if args.kind == "llm":
            from soberano.bench import llm
            from soberano.bench.case import Ask
            from soberano.registry.store import resolve

            ask = Ask(
                resolve(args.model),
                backend=args.backend,
                context=args.context,
                cache=args.cache,
                prompt_tokens=args.prompt_tokens,
                new_tokens=args.new_tokens,
                depth=args.depth,
                repeat=args.repeat,
                busy=args.busy,
                parts=tuple(args.only),
                against=args.against,
                peer_python=args.peer_python,
                peer_binary=args.peer_binary,
            )
            result = llm.run(ask, results=args.results and Path(args.results), progress=show)
        elif args.kind == "train":
            from soberano.bench import train
            from soberano.registry.store import resolve

            wanted = train.TrainAsk(
                resolve(args.model),
                backend=args.backend,
                tokens=args.tokens,
                steps=args.steps,
                exact=args.exact,
                against=args.against,
                peer_python=args.peer_python,
            )
            result = train.run(wanted, results=args.results and Path(args.results), progress=show)
        else:
            from soberano.bench import ops

            result = ops.run(backend=args.backend, only=args.only, progress=show)
    print(json.dumps(result.to_json(), indent=1) if args.json else printable(result.to_text()))
    return 0
