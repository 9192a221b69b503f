"""From a mapped file to weights in a home: check every tensor, stack the layers, repack for the plan."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from soberano.backends import homes
from soberano.backends.base import Home
from soberano.backends.plan import Plan
from soberano.core.errors import FileError, UnsupportedModel
from soberano.core.progress import Progress
from soberano.core.types import Array
from soberano.formats.gguf import GGUF, TensorInfo
from soberano.quant import tiles, tiles_native
from soberano.quant.tensor import QTensor, Stack

# Tensors that a config reads, or that merely repeat what the metadata says.
_NOT_WEIGHTS = {"rope_freqs.weight"}

PIECE = 8 * 2**20
"""Bytes of the file in memory at once, beside what they become."""


@dataclass
class _Loader:
    file: GGUF
    plan: Plan
    home: Home
    progress: Progress
    done: int = 0

    def tick(self, info: TensorInfo) -> None:
        """Note that a tensor has been read."""
        self.done += info.nbytes
        self.progress("load", self.done, sum(t.nbytes for t in self.file.tensors.values()), "bytes")

    def plain(self, infos: list[TensorInfo]) -> Array:
        """Vectors, or matrices that this plan wants as numbers -> float32 (S, ...)."""
        numpy_home = homes.home("numpy")
        out = aligned((len(infos), *infos[0].shape), np.float32)
        for at, info in enumerate(infos):
            out[at] = info.format.dequantize(numpy_home, self.file.raw(info.name)).reshape(info.shape)
            self.file.release(info.name)  # its pages need not stay in memory beside what it became
            self.tick(info)
        return self.home.asarray(out)

    def packed(self, infos: list[TensorInfo], *, lone: bool = False) -> QTensor:
        """Matrices of one format -> a stacked QTensor, as blocks or as tiles; of a lone one, without a stack axis."""
        kind, shape = infos[0].format, infos[0].shape
        if self.plan.weights == "blocks":
            data = aligned((len(infos), *self.file.raw(infos[0].name).shape), np.uint8)
        else:
            data = aligned(
                (len(infos), -(-shape[0] // tiles.ROWS), tiles.layout_of(kind).panel_bytes(shape[1])), np.uint8
            )
        rows = max(1, PIECE // (kind.row_bytes(shape[1]) * tiles.ROWS)) * tiles.ROWS
        for at, info in enumerate(infos):
            for start, raw in self.file.pieces(info.name, rows):
                if self.plan.weights == "blocks":
                    data[at, start : start + len(raw)] = raw
                else:
                    tiles_native.pack(kind, raw, data[at, start // tiles.ROWS :])
            self.tick(info)
        return QTensor(
            self.home.asarray(data[0] if lone else data),
            None,
            (shape[0], shape[1]),
            kind.name,
            "blocks" if self.plan.weights == "blocks" else "tiles",
        )

    def stack(self, infos: list[TensorInfo]) -> Stack:
        """The tensors of one name over all layers: a member per packed format, and one for all that become numbers."""
        of_layer = [info.format if self.keeps_packed(info) else None for info in infos]
        kinds = list(dict.fromkeys(of_layer))
        groups = [[info for info, each in zip(infos, of_layer, strict=True) if each is kind] for kind in kinds]
        tag = np.array([kinds.index(each) for each in of_layer], np.int32)
        slot = np.array([of_layer[:i].count(each) for i, each in enumerate(of_layer)], np.int32)
        members = tuple(self.packed(group) if self.keeps_packed(group[0]) else self.plain(group) for group in groups)
        return Stack(members, self.home.asarray(tag), self.home.asarray(slot))

    def single(self, info: TensorInfo) -> Array | QTensor:
        """A tensor that belongs to no layer."""
        return self.packed([info], lone=True) if self.keeps_packed(info) else self.plain([info])[0]

    def keeps_packed(self, info: TensorInfo) -> bool:
        return len(info.shape) == 2 and not info.format.plain and self.plan.weights != "dense"


class Found(NamedTuple):
    """The tensors of a model in a file, by field; None where an optional one is absent."""

    top: dict[str, TensorInfo | None]
    layers: dict[str, list[TensorInfo] | None]


def find_weights(file: GGUF, module: Any, config: Any) -> Found:
    """Look up every tensor before any is loaded, or anything is sized by the metadata: what cannot work is refused.

    Raises FileError for a missing tensor or a wrong shape, UnsupportedModel, naming it, for a tensor that the
    architecture does not know: a model that is only half understood would answer wrongly and say nothing.
    """
    shapes, used = module.shapes(config), set(_NOT_WEIGHTS)

    def find(field: str, prefix: str = "", optional: bool = False) -> TensorInfo | None:
        name = f"{prefix}{field[:-5]}.bias" if field.endswith("_bias") else f"{prefix}{field}.weight"
        info = file.tensors.get(name)
        if info is None:
            if optional:
                return None
            raise FileError(
                f"{file.path}: the tensor {name} is missing; the file is incomplete, get it again or convert it again"
            )
        if tuple(info.shape) != shapes[field]:
            raise FileError(
                f"{file.path}: the tensor {name} is {tuple(info.shape)}, but the metadata says {shapes[field]}"
            )
        used.add(name)
        return info

    top = {
        field: find(field, optional=field in module.Weights._field_defaults)
        for field in module.Weights._fields
        if field != "blk"
    }
    layers: dict[str, list[TensorInfo] | None] = {}
    for field in module.Layer._fields:
        optional = field in module.Layer._field_defaults
        each = [find(field, f"blk.{i}.", optional) for i in range(config.layers)]
        present = [info for info in each if info is not None]
        if present and len(present) < len(each):
            raise UnsupportedModel(f"{file.path}: only some layers have {field}; that is not supported")
        layers[field] = present or None
    _refuse_unknown(file, set(file.tensors) - used)
    return Found(top, layers)


def load_weights(file: GGUF, module: Any, found: Found, plan: Plan, home: Home, progress: Progress) -> Any:
    """Build module.Weights from the tensors that were found in a file, for a plan."""
    loader = _Loader(file, plan, home, progress)
    blk = module.Layer(**{field: infos and loader.stack(infos) for field, infos in found.layers.items()})
    return module.Weights(blk=blk, **{field: info and loader.single(info) for field, info in found.top.items()})


def _refuse_unknown(file: GGUF, unknown: Iterable[str]) -> None:
    left = sorted(unknown)
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        name = file.metadata.get("general.architecture")
        raise UnsupportedModel(
            f"{file.path}: the tensor {left[0]}{more} means nothing to the architecture {name!r} as this version knows "
            f"it; the model would answer wrongly, so it is refused"
        )


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An uninitialised array on a 64-byte boundary: JAX on a CPU takes it over without a copy."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = np.empty(size + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    return buffer[start : start + size].view(dtype).reshape(shape)
