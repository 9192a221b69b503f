"""`soberano inspect FILE`: what is in a model file, or in a Hugging Face folder, as a person wants to know it."""

import argparse
import json
import math
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from soberano.cli._facts import GENERATES
from soberano.core.units import bytes_text

if TYPE_CHECKING:
    from soberano.cli._facts import Inspected

HELP = "show what is in a model file or folder"

LONGEST = 8  # values of a metadata list, and rows of metadata, before it is cut short


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="FILE", help="a .gguf file, a folder, or the name of a pulled model")
    parser.add_argument("--metadata", action="store_true", help="show every metadata key")
    parser.add_argument("--tensors", action="store_true", help="show every tensor instead of one line a kind")
    parser.add_argument("--json", action="store_true", help="print everything as JSON; long lists are cut")


def run(args: argparse.Namespace) -> int:
    from soberano.cli._facts import opened
    from soberano.core.printable import printable
    from soberano.registry.store import resolve

    with opened(resolve(args.model)) as file:
        if args.json:
            print(json.dumps(as_json(file), indent=1, ensure_ascii=sys.stdout.isatty()))
        else:
            print(printable(as_text(file, metadata=args.metadata, tensors=args.tensors)))
    return 0


def formats(file: "Inspected") -> list[dict[str, Any]]:
    """How many tensors, weights and bytes each block format has, largest first."""
    rows: dict[str, dict[str, Any]] = {}
    for info in file.tensors.values():
        kind = info.format
        row = rows.setdefault(
            kind.name,
            {"type": kind.name, "tensors": 0, "weights": 0, "bytes": 0, "bits_per_weight": kind.bits_per_weight},
        )
        row["tensors"] += 1
        row["weights"] += math.prod(info.shape)
        row["bytes"] += info.nbytes
    return sorted(rows.values(), key=lambda row: -row["bytes"])


def as_json(file: "Inspected") -> dict[str, Any]:
    """Everything, for a program. A list of more than 8 values is cut to {"length", "first"}."""
    return {
        **file.facts,
        "types": formats(file),
        "metadata": {key: _cut(value) for key, value in file.metadata.items()},
        "tensors": [
            {"name": t.name, "shape": list(t.shape), "type": t.format.name, "offset": t.offset, "bytes": t.nbytes}
            for t in file.tensors.values()
        ],
    }


def as_text(file: "Inspected", *, metadata: bool = False, tensors: bool = False) -> str:
    """The same for a person: facts, then types, then tensors, one line for what repeats in every layer."""
    from soberano.cli._terminal import table

    facts = file.facts
    heads = (
        f"{facts['heads']}, of which {facts['kv_heads']} for keys and values" if facts["kv_heads"] else facts["heads"]
    )
    lines = [
        ("name", facts["name"]),
        ("architecture", facts["architecture"]),
        ("licence", facts["licence"]),
        (
            "size",
            f"{facts['weights'] / 1e6:,.1f} M weights of {facts['bits_per_weight']} bits: {bytes_text(facts['bytes'])}"
            if facts["weights"]
            else "no weights",
        ),
        ("layers", facts["layers"]),
        ("context", f"{facts['context']} tokens" if facts["context"] else None),
        ("width", _said(facts["width"], f", feed-forward {facts['ffn']}" if facts["ffn"] else "")),
        ("heads", heads),
        ("tokenizer", _said(facts["tokenizer"], _pretokenizer(facts))),
        ("special", ", ".join(f"{k} {facts[k]}" for k in ("bos", "eos") if facts[k] is not None) or None),
    ]
    if facts["purpose"]:
        lines.append(("for", facts["purpose"]))
    if facts["purpose"] in (None, GENERATES):
        lines.append(("chat", "has a template" if facts["chat_template"] else "no template: a base model"))
    parts = [f"{facts['file']}, {file.kind}"]
    parts.append(table([(name, "not stated" if value is None else value) for name, value in lines]))
    types = [
        (f["type"], f["tensors"], f"{f['weights'] / 1e6:,.2f} M", bytes_text(f["bytes"]), f"{f['bits_per_weight']:g}")
        for f in formats(file)
    ]
    parts.append(table(types, head=("type", "tensors", "weights", "bytes", "bits/weight"), right=(1, 2, 3, 4)))
    parts.append(table(_tensor_rows(file, tensors), head=("tensor", "count", "shape", "type")))
    if metadata:
        parts.append(table([(key, _short(value)) for key, value in file.metadata.items()], head=("key", "value")))
    return "\n\n".join(parts)


def _said(value: Any, more: str) -> str | None:
    return None if value is None else f"{value}{more}"


def _pretokenizer(facts: dict[str, Any]) -> str:
    kind = f" ({facts['pretokenizer']})" if facts["pretokenizer"] else ""
    return kind + (f", {facts['vocabulary']} tokens" if facts["vocabulary"] else "")


def _tensor_rows(file: "Inspected", every: bool) -> list[tuple[str, str, str, str]]:
    groups: dict[tuple[str, tuple[int, ...]], Counter[str]] = {}
    for info in file.tensors.values():
        name = info.name if every else re.sub(r"(?<=\.)\d+(?=\.)", "*", info.name, count=1)
        groups.setdefault((name, tuple(info.shape)), Counter())[info.format.name] += 1
    return [
        (name, str(types.total()), " x ".join(map(str, shape)), _types(types))
        for (name, shape), types in groups.items()
    ]


def _types(types: Counter[str]) -> str:
    return next(iter(types)) if len(types) == 1 else ", ".join(f"{n} {name}" for name, n in types.most_common())


def _cut(value: Any) -> Any:
    return (
        {"length": len(value), "first": value[:LONGEST]} if isinstance(value, list) and len(value) > LONGEST else value
    )


def _short(value: Any) -> str:
    if isinstance(value, list):
        shown = ", ".join(_short(v) for v in value[:LONGEST])
        return f"[{shown}, ... {len(value):,} in all]" if len(value) > LONGEST else f"[{shown}]"
    text = " ".join(str(value).split()) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
