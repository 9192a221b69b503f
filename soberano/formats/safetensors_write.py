"""Write safetensors files: the whole file or nothing. Format: github.com/huggingface/safetensors, README."""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from soberano.core import durable
from soberano.core.errors import FileError, InputError

_NAMES = {np.dtype("<f4"): "F32", np.dtype("<f2"): "F16"}


def write(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write float32 or float16 arrays by name. Raises InputError for another dtype, FileError if it cannot be written.

    The header is padded so that the numbers begin on a boundary of 8 bytes.
    """
    head: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in tensors.items():
        if array.dtype not in _NAMES:
            raise InputError(f"the tensor {name} is {array.dtype}; safetensors are written as float32 or float16")
        head[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in tensors.values():
                file.write(np.ascontiguousarray(array).data)
        durable.rename(part, path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        part.unlink(missing_ok=True)
