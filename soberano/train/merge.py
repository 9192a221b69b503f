"""Put an adapter into the weights of its model: a GGUF file that needs no adapter, and a report of what was lost.

A small update often does not survive: a weight of 4 bits moves only where the update is larger than half a step of its
block. Where rounding to nearest would lose a part of it, weights are rounded at random on the grid of their block: see
recode.py. Each tensor tells how much of its update is in the file that was written, and how much noise beside it.
"""

import functools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from soberano.backends import homes, native
from soberano.core.errors import InputError
from soberano.core.hashing import sha256
from soberano.core.progress import Progress, silent
from soberano.formats import gguf
from soberano.models.adapter import Adapter, read_adapter, refuse_wrong_base
from soberano.quant.blocks import BlockFormat, format_named
from soberano.quant.encode import encode
from soberano.quant.recode import recode
from soberano.train.convert import described

BASE, ADAPTER = "soberano.merged.base.sha256", "soberano.merged.adapter.sha256"
"""Keys of the new file: the files that it was made of."""

PIECE = 1 << 20
"""Weights that are merged at once, by each thread."""

SAFE = "Q8_0"
"""The format that is advised where much is lost."""


@dataclass
class Survival:
    """What became of the update D of a tensor W, where the new file says Q instead of W + D: sums over its weights."""

    name: str
    format: str  # in the new file
    weights: int = 0
    changed: int = 0  # weights that differ from the base's
    wanted: float = 0.0  # |D|^2
    along: float = 0.0  # (Q - W) D
    beside: float = 0.0  # |Q - W - D|^2

    @property
    def kept(self) -> float:
        """The share of the update that is there, 1 if it is there whole; rounding may add what is beside it."""
        return self.along / self.wanted if self.wanted else 1.0

    @property
    def error(self) -> float:
        """What is wrong, as a multiple of the update: |Q - W - D| / |D|."""
        return (self.beside / self.wanted) ** 0.5 if self.wanted else 0.0

    @property
    def noise(self) -> float:
        """What is beside the update, as a multiple of it: the error without what is missing along it."""
        return max(0.0, self.error**2 - (1 - self.kept) ** 2) ** 0.5

    def add(self, other: "Survival") -> None:
        """Add the sums of some more weights."""
        self.weights += other.weights
        self.changed += other.changed
        self.wanted += other.wanted
        self.along += other.along
        self.beside += other.beside

    def to_json(self) -> dict[str, Any]:
        """The numbers by name."""
        share = self.changed / self.weights if self.weights else 0.0
        told = {"name": self.name, "format": self.format, "kept": self.kept, "noise": self.noise}
        return told | {"changed": share, "update": self.wanted**0.5}


def total(found: Iterable[Survival], name: str = "all") -> Survival:
    """The sums over several tensors."""
    found = list(found)
    formats = sorted({each.format for each in found})
    whole = Survival(name, ", ".join(formats))
    for each in found:
        whole.add(each)
    return whole


def advice(found: Iterable[Survival]) -> str:
    """What to do, in a sentence, from how much is left."""
    whole = total(found)
    said = f"{whole.kept:.0%} of the update is in the file"
    if whole.error < 0.1 and whole.kept > 0.9:
        return f"{said}; it answers as the adapter does."
    said = f"{said}, beside noise of {whole.noise:.1f} times its size"
    if whole.noise < 1 and whole.kept > 0.9:
        return f"{said}; it should answer as the adapter does."
    return f"{said}; compare its answers with the adapter's. With --type {SAFE} it is far less, beside the model none."


