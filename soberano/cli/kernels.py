"""`soberano kernels build`, `soberano kernels list`: compile the native kernels before they are needed; show them."""

import argparse
import json
import time
from typing import Any

HELP = "compile the native kernels now, or show those that are cached"

ABOUT = """
Kernels are compiled when a model first needs them. Where that is forbidden, in a container image say, build them while
the image is made, keep SOBERANO_CACHE in it, and run with SOBERANO_NATIVE=require: then nothing runs without them, and
no compiler is needed. Without --isa they serve processors with just the features of this one. With --isa, and the same
name in SOBERANO_ISA, they serve every processor that has the instruction set.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(title="what to do", dest="kind", metavar="KIND", required=True)
    build = kinds.add_parser("build", help="compile the kernels, if they are not cached", description=ABOUT)
    build.add_argument(
        "--isa",
        action="append",
        metavar="NAME",
        help="for this instruction set, as SOBERANO_ISA names it; may be given again (default: SOBERANO_ISA)",
    )
    build.add_argument("--json", action="store_true", help="print what was built as JSON")
    show = kinds.add_parser("list", help="show the kernels that are cached")
    show.add_argument("--json", action="store_true", help="print them as JSON")


def run(args: argparse.Namespace) -> int:
    from soberano.cli._terminal import table
    from soberano.core.printable import printable
    from soberano.core.units import bytes_text

    rows = _build(args.isa) if args.kind == "build" else _list()
    if args.json:
        print(json.dumps(rows, indent=1))
    elif rows:
        cells = [[bytes_text(row[name]) if name == "size" else row[name] for name in row] for row in rows]
        print(printable(table(cells, head=list(rows[0]))))
    else:
        print("no kernels yet; soberano kernels build makes them")
    return 0


def _build(asked: list[str] | None) -> list[dict[str, Any]]:
    from soberano.backends import native, native_cache
    from soberano.cli._terminal import progress
    from soberano.core.errors import InputError
    from soberano.core.settings import choices, settings
    from soberano.core.units import seconds_text

    wanted = list(dict.fromkeys(asked or [settings().isa]))
    known = choices("isa")
    for isa in wanted:
        if isa not in known:
            raise InputError(f"--isa {isa} is none of {', '.join(known)}; give one of them")
    rows = []
    with progress() as show:
        for isa in wanted:
            before, started = {each.path for each in native_cache.cached()}, time.monotonic()
            path = native.build(show, isa)
            took = "was cached" if path in before else f"built in {seconds_text(time.monotonic() - started)}"
            rows.append({"isa": isa, "how": took, "size": path.stat().st_size, "path": str(path)})
    return rows


def _list() -> list[dict[str, Any]]:
    from soberano.backends import native, native_cache
    from soberano.core.errors import Unsupported
    from soberano.core.settings import choices

    here: dict[str, str] = {}
    for isa in choices("isa"):
        try:
            here.setdefault(native.key(isa), f"SOBERANO_ISA={isa}")
        except Unsupported:  # not for this processor
            continue
    return [
        {
            "key": each.key,
            "isa": each.note.isa,
            "serves": here.get(each.key, "nothing here: it is of another version, or for another processor"),
            "compiler": each.note.compiler,
            "size": each.note.size,
            "path": str(each.path),
        }
        for each in native_cache.cached()
    ]
