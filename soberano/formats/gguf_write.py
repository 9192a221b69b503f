"""Write GGUF files, version 3: the whole file or nothing, and never more than one chunk of weights in memory."""

import os
import secrets
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from soberano.core import durable
from soberano.core.errors import FileError, InputError
from soberano.core.progress import Progress, silent
from soberano.formats.gguf_layout import (
    ALIGNMENT,
    ALIGNMENT_KEY,
    CODES,
    KINDS,
    MAGIC,
    MAX_AXES,
    MAX_KEY,
    MAX_NAME,
    VERSIONS,
)
from soberano.quant.blocks import BlockFormat

_NUMPY_KINDS = {np.dtype("?"): "bool"} | {np.dtype(code): kind for kind, code in CODES.items() if kind != "bool"}


@dataclass(frozen=True)
class Typed:
    """A metadata value with its kind said: "u8" to "f64", "bool", "str", or an array "[u8]" to "[str]", "[array]"."""

    kind: str
    value: Any


@dataclass(frozen=True)
class Chunks:
    """A tensor too large to hold: the shape of its raw bytes, and a function that makes its uint8 arrays in order."""

    shape: tuple[int, ...]
    make: Callable[[], Iterable[np.ndarray]]


Tensors = Mapping[str, tuple[type[BlockFormat], np.ndarray | Chunks]]


def write(
    path: str | os.PathLike[str],
    metadata: Mapping[str, Any],
    tensors: Tensors,
    *,
    alignment: int = ALIGNMENT,
    progress: Progress = silent,
) -> None:
    """Write a GGUF file, in the order of `metadata` and `tensors`; raw is uint8 (..., row bytes), as `encode` gives it.

    Kinds of plain values: bool; int as u32, else i32, u64 or i64, whichever holds it; float as f32; str; lists by their
    elements, integers as i32 if that holds them; NumPy scalars and vectors by their dtype. Say others with `Typed`.
    The file appears under its name only when it is complete and on the disk. Raises InputError for what GGUF cannot
    hold, FileError where the file cannot be written.
    """
    if alignment < 8 or alignment & (alignment - 1):
        raise InputError(f"alignment {alignment} is not a power of two of 8 or more; {ALIGNMENT} is usual")
    pairs = dict(metadata)
    if alignment != ALIGNMENT or ALIGNMENT_KEY in pairs:
        pairs[ALIGNMENT_KEY] = Typed("u32", alignment)
    head = [MAGIC, struct.pack("<IQQ", VERSIONS[-1], len(tensors), len(pairs))]
    head += [_pair(key, value) for key, value in pairs.items()]
    offset = 0
    for name, (kind, raw) in tensors.items():
        head.append(_tensor(name, kind, raw, offset))
        offset = _aligned(offset + _nbytes(raw), alignment)
    start = b"".join(head)
    with _whole_file(Path(path)) as file:
        file.write(start)
        file.write(bytes(-len(start) % alignment))
        done, total = 0, sum(_nbytes(raw) for _, raw in tensors.values())
        for name, (_, raw) in tensors.items():
            _write_tensor(file, name, raw)
            file.write(bytes(-_nbytes(raw) % alignment))
            done += _nbytes(raw)
            progress("write", done, total, "bytes")


def _aligned(count: int, alignment: int) -> int:
    return -(-count // alignment) * alignment


def _nbytes(raw: np.ndarray | Chunks) -> int:
    return int(np.prod(raw.shape, dtype=object))


def _tensor(name: str, kind: type[BlockFormat], raw: np.ndarray | Chunks, offset: int) -> bytes:
    text = name.encode()
    if not 0 < len(text) <= MAX_NAME:
        raise InputError(f"the tensor name {name!r} has {len(text)} bytes; 1 to {MAX_NAME} are right")
    if not 0 < len(raw.shape) <= MAX_AXES:
        raise InputError(f"the tensor {name!r} has shape {raw.shape}; 1 to {MAX_AXES} axes are right")
    if isinstance(raw, np.ndarray) and raw.dtype != np.uint8:
        raise InputError(
            f"the tensor {name!r} is {raw.dtype}, not uint8 blocks; make them with encode({kind.name}, ...)"
        )
    shape = (*raw.shape[:-1], kind.row_weights(raw.shape[-1]))
    return _string(text) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind.ggml, offset)


