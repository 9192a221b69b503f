"""Examples to train on, from files that people have: JSON lines, a JSON list, Parquet, or a folder of those.

Four forms are known, by the fields of the first example, and every other example must have the same:

    chat         {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]}
    alpaca       {"instruction": ..., "input": ... (may be empty or missing), "output": ...}
    completion   {"prompt": ..., "completion": ...}
    text         {"text": ...}

Answers are learnt, what was asked is not; of plain text everything is learnt.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from soberano.core.errors import FileError, InputError
from soberano.formats import parquet

Form = Literal["chat", "alpaca", "completion", "text"]

_FIELDS: dict[Form, tuple[str, ...]] = {
    "chat": ("messages",),
    "alpaca": ("instruction", "output"),
    "completion": ("prompt", "completion"),
    "text": ("text",),
}
_SUFFIXES = (".jsonl", ".json", ".parquet")

LARGEST_LINE = 64 * 2**20
"""Bytes of the longest line, or of the largest JSON list, that is parsed."""


class Example(NamedTuple):
    """One example: its fields, and where it stands, for messages."""

    fields: Mapping[str, Any]
    where: str  # FILE:LINE


class Examples(NamedTuple):
    """All examples of one source, which have one form."""

    form: Form
    examples: list[Example]


def read_examples(path: Path) -> Examples:
    """Read every example. Raises FileError or InputError, naming file and line, before anything is trained.

    For a file that is missing, empty or damaged; a line that is no JSON; a form that is not known, or two of them; a
    field that is missing or no text.
    """
    found: list[Example] = []
    form: Form | None = None
    for example in read_rows(path):
        here = form_of(example)
        if form is not None and here != form:
            raise InputError(
                f"{example.where} is an example of the form {here}, and {found[0].where} one of the form {form}; "
                f"train on one form at a time, or convert the one into the other"
            )
        form = here
        _check(example, form)
        found.append(example)
    if form is None:
        raise InputError(f"{path} holds no example; it must have one a line: {forms_text()}")
    return Examples(form, found)


def read_rows(path: Path) -> Iterator[Example]:
    """Every example of a file or folder, whatever its fields. Raises FileError or InputError, naming file and line."""
    for file in _files(path):
        yield from _of_file(file)


def form_of(example: Example) -> Form:
    """The form that has the fields of an example. Raises InputError, naming the fields it has."""
    known = [form for form, needed in _FIELDS.items() if all(field in example.fields for field in needed)]
    if not known:
        fields = ", ".join(list(example.fields)[:8]) or "no fields"
        raise InputError(f"{example.where} has the fields {fields}; known forms are {forms_text()}")
    return known[0]


def forms_text() -> str:
    """The known forms, in words."""
    return "; ".join(f"{form} ({', '.join(fields)})" for form, fields in _FIELDS.items())


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.suffix in _SUFFIXES and each.is_file())
        if not files:
            raise InputError(f"{path} has no file that ends in {', '.join(_SUFFIXES)}")
        return files
    if not path.is_file():
        raise FileError(f"{path} is missing; pass a file that ends in {', '.join(_SUFFIXES)}, or a folder of them")
    if path.suffix not in _SUFFIXES:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'}; examples are read from {', '.join(_SUFFIXES)}")
    return [path]


def _of_file(path: Path) -> Iterator[Example]:
    if path.suffix == ".parquet":
        yield from _of_parquet(path)
    elif path.suffix == ".json":
        yield from _of_list(path)
    else:
        yield from _of_lines(path)


def _of_lines(path: Path) -> Iterator[Example]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LARGEST_LINE + 1):
            number += 1
            if len(line) > LARGEST_LINE:
                raise InputError(f"{path}:{number} is longer than {LARGEST_LINE:,} bytes; an example is one short line")
            if line.strip():
                yield _example(_parsed(line, f"{path}:{number}"), f"{path}:{number}")


def _of_list(path: Path) -> Iterator[Example]:
    if path.stat().st_size > LARGEST_LINE:
        raise InputError(f"{path} is a JSON list of more than {LARGEST_LINE:,} bytes; make it JSON lines (.jsonl)")
    value = _parsed(path.read_bytes(), str(path))
    if not isinstance(value, list):
        raise InputError(f"{path} holds a {type(value).__name__}, and must hold a list of examples")
    for number, each in enumerate(value, 1):
        yield _example(each, f"{path}, example {number}")


def _of_parquet(path: Path) -> Iterator[Example]:
    for number, row in enumerate(parquet.rows(path), 1):
        yield _example(row, f"{path}, row {number}")


def _parsed(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw)
    except RecursionError:
        raise InputError(f"{where} nests values too deep") from None
    except ValueError as error:
        raise InputError(f"{where} is not JSON: {str(error)[:200]}") from None


def _example(value: Any, where: str) -> Example:
    if not isinstance(value, dict):
        raise InputError(
            f"{where} holds a {type(value).__name__}, and must hold an object with the fields of an example"
        )
    return Example(value, where)


def _check(example: Example, form: Form) -> None:
    """Raise InputError unless the fields hold what they should. Messages are checked when they are rendered."""
    for field in _FIELDS[form]:
        value = example.fields[field]
        if form != "chat" and not isinstance(value, str):
            raise InputError(f"{example.where}: {field} is {type(value).__name__}, and must be text")
        if form == "chat" and not (isinstance(value, list) and value):
            raise InputError(f"{example.where}: messages must be a list of at least one message")
    if form == "alpaca" and not isinstance(example.fields.get("input") or "", str):
        raise InputError(f"{example.where}: input is {type(example.fields['input']).__name__}, and must be text")
