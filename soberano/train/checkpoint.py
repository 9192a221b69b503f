"""Checkpoints of a training run: everything that the next step needs, in one file that is there whole or not at all."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from soberano.backends.tree import leaves, map_arrays
from soberano.core import durable
from soberano.core.errors import FileError

NAME = "checkpoint.npz"


def save(folder: Path, told: dict[str, Any], tree: Any, *, name: str = NAME) -> None:
    """Write a checkpoint: `told` is JSON, `tree` holds arrays. The one before stays until this one is complete."""
    part = folder / f".{name}.part"
    arrays: dict[str, Any] = {f"{i:05}": np.asarray(array) for i, array in enumerate(leaves(tree))}
    with part.open("wb") as file:
        np.savez(file, told=np.frombuffer(json.dumps(told).encode(), np.uint8), **arrays)
    durable.rename(part, folder / name)


def load(folder: Path, like: Any, *, name: str = NAME) -> tuple[dict[str, Any], Any] | None:
    """The checkpoint of a folder, with arrays in a tree like `like`; None if there is none.

    Raises FileError for a file that is damaged, or of another run.
    """
    path = folder / name
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            told = json.loads(file["told"].tobytes())
            arrays = iter([file[name] for name in sorted(file.files) if name != "told"])

            def take(array: Any) -> np.ndarray:
                found = next(arrays)
                if found.shape != np.shape(array):
                    raise ValueError(f"an array of {found.shape} where {np.shape(array)} belongs")
                return found

            tree = map_arrays(take, like)
            if next(arrays, None) is not None:
                raise ValueError("more arrays than this run has")
    except (ValueError, KeyError, OSError, EOFError, StopIteration) as error:
        raise FileError(f"{path} is damaged or of another run ({str(error)[:200]}); remove it to begin again") from None
    return told, tree