def _write_tensor(file: BinaryIO, name: str, raw: np.ndarray | Chunks) -> None:
    written = 0
    for chunk in [raw] if isinstance(raw, np.ndarray) else raw.make():
        if chunk.dtype != np.uint8:
            raise InputError(f"a chunk of the tensor {name!r} is {chunk.dtype}, not uint8")
        file.write(np.ascontiguousarray(chunk).reshape(-1).data)
        written += chunk.nbytes
    if written != _nbytes(raw):
        raise InputError(f"the chunks of the tensor {name!r} have {written} bytes, and its shape says {_nbytes(raw)}")


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _pair(key: str, value: Any) -> bytes:
    text = key.encode()
    if not 0 < len(text) <= MAX_KEY:
        raise InputError(f"the metadata key {key[:80]!r} has {len(text)} bytes; 1 to {MAX_KEY} are right")
    try:
        kind, body = _value(value if isinstance(value, Typed) else _typed(value))
    except (struct.error, OverflowError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"the metadata key {key!r} cannot hold {str(value)[:80]}: {error}") from None
    return _string(text) + struct.pack("<I", KINDS.index(kind)) + body


def _typed(value: Any) -> Typed:
    """Infer the kind of a plain value."""
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype not in _NUMPY_KINDS or value.ndim > 1:
            raise TypeError(f"arrays of {value.dtype} with {value.ndim} axes have no kind in GGUF")
        kind = _NUMPY_KINDS[value.dtype]
        return Typed(f"[{kind}]" if value.ndim else kind, value.tolist())
    if isinstance(value, list | tuple):
        return Typed(_list_kind(value), value)
    if isinstance(value, bool):
        return Typed("bool", value)
    if isinstance(value, int):
        return Typed(_integer_kind(value, value, "u32", "i32", "u64", "i64"), value)
    if isinstance(value, float):
        return Typed("f32", value)
    if isinstance(value, str):
        return Typed("str", value)
    raise TypeError(f"a {type(value).__name__} has no kind in GGUF")


def _integer_kind(low: int, high: int, *kinds: str) -> str:
    for kind in kinds:
        bits = int(kind[1:])
        least, most = (0, (1 << bits) - 1) if kind[0] == "u" else (-1 << (bits - 1), (1 << (bits - 1)) - 1)
        if least <= low and high <= most:
            return kind
    raise OverflowError("the integer needs more than 64 bits")


def _list_kind(values: list[Any] | tuple[Any, ...]) -> str:
    types = {type(each) for each in values}
    if types == {int}:
        return f"[{_integer_kind(min(values), max(values), 'i32', 'u32', 'i64', 'u64')}]"
    for allowed, kind in (({bool}, "[bool]"), ({str}, "[str]"), ({int, float}, "[f32]"), ({list, tuple}, "[array]")):
        if types and types <= allowed:
            return kind
    names = ", ".join(sorted(each.__name__ for each in types)) or "nothing"
    raise TypeError(f"a list of {names} has no kind of its own; say it with Typed")


def _value(typed: Typed) -> tuple[str, bytes]:
    """(kind, bytes) of a value."""
    kind, value = typed.kind, typed.value
    if kind.startswith("["):
        inner = kind[1:-1]
        if inner not in KINDS:
            raise ValueError(f"{kind!r} is no kind of GGUF; there are {', '.join(KINDS)} and lists such as [u32]")
        if inner == "array":
            parts = [_value(each if isinstance(each, Typed) else _typed(each))[1] for each in value]
        elif inner == "str":
            parts = [_string(each.encode()) for each in value]
        else:
            parts = [struct.pack(f"<{len(value)}{CODES[inner]}", *value)]
        return "array", struct.pack("<IQ", KINDS.index(inner), len(value)) + b"".join(parts)
    if kind == "str":
        return kind, _string(value.encode())
    if kind not in CODES:
        raise ValueError(f"{kind!r} is no kind of GGUF; there are {', '.join(KINDS)} and lists such as [u32]")
    return kind, struct.pack("<" + CODES[kind], value)


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name only when everything is on the disk, and leaves nothing behind otherwise."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            yield file
        durable.rename(part, path)
    except OSError as error:
        raise FileError(
            f"{path} cannot be written: {error.strerror or error}; check the folder and the disk"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
