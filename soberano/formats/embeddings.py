"""Write vectors as they are made, texts beside them: .npy, .jsonl, and Arrow (.arrow, .parquet), by the file's suffix.

Nothing is kept in memory but the part that is written. A file appears under its name when it is whole.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from soberano.core.errors import InputError


class Sink(Protocol):
    """Where vectors go."""

    def add(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        """Write some more: texts, and their vectors (n, width) float32."""


class Npy:
    """A NumPy array (N, width) float32, without the texts. The number of rows goes into the header at the end."""

    def __init__(self, file: IO[bytes], width: int) -> None:
        self.file, self.width, self.rows = file, width, 0
        self._header()

    def _header(self) -> None:
        self.file.seek(0)  # the header leaves room for any number of rows, so its length stays
        form = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.width)}
        np.lib.format.write_array_header_1_0(self.file, form)

    def add(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        self.file.write(vectors.astype("<f4").tobytes())
        self.rows += len(vectors)

    def close(self) -> None:
        self._header()


class Jsonl:
    """A line of JSON for each text: {"text": ..., "embedding": [...]}."""

    def __init__(self, file: IO[bytes], width: int) -> None:
        self.file = file

    def add(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        for text, row in zip(texts, vectors, strict=True):
            self.file.write(json.dumps({"text": text, "embedding": row.tolist()}, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        pass


class Arrow:
    """The columns text (string) and embedding (fixed-size list of float32), a record batch for each part."""

    def __init__(self, file: IO[bytes], width: int, parquet: bool = False) -> None:
        if find_spec("pyarrow") is None:
            raise InputError(
                "Arrow and Parquet files need pyarrow: pip install 'soberano[arrow]', or write .npy or .jsonl"
            )
        self.arrow: Any = import_module("pyarrow")
        self.width = width
        column = self.arrow.list_(self.arrow.float32(), width)
        self.schema = self.arrow.schema([("text", self.arrow.string()), ("embedding", column)])
        self.writer = (
            import_module("pyarrow.parquet").ParquetWriter(file, self.schema)
            if parquet
            else self.arrow.ipc.new_file(file, self.schema)
        )

    def add(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        numbers = self.arrow.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
        rows = self.arrow.FixedSizeListArray.from_arrays(numbers, self.width)
        columns = [self.arrow.array(texts, self.arrow.string()), rows]
        self.writer.write_batch(self.arrow.record_batch(columns, schema=self.schema))

    def close(self) -> None:
        self.writer.close()


class Parquet(Arrow):
    """The same columns as a Parquet file."""

    def __init__(self, file: IO[bytes], width: int) -> None:
        super().__init__(file, width, parquet=True)


SINKS: dict[str, type[Npy | Jsonl | Arrow]] = {
    ".npy": Npy,
    ".jsonl": Jsonl,
    ".arrow": Arrow,
    ".parquet": Parquet,
}
"""Suffix -> what is written."""


@contextmanager
def writing(path: Path, width: int) -> Iterator[Sink]:
    """Open a file for vectors of `width` numbers; it takes its name when the block ends well.

    Raises InputError for a suffix that is not known, or when Arrow is asked for and pyarrow is absent.
    """
    kind = SINKS.get(path.suffix)
    if kind is None:
        raise InputError(f"{path.name!r} does not say what to write; end it in {', '.join(SINKS)}")
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            sink = kind(file, width)
            try:
                yield sink
            finally:
                sink.close()  # even of what is thrown away: Arrow's writers want it
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
