"""Safetensors files: a header of JSON, then the numbers; mapped, not read. One file, or several with an index.

    u64 n   n bytes of JSON: {"name": {"dtype", "shape", "data_offsets": [begin, end]}, ..., "__metadata__": {...}}
    the tensors, one after another without gaps; offsets count from the end of the header

The header is checked whole, its size and the number of its entries before it is parsed: names once, known dtypes,
sizes that fit their shapes, every byte of the file in exactly one tensor.
Source: https://github.com/huggingface/safetensors (README, "Format").
"""

import os
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from soberano.core.errors import FileError
from soberano.core.units import bytes_text
from soberano.formats.json_file import parse_object, read_object
from soberano.formats.sniff import HEAD, described
from soberano.formats.tensors import MappedTensors, TensorInfo, map_file
from soberano.quant.blocks import format_named

INDEX = ".index.json"
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
"""Every dtype of the format, and the bits of a number."""
WEIGHTS = ("F32", "F16", "BF16")
"""The dtypes that are read as weights; their names are those of block formats."""

# Bounds of what a file may say, each far above any real model and far below what could hurt.
MAX_HEADER = 16 * 2**20  # bytes
MAX_TENSORS = 1 << 16
MAX_AXES = 16
MAX_SHARDS = 4096


class Safetensors(MappedTensors):
    """An open file: its weights, and the dtypes of `others`, tensors that are there and no weights we read."""

    def __init__(
        self, path: Path, tensors: dict[str, TensorInfo], others: dict[str, str], metadata: dict[str, str], mapped: Any
    ) -> None:
        super().__init__(path, tensors, mapped)
        self.others = others
        self.metadata = metadata


class Shards:
    """Several files with an index, as one."""

    def __init__(self, path: Path, files: list[Safetensors]) -> None:
        self.path = path
        self.tensors = {name: info for file in files for name, info in file.tensors.items()}
        self.others = {name: dtype for file in files for name, dtype in file.others.items()}
        self.metadata = files[0].metadata if files else {}
        self._files = files
        self._of = {name: file for file in files for name in file.tensors}

    def raw(self, name: str) -> np.ndarray:
        """As MappedTensors.raw."""
        if name not in self._of:
            raise FileError(f"{self.path} has no tensor {name!r}; it has {len(self.tensors)}")
        return self._of[name].raw(name)

    def pieces(self, name: str, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """As MappedTensors.pieces."""
        return self._of[name].pieces(name, rows)

    def split(self, name: str, parts: Mapping[str, int]) -> None:
        """As MappedTensors.split."""
        file = self._of.pop(name)
        file.split(name, parts)
        del self.tensors[name]
        for part in parts:
            self.tensors[part], self._of[part] = file.tensors[part], file

    def close(self) -> None:
        """Let go of every map."""
        for file in self._files:
            file.close()

    def __enter__(self) -> "Shards":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: str | os.PathLike[str]) -> Safetensors | Shards:
    """Open a .safetensors file, or the files that a .safetensors.index.json names.

    Raises FileError where one is missing, unreadable, truncated or malformed.
    """
    path = Path(path)
    return _read_index(path) if path.name.endswith(INDEX) else _read_file(path)


def _read_file(path: Path) -> Safetensors:
    mapped, size = map_file(path, ".safetensors")
    tensors, others, metadata = parse(str(path), mapped, size)
    return Safetensors(path, tensors, others, metadata, mapped)


def _read_index(path: Path) -> Shards:
    places = read_object(path, MAX_HEADER).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise FileError(f"{path} has no weight_map from names of tensors to names of files; get the file again")
    names = dict.fromkeys(places.values())
    if len(names) > MAX_SHARDS:
        raise FileError(f"{path} names {len(names)} files, and {MAX_SHARDS} is the most; get the file again")
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise FileError(
                f"{path} names the file {name[:80]!r}; a part lies beside its index and ends in .safetensors"
            )
    files = []
    for name in names:
        file = _read_file(path.with_name(name))
        files.append(file)
        wanted = {tensor for tensor, place in places.items() if place == name}
        found = file.tensors.keys() | file.others.keys()
        if wanted != found:
            odd = sorted(wanted ^ found)[0]
            where = "lacks" if odd in wanted else "has"
            raise FileError(
                f"{file.path} {where} the tensor {odd[:80]!r}, and {path.name} says otherwise; get both again"
            )
    return Shards(path, files)


