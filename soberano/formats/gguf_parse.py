"""Read the head of a GGUF file: metadata pairs and where each tensor lies. It reads no weights."""

from dataclasses import dataclass, replace
from math import prod
from typing import Any

from soberano.core.errors import FileError, UnsupportedModel
from soberano.core.units import bytes_text
from soberano.formats.gguf_cursor import Cursor
from soberano.formats.gguf_layout import (
    ALIGNMENT,
    ALIGNMENT_KEY,
    MAX_AXES,
    MAX_KEY,
    MAX_NAME,
    MAX_PAIRS,
    MAX_TENSORS,
    type_text,
)
from soberano.formats.tensors import TensorInfo
from soberano.quant.blocks import FORMATS, all_formats


@dataclass(frozen=True)
class Head:
    """All of a file except the weights."""

    version: int
    metadata: dict[str, Any]
    kinds: dict[str, str]  # key -> "u32", "str", "[f32]": what the file said, so that a copy can say it again
    tensors: dict[str, TensorInfo]


def parse(name: str, data: Any, size: int) -> Head:
    """Parse the first `size` bytes of `data` (bytes or a map); `name` is for messages.

    Raises FileError for what is no sound GGUF file, UnsupportedModel for a tensor type that we cannot read.
    """
    cursor = Cursor(name, data, size)
    version = cursor.signature()
    n_tensors = cursor.count("tensors", MAX_TENSORS, least=24)
    n_pairs = cursor.count("metadata pairs", MAX_PAIRS, least=13)
    metadata, kinds = _pairs(cursor, n_pairs)
    tensors = _tensors(cursor, n_tensors, _alignment(cursor, metadata, kinds))
    return Head(version, metadata, kinds, tensors)


def _pairs(cursor: Cursor, count: int) -> tuple[dict[str, Any], dict[str, str]]:
    metadata: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    for i in range(count):
        key = cursor.string(f"metadata key {i}", MAX_KEY)
        if not key:
            cursor.fail(f"metadata key {i} is empty")
        if key in metadata:
            cursor.fail(f"the metadata key {key[:80]!r} is there twice")
        what = f"the value of {key[:80]!r}"
        metadata[key], kinds[key] = cursor.value(cursor.kind(what), what)
    return metadata, kinds


def _alignment(cursor: Cursor, metadata: dict[str, Any], kinds: dict[str, str]) -> int:
    alignment = metadata.get(ALIGNMENT_KEY, ALIGNMENT)
    if kinds.get(ALIGNMENT_KEY, "u32") != "u32":
        cursor.fail(f"{ALIGNMENT_KEY} is of kind {kinds[ALIGNMENT_KEY]}, not u32")
    if alignment < 8 or alignment & (alignment - 1):
        cursor.fail(f"{ALIGNMENT_KEY} is {alignment}, not a power of two of 8 or more")
    return alignment


def _tensors(cursor: Cursor, count: int, alignment: int) -> dict[str, TensorInfo]:
    all_formats()  # fill FORMATS
    found: list[TensorInfo] = []
    names: set[str] = set()
    for i in range(count):
        info = _tensor(cursor, i, alignment)
        if info.name in names:
            cursor.fail(f"the tensor {info.name!r} is there twice")
        names.add(info.name)
        found.append(info)
    start = -(-cursor.pos // alignment) * alignment
    placed = [replace(t, offset=start + t.offset) for t in found]
    _check_places(cursor, placed)
    return {t.name: t for t in placed}


def _tensor(cursor: Cursor, i: int, alignment: int) -> TensorInfo:
    """One tensor's entry; its offset is still relative to the start of the data."""
    name = cursor.string(f"the name of tensor {i}", MAX_NAME)
    if not name:
        cursor.fail(f"tensor {i} has no name")
    axes = cursor.u32(f"the number of axes of {name!r}")
    if axes > MAX_AXES:
        cursor.fail(f"the tensor {name!r} has {axes} axes, and {MAX_AXES} is the most")
    shape = tuple(cursor.u64(f"the shape of {name!r}") for _ in range(axes))[::-1]
    ggml = cursor.u32(f"the type of {name!r}")
    offset = cursor.u64(f"the offset of {name!r}")
    if ggml not in FORMATS:
        raise UnsupportedModel(
            f"{cursor.name}: the tensor {name!r} has type {type_text(ggml)}; "
            f"the types we read are {', '.join(f.name for f in all_formats())}"
        )
    kind = FORMATS[ggml]
    row = shape[-1] if shape else 1
    if row % kind.block:
        cursor.fail(f"the tensor {name!r} has rows of {row} weights, and a {kind.name} block has {kind.block}")
    nbytes = prod(shape) // kind.block * kind.block_bytes
    if prod(n or 1 for n in shape) * kind.block_bytes >= 1 << 63:  # also where another axis is 0: NumPy counts in int64
        cursor.fail(f"the tensor {name!r} has shape {shape}, more than any file can hold")
    if offset % alignment:
        cursor.fail(f"the tensor {name!r} lies at offset {offset}, no multiple of the alignment {alignment}")
    return TensorInfo(name, shape, kind, offset, nbytes)


def _check_places(cursor: Cursor, tensors: list[TensorInfo]) -> None:
    """Refuse tensors outside the file or on top of each other. Two that share bytes are never an honest writer's."""
    end, last = 0, None
    for info in sorted((t for t in tensors if t.nbytes), key=lambda t: t.offset):
        if last is not None and info.offset < end:
            cursor.fail(f"the tensors {last.name!r} and {info.name!r} overlap")
        end, last = info.offset + info.nbytes, info
    missing = end - cursor.size
    if last is not None and missing > 0:
        raise FileError(
            f"{cursor.name} is truncated: its weights end at byte {end} ({last.name!r}) and it ends at {cursor.size}; "
            f"{missing} bytes ({bytes_text(missing)}) are missing; get the file again"
        )
