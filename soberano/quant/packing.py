"""Pack matrices of a mapped file as tiles, in a thread: to import JAX takes longer, and leaves the other cores idle.

The thread spends its time in C++ (packing.cc), a call for many matrices, since it gets the lock of the interpreter only
now and then beside a thread that imports. The meaning of what it does is soberano.quant.tiles.pack.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from soberano.backends import native
from soberano.quant.blocks import BlockFormat

AT_ONCE = 64 * 2**20
"""Bytes of the file that are packed from one call to the next."""


class Packing:
    """Matrices on their way to tiles. Add them all, start, and wait; stop when nobody wants them any more."""

    def __init__(self, tick: Callable[[int], None]) -> None:
        self._tick = tick  # told how many bytes more are done
        self._left: list[tuple[type[BlockFormat], np.ndarray, np.ndarray]] = []
        self._stopped = False
        self._thread = ThreadPoolExecutor(1)

    def add(self, kind: type[BlockFormat], raw: np.ndarray, tiles: np.ndarray) -> None:
        """Note that raw blocks (O, row bytes) in a map of a file are to become tiles (O / 16, panel bytes).

        The memory of `raw` is given back when it has been read; that of anything but a map would be lost.
        """
        assert not raw.flags.writeable, "blocks to pack are no map of a file"
        self._left.append((kind, raw, tiles))

    def start(self) -> None:
        """Begin."""
        self._packing = self._thread.submit(self._pack)

    def wait(self) -> None:
        """Return when all is packed. Raises Unsupported where there is no kernel library."""
        self._packing.result()
        self.stop()

    def stop(self) -> None:
        """Return when no memory is read or written any more. Stopping twice is fine."""
        self._stopped = True
        self._thread.shutdown()

    def _pack(self) -> None:
        while self._left and not self._stopped:
            batch, size = list[tuple[type[BlockFormat], np.ndarray, np.ndarray]](), 0
            while self._left and (not batch or size + self._left[-1][1].nbytes <= AT_ONCE):
                batch.append(self._left.pop())
                size += batch[-1][1].nbytes
            native.call("soberano_pack_many", np.array([_job(*each) for each in batch], np.int64), len(batch))
            self._tick(size)


def _job(kind: type[BlockFormat], raw: np.ndarray, tiles: np.ndarray) -> list[int]:
    """A matrix as packing.cc reads it."""
    rows, row_bytes = raw.shape
    columns = kind.row_weights(row_bytes)
    return [raw.ctypes.data, tiles.ctypes.data, rows, row_bytes, columns, tiles.shape[-1], kind.ggml]
