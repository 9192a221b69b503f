"""`soberano train merge MODEL ADAPTER --out FILE`: a model that needs no adapter, and what became of the update."""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soberano.train.merge import Survival

HELP = "put an adapter into the weights: one .gguf file, and how much of the update survived rounding"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .gguf file, or the name of a pulled model")
    parser.add_argument("adapter", metavar="ADAPTER", type=Path, help="an adapter.gguf of that model")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the .gguf file to write")
    parser.add_argument(
        "--type", metavar="TYPE", help="format of what the adapter changes: F16, Q8_0, ... (default: as it is)"
    )
    parser.add_argument("--json", action="store_true", help="print every tensor as JSON")


def run(args: argparse.Namespace) -> int:
    from soberano.cli._terminal import progress
    from soberano.registry.store import resolve
    from soberano.train.merge import advice, merge, total

    with progress() as show:
        found = merge(resolve(args.model), args.adapter, args.out, kind=args.type, progress=show)
    if args.json:
        whole = {"total": total(found).to_json(), "advice": advice(found)}
        print(json.dumps(whole | {"tensors": [each.to_json() for each in found]}, indent=1))
        return 0
    print("\n".join([*_table(found), advice(found)]))
    print(f"{args.out} needs no adapter. Try it: soberano chat {args.out}", file=sys.stderr)
    return 0


def _table(found: "list[Survival]") -> list[str]:
    """A line for each product, over all layers, and for all."""
    from soberano.train.merge import total

    products = defaultdict(list)
    for each in found:
        products[each.name.split(".", 2)[-1].removesuffix(".weight")].append(each)
    lines = [f"{'product':16}{'format':>12}{'kept':>8}{'noise':>8}{'worst layer':>14}{'weights changed':>18}"]
    for name, layers in products.items():
        worst = min(layers, key=lambda each: each.kept)
        lines.append(_line(total(layers, name), f"{worst.kept:.0%} in {worst.name.split('.')[1]}"))
    return [*lines, _line(total(found), "")]


def _line(each: "Survival", worst: str) -> str:
    changed = each.changed / each.weights if each.weights else 0.0
    return f"{each.name:16}{each.format:>12}{each.kept:8.0%}{each.noise:7.1f}x{worst:>14}{changed:18.0%}"
