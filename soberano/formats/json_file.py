"""JSON from files that nobody vouches for: sizes are bounded before it is parsed, a key may be there once."""

import json
from pathlib import Path
from typing import Any

from soberano.core.errors import FileError

LARGEST = 64 * 2**20
"""Bytes of the largest file that is parsed: a tokenizer.json of a large vocabulary has 40 MB."""


def read_object(path: Path, most: int = LARGEST) -> dict[str, Any]:
    """The object in a JSON file. Raises FileError where it is missing, larger than `most` bytes, or no such thing."""
    return parse_object(read_bytes(path, most), str(path))


def read_bytes(path: Path, most: int = LARGEST) -> bytes:
    """A small file, whole. Raises FileError where it is missing, unreadable or larger than `most` bytes."""
    try:
        if not path.is_file():
            raise FileError(f"{path} is missing; get the folder of the model again, with all of its files")
        size = path.stat().st_size
        if size > most:
            raise FileError(f"{path} has {size:,} bytes, and more than {most:,} are not believed of such a file")
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from None


def parse_object(raw: bytes, name: str) -> dict[str, Any]:
    """The object in JSON text; `name` is for messages. Raises FileError."""
    return _of_kind(raw, name, dict)


def parse_array(raw: bytes, name: str) -> list[Any]:
    """The list in JSON text; `name` is for messages. Raises FileError."""
    return _of_kind(raw, name, list)


def _of_kind(raw: bytes, name: str, kind: type) -> Any:
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_once)
    except RecursionError:
        raise FileError(f"{name} nests values too deep; get the file again") from None
    except ValueError as error:  # JSON, UTF-8, or a number of thousands of digits
        raise FileError(f"{name} is not JSON: {str(error)[:200]}; get the file again") from None
    if not isinstance(value, kind):
        raise FileError(f"{name} holds a {type(value).__name__}, and must hold a {kind.__name__}; get the file again")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return found
