"""Packing in a thread: what it makes is what tiles.pack says, in calls of any size, and it stops when it is told to."""

import mmap
import threading
from pathlib import Path

import numpy as np
import pytest

from soberano.backends import native
from soberano.quant import packing, tiles
from soberano.quant.blocks import format_named
from soberano.quant.packing import Packing

pytestmark = pytest.mark.skipif(not native.state()[0], reason=native.state()[1])

MATRICES = [("Q4_1", 50, 512), ("Q8_0", 16, 32), ("Q4_K", 1, 256), ("Q4_1", 50, 512), ("Q6_K", 31, 768)]


def mapped(array: np.ndarray, path: Path) -> np.ndarray:
    """The same bytes as a view of a file."""
    path.write_bytes(b"before" * 1000 + array.tobytes())
    with path.open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(view, np.uint8, offset=6000).reshape(array.shape)


@pytest.mark.parametrize("at_once", [1, 20_000, 1 << 30])
def test_it_makes_the_tiles_that_the_meaning_makes(
    at_once: int, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "AT_ONCE", at_once)
    done: list[int] = []
    work, expected = Packing(done.append), []
    for i, (name, rows, columns) in enumerate(MATRICES):
        kind = format_named(name)
        raw = rng.integers(0, 256, (rows, kind.row_bytes(columns)), np.uint8)
        expected.append((raw, tiles.pack(kind, raw), np.empty_like(tiles.pack(kind, raw))))
        work.add(kind, mapped(raw, tmp_path / str(i)), expected[-1][2])
    work.start()
    work.wait()
    for _, meant, made in expected:
        np.testing.assert_array_equal(made, meant)
    assert sum(done) == sum(raw.nbytes for raw, _, _ in expected)
    assert len(done) == {1: 5, 20_000: 3, 1 << 30: 1}[at_once]


def test_a_matrix_larger_than_a_piece_of_the_file(rng: np.random.Generator, tmp_path: Path) -> None:
    kind = format_named("Q8_0")
    raw = rng.integers(0, 256, (2100, kind.row_bytes(8192)), np.uint8)  # three pieces, the last with half a panel
    made = np.empty((-(-2100 // tiles.ROWS), tiles.layout_of(kind).panel_bytes(8192)), np.uint8)
    work = Packing(lambda size: None)
    work.add(kind, mapped(raw, tmp_path / "m"), made)
    work.start()
    work.wait()
    for start in range(0, 2100, 700 // 16 * 16):
        stop = start + 700 // 16 * 16
        np.testing.assert_array_equal(made[start // 16 : -(-stop // 16)], tiles.pack(kind, raw[start:stop]))


def test_it_stops_between_two_calls(rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "AT_ONCE", 1)
    kind, begun, told = format_named("Q8_0"), threading.Event(), threading.Event()
    done: list[int] = []

    def tick(size: int) -> None:
        done.append(size)
        begun.set()
        told.wait(30)

    work = Packing(tick)
    raw = mapped(rng.integers(0, 256, (16, kind.row_bytes(32)), np.uint8), tmp_path / "m")
    for _ in range(3):
        work.add(kind, raw, np.empty_like(tiles.pack(kind, raw)))
    work.start()
    assert begun.wait(30)
    threading.Timer(0.1, told.set).start()
    work.stop()
    work.stop()
    assert done == [raw.nbytes]


def test_only_a_map_of_a_file_is_given_back(rng: np.random.Generator) -> None:
    kind = format_named("Q8_0")
    with pytest.raises(AssertionError, match="no map of a file"):
        Packing(lambda size: None).add(kind, rng.integers(0, 256, (16, 34), np.uint8), np.empty((1, 1), np.uint8))
