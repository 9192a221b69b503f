"""Write what can be read off the code: docs/reference.md, docs/files.md, and the generated blocks of README.md.

`make docs` runs it; tests/test_docs.py fails when what is on disk is not what it would write.
"""

import argparse
import ast
import inspect
import json
import pkgutil
import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

PACKAGE = ROOT / "soberano"
REFERENCE = ROOT / "docs" / "reference.md"
FILES = ROOT / "docs" / "files.md"
README = ROOT / "README.md"
LONGEST_ABOUT = 100
SILENT = {".html": "The page before any script has run", ".svg": "The icon"}  # for a file that says nothing itself
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in lines) + "\n"


def modules(package: str) -> list[ModuleType]:
    """The modules of one of our packages, without kernels: those need libraries that may be absent."""
    found = import_module(f"soberano.{package}")
    names = sorted(m.name for m in pkgutil.iter_modules(found.__path__))
    return [import_module(f"soberano.{package}.{n}") for n in names if not n.endswith(("_jax", "_cupy"))]


def first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


# The reference.


def commands() -> str:
    from soberano.cli import main

    parts = []
    for name in main.names():
        parser = main.parser(name)
        (subparsers,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parts.append(f"### soberano {name}\n\n{main.command(name).HELP[0].upper()}{main.command(name).HELP[1:]}.\n")
        parts.append(_flags(subparsers.choices[name]))
    return "\n".join(parts)


def exit_status() -> str:
    """What the main module says of exit statuses."""
    from soberano.cli import main

    (said,) = (part for part in (main.__doc__ or "").split("\n\n") if part.startswith("Exit status"))
    return " ".join(said.split())


def _flags(parser: argparse.ArgumentParser) -> str:
    rows, below = [], []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                below.append(f"\n`{sub.prog.removeprefix('soberano ')}`\n\n{_flags(sub)}" if name else "")
            continue
        takes = "" if action.nargs == 0 else f" {action.metavar or ''}".rstrip()
        spelt = ", ".join(f"`{flag}{takes}`" for flag in action.option_strings) or f"`{action.metavar}`"
        rows.append([spelt, action.help])
    return (table(["argument", "meaning"], rows) if rows else "") + "".join(below)


def settings_table() -> str:
    from soberano.core.settings import variables

    rows = [[f"`{name}`", f"`{default}`" if default != "" else "", text] for name, default, text in variables()]
    return table(["variable", "default", "meaning"], rows)


def errors_table() -> str:
    from soberano.core import errors

    rows = [
        [f"`{name}`", f"`{kind.__bases__[0].__name__}`", first_line(kind)]
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and kind.__module__ == errors.__name__
    ]
    return table(["error", "is a", "raised for"], rows)


def formats_table() -> str:
    from soberano.quant.blocks import all_formats

    rows = []
    for kind in sorted(all_formats(), key=lambda kind: kind.ggml):
        rows.append([f"`{kind.name}`", kind.ggml, kind.block, f"{kind.bits_per_weight:g}", first_line(kind)])
    return table(["format", "type id", "weights in a block", "bits per weight", "what it is"], rows)


def all_ops() -> list[Any]:
    """Every op of the project, by module and name."""
    from soberano.backends.dispatch import Op

    return [
        op
        for module in modules("ops")
        for op in vars(module).values()
        if isinstance(op, Op) and op.__module__ == module.__name__
    ]


def ops_table() -> str:
    rows = []
    for op in all_ops():
        where = op.__module__.rpartition(".")[2]
        kernels = [home for home in ("jax", "cupy") if _defines(PACKAGE / "ops" / f"{where}_{home}.py", op.__name__)]
        link = f"[{where}.{op.__name__}](../soberano/ops/{where}.py)"
        rows.append([link, f"`{_arguments(op.meaning)}`", first_line(op.meaning), ", ".join(kernels) or "meaning only"])
    return table(["op", "arguments", "meaning", "kernels"], rows)


def _arguments(function: Any) -> str:
    """The arguments with their defaults, without types: those are in the file."""
    signature = inspect.signature(function)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


def _defines(path: Path, name: str) -> bool:
    return path.is_file() and re.search(rf"^(?:def {name}\(|{name}\b.*=)", path.read_text(), re.MULTILINE) is not None


def api() -> str:
    return f"```\n{(ROOT / 'tests' / 'golden' / 'api.txt').read_text()}```\n"


def reference() -> str:
    """The text of docs/reference.md."""
    parts = [
        "# Reference",
        "Read off the code by `make docs`; a test keeps it fresh.",
        "## Commands",
        exit_status(),
        commands(),
        "## Settings",
        "The environment is read once, in [core/settings.py](../soberano/core/settings.py).",
        settings_table(),
        "## Python",
        api(),
        "## Errors",
        "All in [core/errors.py](../soberano/core/errors.py). Each says what is wrong, what is right, what to do.",
        errors_table(),
        "## Block formats",
        formats_table(),
        "## Ops",
        "Each has one meaning in portable array code; a kernel of the same name only makes it fast.",
        ops_table(),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def tree() -> str:
    """Every file of the package with what it is for."""
    lines = []
    order = ("cli", "bench", "server", "models", "registry", "text", "formats", "ops", "quant", "backends", "core")
    folders = sorted((p for p in PACKAGE.iterdir() if p.name in order), key=lambda p: order.index(p.name))
    for folder in folders:
        lines.append(f"soberano/{folder.name}/")
        files = [
            p for p in sorted(folder.rglob("*")) if p.is_file() and "__pycache__" not in p.parts and p.suffix != ".pyc"
        ]
        for path in files:
            if path.name != "__init__.py":
                name = str(path.relative_to(folder))
                lines.append(f"    {name:<20} {_about(path)}".rstrip())
    return "```\n" + "\n".join(lines) + "\n```\n"


def _about(path: Path) -> str:
    """The first line of what a file says of itself, whatever its language; empty where it says nothing."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    else:
        found = re.search(
            r"\A\s*(?:<!doctype html>\s*)?(?://+|/\*+!?|<!--)\s*(.+?)\s*(?:\*/|-->|\n)", text, re.IGNORECASE
        )
        said = found.group(1) if found else SILENT.get(path.suffix, "")
    said = said.partition(". ")[0]
    if len(said) > LONGEST_ABOUT:  # leave out clauses from the end rather than break one
        ends = [m.start() for m in re.finditer(r"[.:;,] ", said) if 30 < m.start() < LONGEST_ABOUT]
        said = said[: ends[-1]] if ends else said[:LONGEST_ABOUT].rpartition(" ")[0]
    return said.rstrip(".")


def files() -> str:
    """The text of docs/files.md."""
    return (
        "# The files\n\nLayers, from the roof to the ground; a package imports only what is below it.\n"
        f"Read off the code by `make docs`; a test keeps it fresh.\n\n{tree()}"
    )


# The blocks of the README.


def figure(value: float) -> str:
    """A number with four digits, as people write it.

    >>> figure(12346), figure(0.8049), figure(98)
    ('12,346', '0.8049', '98')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def short(commit: str) -> str:
    """Seven letters of a commit, and the + of a tree that had changes.

    >>> short("169e5f4f2d"), short("169e5f4f2d+")
    ('169e5f4', '169e5f4+')
    """
    return commit[:7] + "+" * commit.endswith("+")


def benchmarks() -> str:
    """The newest row of each case, wins and losses alike."""
    rows: dict[tuple[str, ...], dict[str, Any]] = {}
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            if line.strip():
                row = json.loads(line)
                key = tuple(str(row.get(k)) for k in ("machine", "backend", "case", "peer_name"))
                rows[key] = row  # later lines are newer
    if not rows:
        return "No measured row yet.\n"
    cells = []
    for row in rows.values():
        peer = f"{figure(row['peer'])} ({row['peer_name']})" if row.get("peer") is not None else ""
        ratio = f"**{row['ratio']:.2f}x**" if row.get("ratio") is not None else ""
        share = f"{row['limit_share']:.0%}" if row.get("limit_share") is not None else ""
        ours = f"{figure(row['ours'])} {row['unit']}"
        cells.append(
            [
                row["case"],
                row["backend"],
                ours,
                peer,
                ratio,
                share,
                row["machine"],
                f"{row['date']} {short(row['commit'])}",
            ]
        )
    head = ["case", "backend", "ours", "peer", "ratio", "of the machine's limit", "machine", "measured"]
    return table(head, cells)


BLOCKS = {"benchmarks": benchmarks}


def readme(text: str) -> str:
    """README.md with its generated blocks renewed."""
    return BLOCK.sub(lambda found: found[1] + BLOCKS[found[2]]() + found[3], text)


def main() -> None:
    """Write what has changed, and say so."""
    text = readme(README.read_text(encoding="utf-8"))
    for path, new in ((REFERENCE, reference()), (FILES, files()), (README, text)):
        if not path.exists() or path.read_text(encoding="utf-8") != new:
            path.write_text(new, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
