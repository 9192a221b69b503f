"""From a mapped file to weights in a home: check every tensor, stack the layers, repack for the plan."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from soberano.backends import homes
from soberano.backends.base import Home
from soberano.backends.plan import Plan, Weights
from soberano.backends.tree import map_arrays
from soberano.core.errors import FileError, UnsupportedModel
from soberano.core.progress import Progress
from soberano.core.types import Array
from soberano.formats.tensors import TensorFile, TensorInfo
from soberano.models.fused import split_fused
from soberano.models.head import find_head
from soberano.quant import tiles
from soberano.quant.packing import Packing
from soberano.quant.tensor import Experts, Form, QTensor, Stack

# Tensors that a config reads, or that merely repeat what the metadata says.
_NOT_WEIGHTS = {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}

PIECE = 8 * 2**20
"""Bytes of the file in memory at once, beside what they become."""


class Found(NamedTuple):
    """The tensors of a model in a file, by field; None where an optional one is absent."""

    top: dict[str, TensorInfo | None]
    layers: dict[str, list[TensorInfo | None] | None]  # of a field, None for a layer that does without it
    head: dict[str, TensorInfo] | None = None  # of a cross-encoder


@dataclass
class _Loader:
    file: TensorFile
    form: Weights
    send: Callable[[np.ndarray], Array]
    progress: Progress
    tables: frozenset[str]  # tensors whose rows are looked up and nothing more
    done: int = 0

    def __post_init__(self) -> None:
        self.total = sum(info.nbytes for info in self.file.tensors.values())
        self.packing = Packing(self.tick)

    def tick(self, nbytes: int) -> None:
        """Note that bytes of the file have become what they are to be."""
        self.done += nbytes
        self.progress("load", self.done, self.total, "bytes")

    def all(self, module: Any, found: Found) -> Any:
        """module.Weights of the tensors that were found. Tiles have no contents before `packing` is done."""
        blk = module.Layer(**{field: infos and self.stack(infos) for field, infos in found.layers.items()})
        top: dict[str, Any] = {field: info and self.single(info) for field, info in found.top.items()}
        if found.head is not None:
            top["head"] = module.Head(**{field: self.single(info) for field, info in found.head.items()})
        return module.Weights(blk=blk, **top)

    def plain(self, infos: Sequence[TensorInfo | None], *, lone: bool = False) -> Array:
        """Vectors, or matrices that this plan wants as numbers -> float32 (S, ...); of a lone one, without S.

        Zeros where there is none.
        """
        numpy_home, first = homes.home("numpy"), _present(infos)[0]
        shape = first.shape
        out = aligned((len(infos), *shape), np.float32)
        for info, rows in zip(infos, out.reshape(len(infos), -1, shape[-1]), strict=True):
            if info is None:
                rows[:] = 0
                continue
            at_once = max(1, PIECE // (4 * shape[-1]))
            for start, raw in self.file.pieces(info.name, at_once):
                rows[start : start + len(raw)] = info.format.dequantize(numpy_home, raw)
            self.tick(info.nbytes)
        return self.send(out[0] if lone else out.reshape(-1, *shape[-2:]) if _experts(first) else out)

    def packed(self, infos: list[TensorInfo], *, lone: bool = False) -> QTensor:
        """Matrices of one format -> a stacked QTensor, as blocks or as tiles; of a lone one, without a stack axis."""
        kind, (outputs, inputs) = infos[0].format, infos[0].shape[-2:]
        form: Form = "blocks" if self.form == "blocks" or infos[0].name in self.tables else "tiles"
        data = (self.blocks if form == "blocks" else self.tiles)(infos)
        return QTensor(self.send(data[0] if lone else data), None, (outputs, inputs), kind.name, form)

    def blocks(self, infos: list[TensorInfo]) -> np.ndarray:
        """Blocks as they are in the file (S, O, row bytes)."""
        kind, (outputs, inputs) = infos[0].format, infos[0].shape[-2:]
        data = aligned((_matrices(infos), outputs, kind.row_bytes(inputs)), np.uint8)
        at_once = max(1, PIECE // data.shape[-1])
        for info, rows in zip(infos, data.reshape(len(infos), -1, data.shape[-1]), strict=True):
            for start, raw in self.file.pieces(info.name, at_once):
                rows[start : start + len(raw)] = raw
            self.tick(info.nbytes)
        return data

    def tiles(self, infos: list[TensorInfo]) -> np.ndarray:
        """Tiles (S, O / 16, panel bytes), which `packing` has yet to fill."""
        kind, (outputs, inputs) = infos[0].format, infos[0].shape[-2:]
        panel = tiles.layout_of(kind).panel_bytes(inputs)
        data = aligned((_matrices(infos), -(-outputs // tiles.ROWS), panel), np.uint8)
        for info, some in zip(infos, data.reshape(len(infos), -1, *data.shape[1:]), strict=True):
            for raw, each in zip(self.file.raw(info.name).reshape(len(some), outputs, -1), some, strict=True):
                self.packing.add(kind, raw, each)
        return data

    def stack(self, infos: Sequence[TensorInfo | None]) -> Stack | Experts:
        """The tensors of one name over all layers: a member per packed format, and one for all that become numbers.

        Of experts every layer has several matrices, and they stand in the stack one after another.
        """
        of_layer = [info.format if info is not None and _keeps_packed(info, self.form) else None for info in infos]
        members, kinds = list[Array | QTensor](), list(dict.fromkeys(of_layer))
        for kind in kinds:
            group = [info for info, each in zip(infos, of_layer, strict=True) if each is kind]
            members.append(self.plain(group) if kind is None else self.packed(_present(group)))
        present = _present(infos)
        count = _matrices(present[:1])
        tag = np.repeat(np.array([kinds.index(each) for each in of_layer], np.int32), count)
        slot = np.zeros_like(tag)
        for i in range(len(kinds)):
            slot[tag == i] = np.arange(np.count_nonzero(tag == i))
        stack = Stack(tuple(members), self.send(tag), self.send(slot))
        return Experts(stack, count) if _experts(present[0]) else stack

    def single(self, info: TensorInfo) -> Array | QTensor:
        """A tensor that belongs to no layer."""
        return (self.packed if _keeps_packed(info, self.form) else self.plain)([info], lone=True)


def find_weights(file: TensorFile, module: Any, config: Any) -> Found:
    """Look up every tensor before any is loaded, or anything is sized by the metadata: what cannot work is refused.

    Raises FileError for a missing tensor or a wrong shape, UnsupportedModel, naming it, for a tensor that the
    architecture does not know: a model that is only half understood would answer wrongly and say nothing.
    """
    shapes, used = module.shapes(config), set(_NOT_WEIGHTS)
    split_fused(file, module, shapes, config.layers)

    def find(field: str, prefix: str = "", optional: bool = False) -> TensorInfo | None:
        name = f"{prefix}{field[:-5]}.bias" if field.endswith("_bias") else f"{prefix}{field}.weight"
        info = file.tensors.get(name)
        if info is None:
            if optional:
                return None
            raise FileError(
                f"{file.path}: the tensor {name} is missing; the file is incomplete, get it again or convert it again"
            )
        if (1, *info.shape) == shapes[field]:  # GGUF has no axis of 1 at the end of its dimensions
            info = replace(info, shape=shapes[field])
        if tuple(info.shape) != shapes[field]:
            raise FileError(
                f"{file.path}: the tensor {name} is {tuple(info.shape)}, but the metadata says {shapes[field]}"
            )
        used.add(name)
        return info

    top = {
        field: find(field, optional=field in module.Weights._field_defaults)
        for field in module.Weights._fields
        if field not in ("blk", "head")
    }
    layers: dict[str, list[TensorInfo | None] | None] = {}
    for field in module.Layer._fields:
        optional, absent = field in module.Layer._field_defaults, getattr(module, "ABSENT", {}).get(field, ())
        each = [None if i in absent else find(field, f"blk.{i}.", optional) for i in range(config.layers)]
        present = sum(info is not None for info in each)
        if present and present < len(each) - len(absent):
            raise UnsupportedModel(f"{file.path}: only some layers have {field}; that is not supported")
        layers[field] = each if present else None
    head = find_head(file, module, config)
    used |= {info.name for info in (head or {}).values()}
    _refuse_unknown(file, module, set(file.tensors) - used)
    return Found(top, layers, head)


class Begun(NamedTuple):
    """Weights that are being packed: module.Weights of NumPy arrays, whose tiles have contents after packing.wait()."""

    weights: Any
    packing: Packing


def begin_tiles(file: TensorFile, module: Any, found: Found, progress: Progress) -> Begun:
    """Begin to pack the tensors that were found in a file as tiles, before there is a home for them."""
    loader = _Loader(file, "tiles", lambda array: array, progress, _tables(module))
    begun = Begun(loader.all(module, found), loader.packing)
    begun.packing.start()
    return begun


def load_weights(
    file: TensorFile, module: Any, found: Found, plan: Plan, home: Home, progress: Progress, begun: Begun | None = None
) -> Any:
    """Build module.Weights from the tensors that were found in a file, for a plan; from what was begun, if it fits."""
    if plan.weights != "tiles":
        return _Loader(file, plan.weights, home.asarray, progress, _tables(module)).all(module, found)
    weights, packing = begun or begin_tiles(file, module, found, progress)
    packing.wait()
    return map_arrays(home.asarray, weights)


def _tables(module: Any) -> frozenset[str]:
    """The tensors of an architecture whose rows are looked up and nothing more."""
    return frozenset(f"{field}.weight" for field in getattr(module, "TABLES", ()))


def weight_bytes(found: Found, form: Weights) -> int:
    """The bytes of all weights as `load_weights` makes them in a form: known before any is made."""
    layers = [info for infos in found.layers.values() for info in infos or ()]
    whole = (*found.top.values(), *layers, *(found.head or {}).values())
    return sum(_bytes(info, form) for info in whole if info is not None)


def _bytes(info: TensorInfo, form: Weights) -> int:
    if not _keeps_packed(info, form):
        return 4 * math.prod(info.shape)
    if form == "blocks":
        return info.nbytes
    rows, columns = info.shape[-2:]
    return _matrices([info]) * -(-rows // tiles.ROWS) * tiles.layout_of(info.format).panel_bytes(columns)


def _keeps_packed(info: TensorInfo, form: Weights) -> bool:
    """Matrices stay packed; plain ones only where rows are whole tiles: everybody else takes float32."""
    if len(info.shape) < 2 or info.name.endswith(".bias") or form == "dense":
        return False
    if not info.format.plain:
        return True
    return form == "tiles" and info.shape[-1] % tiles.layout_of(info.format).columns == 0


def _present(infos: Sequence[TensorInfo | None]) -> list[TensorInfo]:
    return [info for info in infos if info is not None]


def _experts(info: TensorInfo) -> bool:
    """Whether a tensor holds a matrix for each of several experts: (X, O, I)."""
    return len(info.shape) == 3


def _matrices(infos: list[TensorInfo]) -> int:
    """How many matrices, or vectors, these tensors of one shape hold together."""
    return len(infos) * (infos[0].shape[0] if _experts(infos[0]) else 1)


def _refuse_unknown(file: TensorFile, module: Any, unknown: Iterable[str]) -> None:
    left = sorted(unknown)
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        name = module.__name__.rpartition(".")[2]
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
