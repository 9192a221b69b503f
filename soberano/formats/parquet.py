"""Rows of a Parquet file as plain values, a thousand at a time."""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from soberano.core.errors import FileError, InputError


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield each row as a dict. Raises InputError without pyarrow, FileError for what is no Parquet file."""
    if find_spec("pyarrow") is None:
        raise InputError(f"{path} needs pyarrow; pip install 'soberano[arrow]', or convert it to .jsonl")
    arrow: Any = import_module("pyarrow")
    try:
        with import_module("pyarrow.parquet").ParquetFile(path) as table:
            for part in table.iter_batches(1024):
                yield from part.to_pylist()
    except (arrow.ArrowException, OSError) as error:
        raise FileError(f"{path} is no Parquet file that can be read: {str(error)[:200]}") from None
