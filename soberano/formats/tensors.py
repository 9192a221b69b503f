"""Tensors in a mapped file, whatever its format: where each lies, and views of its bytes."""

import mmap
import os
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeVar

import numpy as np

from soberano.core.errors import FileError, InputError
from soberano.quant.blocks import BlockFormat

Self = TypeVar("Self", bound="MappedTensors")
_DONTNEED = getattr(mmap, "MADV_DONTNEED", None)  # Windows has no such word
_POPULATE_READ = 22 if sys.platform == "linux" else None  # of Linux 5.14; Python has no name for it


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies and what it is."""

    name: str
    shape: tuple[int, ...]  # slowest axis first, as NumPy has it: a matrix is (O, I)
    format: type[BlockFormat]
    offset: int  # from the start of the file
    nbytes: int


class TensorFile(Protocol):
    """What a loader needs of a model's weights: a file, several, or one under other names."""

    @property
    def path(self) -> Path:
        """Where it lies."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The tensors by name."""

    def raw(self, name: str) -> np.ndarray:
        """The blocks of a tensor: read-only uint8, shape[:-1] + (row bytes,). Raises FileError if there is none."""

    def pieces(self, name: str, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, raw rows (n, row bytes)), so many rows at a time; what was read is given back as it goes.

        The rows of a tensor are those of all its matrices, one after another; a vector is one row.
        """

    def split(self, name: str, parts: Mapping[str, int]) -> None:
        """Let a tensor be several from now on: its rows in order, so many for each part, under names of their own.

        Raises FileError where there is a tensor of such a name already.
        """


class MappedTensors:
    """A TensorFile that is one map. Arrays from `raw` are views of it and keep it alive after `close`."""

    def __init__(self, path: Path, tensors: dict[str, TensorInfo], mapped: mmap.mmap) -> None:
        self.path = path
        self.tensors = tensors
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

    def pieces(self, name: str, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """As TensorFile.pieces.

        Each piece is brought into memory at once: thousands of page faults, one by one, cost more than the reading.
        """
        whole, info = self.raw(name), self.tensors[name]
        raw = whole.reshape(-1, whole.shape[-1])
        for start in range(0, len(raw), rows):
            part = raw[start : start + rows]
            offset = info.offset + start * raw.shape[-1]
            self._advise(_POPULATE_READ, offset, part.nbytes)
            yield start, part
            self._advise(_DONTNEED, offset, part.nbytes)

    def split(self, name: str, parts: Mapping[str, int]) -> None:
        """As TensorFile.split."""
        whole = self.tensors.pop(name)
        row, start = whole.nbytes // whole.shape[0], whole.offset
        for part, rows in parts.items():
            if part in self.tensors:
                raise FileError(f"{self.path}: the tensor {name} holds {part}, which is there again; convert it again")
            self.tensors[part] = replace(
                whole, name=part, shape=(rows, *whole.shape[1:]), offset=start, nbytes=rows * row
            )
            start += rows * row

    def _advise(self, advice: int | None, offset: int, nbytes: int) -> None:
        """Say what is wanted of a part of the map. The system is free not to listen; an old one does not know it."""
        if self._map is None or advice is None or not nbytes:
            return
        start = offset - offset % mmap.PAGESIZE  # neighbours share the pages at both ends, and just read them again
        with suppress(OSError):
            self._map.madvise(advice, start, offset + nbytes - start)

    def close(self) -> None:
        """Let go of the map; it is unmapped when the last array from `raw` is gone. Closing twice is fine."""
        self._map = None

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def map_file(path: Path, suffix: str) -> tuple[mmap.mmap, int]:
    """Map a file to read -> (map, size). Raises FileError, which asks for a file that ends in `suffix`."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise FileError(f"{path} is a folder; give the path of a {suffix} file in it")
        if not stat.S_ISREG(mode):  # before opening: opening a pipe waits for its writer
            raise FileError(f"{path} is not a regular file; give the path of a {suffix} file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise FileError(f"{path} is an empty file; get the file again")
            return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), size
    except FileNotFoundError:
        raise FileError(f"{path} does not exist; check the path") from None
    except (OSError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
