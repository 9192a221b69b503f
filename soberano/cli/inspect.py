"""`soberano inspect FILE`: what is in a model file, as a person wants to know it."""

import argparse
import json
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from soberano.core.units import bytes_text

if TYPE_CHECKING:
    from soberano.formats.gguf import GGUF

HELP = "show what is in a model file"

LONGEST = 8  # values of a metadata list, and rows of metadata, before it is cut short
_TOKENIZER = "tokenizer.ggml."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="FILE", help="a .gguf file, or the name of a pulled model")
    parser.add_argument("--metadata", action="store_true", help="show every metadata key")
    parser.add_argument("--tensors", action="store_true", help="show every tensor instead of one line a kind")
    parser.add_argument("--json", action="store_true", help="print everything as JSON; long lists are cut")


def run(args: argparse.Namespace) -> int:
    from soberano.core.printable import printable
    from soberano.formats import gguf
    from soberano.registry.store import resolve

    with gguf.read(resolve(args.model)) as file:
        if args.json:
            print(json.dumps(as_json(file), indent=1, ensure_ascii=sys.stdout.isatty()))
        else:
            print(printable(as_text(file, metadata=args.metadata, tensors=args.tensors)))
    return 0


def summary(file: "GGUF") -> dict[str, Any]:
    """The facts that people ask for first; None where the file does not say."""
    meta = file.metadata
    name = meta.get("general.architecture")
    weights = sum(_count(t.shape) for t in file.tensors.values())
    size = sum(t.nbytes for t in file.tensors.values())
    tokens = meta.get(f"{_TOKENIZER}tokens")
    return {
        "file": str(file.path),
        "name": meta.get("general.name"),
        "architecture": name,
        "licence": meta.get("general.license"),
        "weights": weights,
        "bytes": size,
        "bits_per_weight": round(8 * size / weights, 3) if weights else None,
        "layers": meta.get(f"{name}.block_count"),
        "context": meta.get(f"{name}.context_length"),
        "width": meta.get(f"{name}.embedding_length"),
        "ffn": meta.get(f"{name}.feed_forward_length"),
        "heads": meta.get(f"{name}.attention.head_count"),
        "kv_heads": meta.get(f"{name}.attention.head_count_kv"),
        "tokenizer": meta.get(f"{_TOKENIZER}model"),
        "pretokenizer": meta.get(f"{_TOKENIZER}pre"),
        "vocabulary": len(tokens) if isinstance(tokens, list) else None,
        "bos": meta.get(f"{_TOKENIZER}bos_token_id"),
        "eos": meta.get(f"{_TOKENIZER}eos_token_id"),
        "chat_template": "tokenizer.chat_template" in meta,
        "gguf_version": file.version,
    }


def formats(file: "GGUF") -> list[dict[str, Any]]:
    """How many tensors, weights and bytes each block format has, largest first."""
    rows: dict[str, dict[str, Any]] = {}
    for info in file.tensors.values():
        kind = info.format
        row = rows.setdefault(
            kind.name,
            {"type": kind.name, "tensors": 0, "weights": 0, "bytes": 0, "bits_per_weight": kind.bits_per_weight},
        )
        row["tensors"] += 1
        row["weights"] += _count(info.shape)
        row["bytes"] += info.nbytes
    return sorted(rows.values(), key=lambda row: -row["bytes"])


def as_json(file: "GGUF") -> dict[str, Any]:
    """Everything, for a program. A list of more than 8 values is cut to {"length", "first"}."""
    return {
        **summary(file),
        "types": formats(file),
        "metadata": {key: _cut(value) for key, value in file.metadata.items()},
        "tensors": [
            {"name": t.name, "shape": list(t.shape), "type": t.format.name, "offset": t.offset, "bytes": t.nbytes}
            for t in file.tensors.values()
        ],
    }


def as_text(file: "GGUF", *, metadata: bool = False, tensors: bool = False) -> str:
    """The same for a person: facts, then types, then tensors, one line for what repeats in every layer."""
    from soberano.cli._terminal import table

    facts = summary(file)
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
        ("chat", "has a template" if facts["chat_template"] else "no template: a base model"),
    ]
    parts = [f"{facts['file']}, GGUF version {facts['gguf_version']}"]
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


def _tensor_rows(file: "GGUF", every: bool) -> list[tuple[str, str, str, str]]:
    groups: dict[tuple[str, tuple[int, ...]], Counter[str]] = {}
    for info in file.tensors.values():
        name = info.name if every else re.sub(r"\bblk\.\d+\.", "blk.*.", info.name)
        groups.setdefault((name, tuple(info.shape)), Counter())[info.format.name] += 1
    return [
        (name, str(types.total()), " x ".join(map(str, shape)), _types(types))
        for (name, shape), types in groups.items()
    ]


def _types(types: Counter[str]) -> str:
    return next(iter(types)) if len(types) == 1 else ", ".join(f"{n} {name}" for name, n in types.most_common())


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= int(side)
    return total


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
