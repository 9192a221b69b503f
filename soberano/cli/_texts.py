"""The texts that a command is given: as arguments, as the lines of a file, or as those of standard input."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

from soberano.core.errors import InputError


def add_texts(parser: argparse.ArgumentParser, name: str, metavar: str) -> None:
    """Add the arguments NAME, --file and --field."""
    parser.add_argument(
        name,
        metavar=metavar,
        nargs="*",
        help=f"the {name}; without any, and without --file: the lines of standard input",
    )
    parser.add_argument(
        "--file", metavar="FILE", type=Path, help="read a text a line, or JSON a line from a .jsonl file"
    )
    parser.add_argument(
        "--field", default="text", metavar="NAME", help="the text's key in a .jsonl file (default: text)"
    )


@contextmanager
def texts_of(args: argparse.Namespace, given: Sequence[str]) -> Iterator[Iterator[str]]:
    """The texts, `given` or of a file. Raises InputError for both, and for what is no text."""
    if given and args.file:
        raise InputError("texts are given as arguments and with --file; give them in one of the two ways")
    named = next((text for text in given if _is_file(text)), None)
    if named is not None:
        raise InputError(f"the text {named!r:.80} is the name of a file; to read what is in it: --file {named:.80}")
    with args.file.open("rb") if args.file else nullcontext(sys.stdin.buffer) as file:
        yield iter(checked(given)) if given else _lines(file, args)


def checked(texts: Sequence[str]) -> Sequence[str]:
    """The texts. Raises InputError for an argument that is no text: it arrives with lone surrogates."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"a text is not {error.encoding}: {text!r:.60}; convert it first") from None
    return texts


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # longer than a name can be
        return False


def _lines(file: IO[bytes], args: argparse.Namespace) -> Iterator[str]:
    """The texts of a file, a line each: as they are, or from JSON where the file is .jsonl."""
    name = str(args.file or "standard input")
    for number, raw in enumerate(file, 1):
        try:
            line = raw.decode().removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise InputError(f"{name}, line {number}: not UTF-8; convert the file first") from None
        if args.file is None or args.file.suffix != ".jsonl":
            yield line
        elif line.strip():
            yield _field(line, args.field, f"{name}, line {number}")


def _field(line: str, field: str, where: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {error}") from None
    text = value.get(field) if isinstance(value, dict) else value
    if not isinstance(text, str):
        raise InputError(f"{where}: no text under {field!r}; say with --field where it is")
    return text