def merge(
    base: Path, adapter: Path, out: Path, *, kind: str | None = None, progress: Progress = silent
) -> list[Survival]:
    """Write the model `base` with `adapter` in its weights to `out`; what the adapter does not touch, byte for byte.

    A touched tensor keeps its format, or gets the one called `kind`. One piece of a tensor is in memory for each
    thread. The new file says of what it was made, and is there whole or not at all.

    Raises InputError for an adapter of another file, UnsupportedModel and ShapeError for a format that is not known or
    whose blocks do not fit the rows, and what reading either file raises.
    """
    if out.exists() and out.samefile(base):
        raise InputError(f"{out} is the model itself; give the merged one another name")
    with gguf.read(base) as file, ThreadPoolExecutor(native.threads()) as pool:
        beside = read_adapter(adapter, *described(file))
        hash_of_base = functools.cache(lambda: sha256(base, progress))
        refuse_wrong_base(beside, base, adapter, hash_of_base)
        found: list[Survival] = []
        tensors: dict[str, tuple[type[BlockFormat], np.ndarray | gguf.Chunks]] = {}
        for name, info in file.tensors.items():
            update = _update_of(beside, name)
            tensors[name] = info.format, file.raw(name)
            if update is not None:
                target = format_named(kind) if kind else info.format
                found.append(Survival(name, target.name))
                work = _Work(file, name, target, update, found[-1], pool)
                tensors[name] = target, gguf.Chunks((*info.shape[:-1], target.row_bytes(info.shape[-1])), work.chunks)
        metadata = {key: gguf.Typed(file.kinds[key], value) for key, value in file.metadata.items()}
        if kind:
            metadata.pop("general.file_type", None)  # it named one format for all
        made_of = {BASE: hash_of_base(), ADAPTER: sha256(adapter, progress)}
        alignment = file.metadata.get("general.alignment", 32)
        gguf.write(out, metadata | made_of, tensors, alignment=alignment, progress=progress)
    return found


def _update_of(beside: Adapter, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(A (R, I), B (O, R) with its scale) of a tensor; None where the adapter changes nothing."""
    head, _, rest = name.partition(".")
    layer, _, product = rest.removesuffix(".weight").partition(".")
    if head != "blk" or product not in beside.pairs or not name.endswith(".weight"):
        return None
    pair = beside.pairs[product]
    a, b = pair.a[int(layer)], pair.b[int(layer)] * np.float32(beside.scales[product])
    return (a, b) if a.any() and b.any() else None


class _Work:
    """Merges one tensor, a piece at a time, and adds up what became of the update."""

    def __init__(
        self,
        file: gguf.GGUF,
        name: str,
        target: type[BlockFormat],
        update: tuple[np.ndarray, np.ndarray],
        found: Survival,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.raw, self.base, self.target = file.raw(name), file.tensors[name].format, target
        self.a, self.b = update
        self.found, self.pool = found, pool

    def chunks(self) -> Iterator[np.ndarray]:
        rows = max(1, PIECE // self.a.shape[-1])
        starts = range(0, len(self.b), rows)
        for raw, part in self.pool.map(lambda at: self._piece(at, at + rows), starts):
            self.found.add(part)
            yield raw

    def _piece(self, start: int, stop: int) -> tuple[np.ndarray, Survival]:
        before, home = self.raw[start:stop], homes.home("numpy")
        w = self.base.dequantize(home, before)
        update = self.b[start:stop] @ self.a
        wanted = w + update
        after = encode(self.target, wanted)
        told = self._told(w, update, self.target.dequantize(home, after))
        if self.target is self.base and not self.base.plain and told.kept < 0.9:
            rng = np.random.default_rng([start, *self.found.name.encode()])
            after = recode(self.base, before, wanted, rng)
            told = self._told(w, update, self.base.dequantize(home, after))
        return after, told

    def _told(self, w: np.ndarray, update: np.ndarray, q: np.ndarray) -> Survival:
        moved = q.astype(np.float64) - w
        return Survival(
            self.found.name,
            self.target.name,
            weights=w.size,
            changed=int((q != w).sum()),
            wanted=float((update.astype(np.float64) ** 2).sum()),
            along=float((moved * update).sum()),
            beside=float(((moved - update) ** 2).sum()),
        )
