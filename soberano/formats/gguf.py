"""GGUF files: weights in blocks and the metadata to run them, in one file that is mapped, not read.

`read` checks the whole head and maps the rest; `write` (from gguf_write) makes such files.
"""

import mmap
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, get_args, get_origin, overload

import numpy as np

from soberano.core.errors import FileError, InputError
from soberano.formats.gguf_parse import Head, TensorInfo, parse
from soberano.formats.gguf_write import Chunks, Typed, write

__all__ = ["GGUF", "Chunks", "TensorInfo", "Typed", "read", "write"]

T = TypeVar("T")
_REQUIRED: Any = object()
_DONTNEED = getattr(mmap, "MADV_DONTNEED", None)  # Windows has no such word
_POPULATE_READ = 22 if sys.platform == "linux" else None  # of Linux 5.14; Python has no name for it


class GGUF:
    """An open file. Arrays from `raw` are views of its map and keep the map alive after `close`."""

    def __init__(self, path: Path, head: Head, mapped: mmap.mmap) -> None:
        self.path = path
        self.version = head.version
        self.metadata = head.metadata
        self.kinds = head.kinds
        self.tensors = head.tensors
        self._map: mmap.mmap | None = mapped

    def raw(self, name: str) -> np.ndarray:
        """The blocks of a tensor: read-only uint8, shape[:-1] + (row bytes,). Raises FileError if there is none."""
        if self._map is None:
            raise InputError(f"{self.path} is closed; read {name!r} before closing it")
        if name not in self.tensors:
            raise FileError(f"{self.path} has no tensor {name!r}; it has {len(self.tensors)}, see `soberano inspect`")
        info = self.tensors[name]
        row = info.format.row_bytes(info.shape[-1] if info.shape else 1)
        flat = np.frombuffer(self._map, np.uint8, info.nbytes, info.offset if info.nbytes else 0)
        return flat.reshape(*info.shape[:-1], row)

    def release(self, name: str) -> None:
        """Let the system take back the memory of a tensor that has been read. Reading it again still works."""
        info = self.tensors[name]
        self._advise(_DONTNEED, info.offset, info.nbytes)

    def pieces(self, name: str, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, raw rows) of a matrix, so many rows at a time; what was read is given back as it goes.

        Each piece is brought into memory at once: thousands of page faults, one by one, cost more than the reading.
        """
        raw, info = self.raw(name), self.tensors[name]
        for start in range(0, len(raw), rows):
            part = raw[start : start + rows]
            offset = info.offset + start * raw.shape[-1]
            self._advise(_POPULATE_READ, offset, part.nbytes)
            yield start, part
            self._advise(_DONTNEED, offset, part.nbytes)

    def _advise(self, advice: int | None, offset: int, nbytes: int) -> None:
        """Say what is wanted of a part of the map. The system is free not to listen; an old one does not know it."""
        if self._map is None or advice is None or not nbytes:
            return
        start = offset - offset % mmap.PAGESIZE  # neighbours share the pages at both ends, and just read them again
        with suppress(OSError):
            self._map.madvise(advice, start, offset + nbytes - start)

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

    def close(self) -> None:
        """Let go of the map; it is unmapped when the last array from `raw` is gone. Closing twice is fine."""
        self._map = None

    def __enter__(self) -> "GGUF":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise FileError(f"{path} is a folder; give the path of a .gguf file in it")
        if not stat.S_ISREG(mode):  # before opening: opening a pipe waits for its writer
            raise FileError(f"{path} is not a regular file; give the path of a .gguf file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise FileError(f"{path} is an empty file; get the file again")
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise FileError(f"{path} does not exist; check the path") from None
    except (OSError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return GGUF(path, parse(str(path), mapped, size), mapped)
