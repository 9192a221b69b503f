"""Files of vectors: what is written part by part is read as one by the libraries of the formats."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from soberano.core.errors import InputError
from soberano.formats.embeddings import SINKS, writing

TEXTS = ["one", "zwei\n", "三", "", "five"]
Reader = Callable[[Path], tuple[list[str] | None, np.ndarray]]


def read_jsonl(path: Path) -> tuple[list[str], np.ndarray]:
    rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    return [row["text"] for row in rows], np.array([row["embedding"] for row in rows], np.float32)


def read_arrow(path: Path) -> tuple[list[str], np.ndarray]:
    arrow = pytest.importorskip("pyarrow")
    table = arrow.ipc.open_file(arrow.memory_map(str(path))).read_all()
    return of_table(table)


def read_parquet(path: Path) -> tuple[list[str], np.ndarray]:
    return of_table(pytest.importorskip("pyarrow.parquet").read_table(path))


def of_table(table: object) -> tuple[list[str], np.ndarray]:
    assert table.schema.field("embedding").type.list_size == 3  # type: ignore[attr-defined]
    rows = table.column("embedding").to_pylist()  # type: ignore[attr-defined]
    return table.column("text").to_pylist(), np.array(rows, np.float32).reshape(-1, 3)  # type: ignore[attr-defined]


READERS: dict[str, Reader] = {
    ".npy": lambda path: (None, np.load(path)),
    ".jsonl": read_jsonl,
    ".arrow": read_arrow,
    ".parquet": read_parquet,
}


@pytest.mark.parametrize("suffix", SINKS)
def test_parts_are_read_as_one(suffix: str, tmp_path: Path, rng: np.random.Generator) -> None:
    if suffix in (".arrow", ".parquet"):
        pytest.importorskip("pyarrow")
    vectors = rng.normal(size=(5, 3)).astype(np.float32)
    path = tmp_path / f"out{suffix}"
    with writing(path, 3) as sink:
        sink.add(TEXTS[:2], vectors[:2])
        assert not path.exists()
        sink.add(TEXTS[2:], vectors[2:, ::-1][:, ::-1])  # not contiguous
    texts, found = READERS[suffix](path)
    np.testing.assert_array_equal(found, vectors)
    assert texts is None or texts == TEXTS
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SINKS)
def test_nothing_is_left_of_a_failure(suffix: str, tmp_path: Path) -> None:
    if suffix in (".arrow", ".parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / f"out{suffix}", 3) as sink:
        sink.add(["a"], np.zeros((1, 3), np.float32))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_million_rows_fit_into_the_header(tmp_path: Path) -> None:
    with writing(tmp_path / "out.npy", 1) as sink:
        for _ in range(100):
            sink.add([], np.ones((10_000, 1), np.float32))
    assert np.load(tmp_path / "out.npy", mmap_mode="r").shape == (1_000_000, 1)


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = r"'out.csv' does not say what to write; end it in .npy, .jsonl"
    with pytest.raises(InputError, match=said), writing(tmp_path / "out.csv", 3):
        pass
    monkeypatch.setattr("soberano.formats.embeddings.find_spec", lambda name: None)
    said = r"need pyarrow: pip install 'soberano\[arrow\]'"
    with pytest.raises(InputError, match=said), writing(tmp_path / "out.arrow", 3):
        pass
    assert list(tmp_path.iterdir()) == []
