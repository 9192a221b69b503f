"""`soberano verify MODEL`: does every backend give the answer of the float32 reference, layer by layer?"""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from soberano.cli._numbers import positive

if TYPE_CHECKING:
    from soberano.bench.verify import PathReport

HELP = "compare the backends with the reference, layer by layer and op by op"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .gguf file, or the name of a pulled model")
    parser.add_argument(
        "--backends", nargs="+", metavar="NAME", help="the backends to compare (default: all that are here)"
    )
    parser.add_argument(
        "--tokens",
        type=positive,
        default=64,
        metavar="N",
        help="tokens of text to compare on (default: 64); 64 take a minute or two",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    from soberano.bench import verify
    from soberano.cli._terminal import progress
    from soberano.core.printable import printable
    from soberano.registry.store import resolve

    path = resolve(args.model)
    with progress() as show:
        report = verify.report(path, backends=args.backends, tokens=args.tokens, progress=show, tell=_tell)
    print(json.dumps(report.to_json(), indent=1) if args.json else printable(report.to_text()))
    return 0 if report.holds else 1


def _tell(path: "PathReport") -> None:
    """Say each verdict as soon as it is known: the rest may take minutes."""
    print(path.verdict, file=sys.stderr, flush=True)
