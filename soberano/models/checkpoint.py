"""A Hugging Face folder as the GGUF file that it would become: tensors under the names of GGUF, nothing else changed.

An architecture's file says how its tensors and its keys are called there: HUGGING_FACE_KEYS, HUGGING_FACE_TENSORS ("*"
is the layer), and HUGGING_FACE_SPARE, beginnings of names that are not needed. Whatever is in none of these is refused.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from soberano.core.errors import FileError, UnsupportedModel
from soberano.formats.hugging_face import Folder
from soberano.formats.safetensors import WEIGHTS as DTYPES
from soberano.formats.tensors import TensorInfo
from soberano.models.architecture import architecture

_BEFORE_2020 = ((".gamma", ".weight"), (".beta", ".bias"))  # how TensorFlow called the two parts of a norm


class Checkpoint:
    """An open folder: what a loader needs of it."""

    def __init__(self, folder: Folder) -> None:
        """Open the weights. Raises FileError for what is damaged, UnsupportedModel for what is not known."""
        self.path: Path = folder.path
        self.metadata: Mapping[str, Any] = folder.config
        name = folder.config.get("model_type")
        if not isinstance(name, str):
            raise FileError(f"{folder.path}/config.json does not say its model_type; get the folder of the model again")
        self.architecture = name
        self.module = architecture(name, folder.path)
        if not hasattr(self.module, "HUGGING_FACE_TENSORS"):
            raise UnsupportedModel(
                f"{folder.path}: {name!r} is not read from a folder yet; convert it to GGUF with llama.cpp's tools"
            )
        self._file = folder.weights()
        self._theirs = dict[str, str]()
        self.tensors: dict[str, TensorInfo] = {}
        for theirs in [*self._file.tensors, *self._file.others]:
            self._take(theirs)

    def _take(self, theirs: str) -> None:
        plain = re.sub(rf"^{re.escape(self.architecture)}\.", "", theirs)  # a model inside one with a head
        if plain.startswith(self.module.HUGGING_FACE_SPARE):
            return
        if theirs in self._file.others:
            raise UnsupportedModel(
                f"{self.path}: the tensor {theirs} is {self._file.others[theirs]}; weights may be {', '.join(DTYPES)}"
            )
        ours = _ours(plain, self.module.HUGGING_FACE_TENSORS) or theirs  # a name that is not known is refused later
        if ours in self.tensors:
            raise FileError(f"{self.path}: the tensors {theirs} and {self._theirs[ours]} are the same; get it again")
        self._theirs[ours] = theirs
        self.tensors[ours] = replace(self._file.tensors[theirs], name=ours)

    def raw(self, name: str) -> np.ndarray:
        """As TensorFile.raw."""
        return self._file.raw(self._theirs.get(name, name))

    def pieces(self, name: str, rows: int) -> Iterator[tuple[int, np.ndarray]]:
        """As TensorFile.pieces."""
        return self._file.pieces(self._theirs[name], rows)

    def close(self) -> None:
        """Let go of the weights."""
        self._file.close()

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _ours(theirs: str, names: Mapping[str, str]) -> str | None:
    """The GGUF name of a tensor, or None if the table does not have it.

    >>> _ours("encoder.layer.3.output.dense.bias", {"ffn_down": "encoder.layer.*.output.dense"})
    'blk.3.ffn_down.bias'
    """
    for old, new in _BEFORE_2020:
        theirs = theirs.removesuffix(old) + new if theirs.endswith(old) else theirs
    stem, _, kind = theirs.rpartition(".")
    layer = re.search(r"\.(0|[1-9]\d{0,5})\.", stem)
    general = f"{stem[: layer.start()]}.*.{stem[layer.end() :]}" if layer else stem
    for field, name in names.items():
        if name == general and kind in ("weight", "bias"):
            return f"blk.{layer[1]}.{field}.{kind}" if layer else f"{field}.{kind}"
    return None