def parse(name: str, data: Any, size: int) -> tuple[dict[str, TensorInfo], dict[str, str], dict[str, str]]:
    """(weights, dtypes of other tensors, metadata) of the first `size` bytes of `data`; `name` is for messages.

    Raises FileError.
    """
    raw = _header(name, data, size)
    entries = parse_object(raw, f"the header of {name}")
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FileError(f"{name} is damaged: __metadata__ holds more than texts; get the file again")
    start = 8 + len(raw)
    weights, others, ranges = dict[str, TensorInfo](), dict[str, str](), list[tuple[int, int, str]]()
    for tensor, entry in entries.items():
        dtype, shape, begin, end = _entry(name, tensor, entry)
        ranges.append((begin, end, tensor))
        if dtype in WEIGHTS:
            weights[tensor] = TensorInfo(tensor, shape, format_named(dtype), start + begin, end - begin)
        else:
            others[tensor] = dtype
    _check_places(name, sorted(ranges), size - start)
    return weights, others, metadata


def _header(name: str, data: Any, size: int) -> bytes:
    """The JSON text, when its size and what it may hold are believable."""
    head = bytes(data[: min(HEAD, size)])
    length = int.from_bytes(head[:8], "little")
    if size < 10 or head[8:9] != b"{":
        raise FileError(f"{name} is not a safetensors file: it {described(head)}; give the path of a .safetensors file")
    if length > MAX_HEADER:
        raise FileError(f"{name} is damaged: its header claims {length} bytes, and {MAX_HEADER} is the most")
    if length > size - 8:
        raise FileError(
            f"{name} is damaged: its header takes {length} bytes and only {size - 8} are left; get it again"
        )
    raw = bytes(data[8 : 8 + length])
    for sign, most in ((b"{", MAX_TENSORS), (b"[", 2 * MAX_TENSORS), (b",", 8 * MAX_TENSORS)):
        if raw.count(sign) > most:
            raise FileError(f"{name} is damaged: its header has more than {MAX_TENSORS} tensors; get the file again")
    return raw


def _entry(name: str, tensor: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """(dtype, shape, begin, end) of a tensor, whose bytes fit its shape."""
    what = f"{name} is damaged: the tensor {tensor[:80]!r}"
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FileError(f"{what} is not described by dtype, shape and data_offsets; get the file again")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise FileError(f"{what} has dtype {str(dtype)[:40]!r}; the format knows {', '.join(BITS)}")
    if not _whole(shape) or len(shape) > MAX_AXES:
        raise FileError(f"{what} has shape {str(shape)[:80]}; it must be a list of at most {MAX_AXES} whole numbers")
    if not _whole(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FileError(f"{what} has data_offsets {str(offsets)[:80]}; they must be where it begins and where it ends")
    if prod(n or 1 for n in shape) * BITS[dtype] >= 1 << 63:  # also where another axis is 0: NumPy counts in int64
        raise FileError(f"{what} has shape {str(shape)[:80]}, more than any file can hold; get the file again")
    need, odd = divmod(prod(shape) * BITS[dtype], 8)
    if odd or offsets[1] - offsets[0] != need:
        raise FileError(f"{what} has {offsets[1] - offsets[0]} bytes, but {dtype} {str(shape)[:80]} takes {need}")
    return dtype, tuple(shape), offsets[0], offsets[1]


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _check_places(name: str, ranges: list[tuple[int, int, str]], size: int) -> None:
    """Refuse gaps and overlaps: an honest writer leaves none, and what lies in a gap is there for somebody else."""
    at, last = 0, "the header"
    for begin, end, tensor in ranges:
        if begin != at:
            odd = "overlap" if begin < at else f"have {begin - at} bytes between them that belong to no tensor"
            raise FileError(f"{name} is damaged: {last!r:.80} and {tensor!r:.80} {odd}; get the file again")
        at, last = end, tensor
    if at != size:
        what = "missing" if at > size else "too many"
        missing = abs(at - size)
        raise FileError(
            f"{name} is truncated or damaged: its weights take {at} bytes and it has {size} for them; {missing} bytes "
            f"({bytes_text(missing)}) are {what}; get the file again"
        )
