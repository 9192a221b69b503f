"""GGUF files: weights in blocks and the metadata to run them, in one file that is mapped, not read.

`read` checks the whole head and maps the rest; `write` (from gguf_write) makes such files.
"""

import mmap
import os
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, overload

from soberano.core.errors import FileError
from soberano.formats.gguf_parse import Head, parse
from soberano.formats.gguf_write import Chunks, Typed, write
from soberano.formats.tensors import MappedTensors, TensorInfo, map_file

__all__ = ["GGUF", "Chunks", "TensorInfo", "Typed", "read", "write"]

T = TypeVar("T")
_REQUIRED: Any = object()


class GGUF(MappedTensors):
    """An open file. Arrays from `raw` are views of its map and keep the map alive after `close`."""

    def __init__(self, path: Path, head: Head, mapped: mmap.mmap) -> None:
        super().__init__(path, head.tensors, mapped)
        self.version = head.version
        self.metadata = head.metadata
        self.kinds = head.kinds

    @overload
    def field(self, key: str, kind: type[T]) -> T: ...
    @overload
    def field(self, key: str, kind: type[T], default: None) -> T | None: ...
    @overload
    def field(self, key: str, kind: type[T], default: T) -> T: ...
    def field(self, key: str, kind: Any, default: Any = _REQUIRED) -> Any:
        """The metadata value of `key`, as int, float, str, bool, list, or a list of one of them such as list[str].

        A float may be written as an integer. Raises FileError naming the key when it is missing and no default is
        given, or when it is of another type.
        """
        if key not in self.metadata:
            if default is _REQUIRED:
                raise FileError(f"{self.path} lacks the metadata key {key!r}; the file cannot be used without it")
            return default
        value = self.metadata[key]
        if not _is(value, kind):
            wanted = kind.__name__ if get_origin(kind) is None else str(kind)
            raise FileError(
                f"{self.path}: the metadata key {key!r} is of kind {self.kinds[key]}, and should be {wanted}"
            )
        return float(value) if kind is float else value

    def __repr__(self) -> str:
        return f"<GGUF {self.path}: {len(self.tensors)} tensors, {len(self.metadata)} metadata keys>"


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) is list:
        (element,) = get_args(kind)
        return isinstance(value, list) and all(_is(each, element) for each in value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind


def read(path: str | os.PathLike[str]) -> GGUF:
    """Open a GGUF file: check its head against its size, and map it.

    Raises FileError where the file is missing, unreadable, no GGUF file, truncated or malformed; UnsupportedModel where
    a tensor has a type that we do not read.
    """
    path = Path(path)
    mapped, size = map_file(path, ".gguf")
    return GGUF(path, parse(str(path), mapped, size), mapped)
