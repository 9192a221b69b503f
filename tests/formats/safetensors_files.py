"""Write safetensors files for tests, sound or not, after the description of the format."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {"f4": "F32", "f2": "F16", "f8": "F64", "i8": "I64", "i4": "I32", "u1": "U8", "b1": "BOOL"}


def contents(tensors: Mapping[str, np.ndarray], dtypes: Mapping[str, str] | None = None) -> bytes:
    """The file with these tensors; `dtypes` renames some, such as uint16 that means BF16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, value in tensors.items():
        dtype = (dtypes or {}).get(name) or DTYPES[value.dtype.str[1:]]
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    return raw(json.dumps(header).encode(), b"".join(value.tobytes() for value in tensors.values()))


def raw(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A header, padded as the format wants it, and what follows it."""
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def write_shards(folder: Path, parts: list[dict[str, np.ndarray]]) -> Path:
    """Write one file a part and their index; return the path of the index."""
    names = [f"model-{i + 1:05}-of-{len(parts):05}.safetensors" for i in range(len(parts))]
    for name, part in zip(names, parts, strict=True):
        (folder / name).write_bytes(contents(part))
    places = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index
