"""A Hugging Face folder as the GGUF file that it would become: tensors under the names of GGUF, nothing else changed.

An architecture's file says what it is there: HUGGING_FACE, what config.json holds for it; HUGGING_FACE_KEYS, how its
keys are called if not as usual; HUGGING_FACE_TENSORS ("*" is the layer) and, for the head of a cross-encoder,
HUGGING_FACE_HEAD, how its tensors are; HUGGING_FACE_SPARE, beginnings of names that are not needed. Whatever is in none
of these is refused.
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
from soberano.models.architecture import architecture, known

_KEYS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "attention.head_count": "num_attention_heads",
    "feed_forward_length": "intermediate_size",
    "context_length": "max_position_embeddings",
}
"""How most files call what all models have."""
_BEFORE_2020 = ((".gamma", ".weight"), (".beta", ".bias"))  # how TensorFlow called the two parts of a norm


class Checkpoint:
    """An open folder: what a loader needs of it."""

    def __init__(self, folder: Folder) -> None:
        """Open the weights. Raises FileError for what is damaged, UnsupportedModel for what is not known."""
        self.path: Path = folder.path
        self.metadata: Mapping[str, Any] = dict(_flat(folder.config))
        self.module = _module_of(folder)
        self._kind = str(folder.config["model_type"])
        self.architecture = self.module.__name__.rpartition(".")[2]
        self.keys: Mapping[str, str | tuple[str, ...]] = _KEYS | self.module.HUGGING_FACE_KEYS
        self._file = folder.weights()
        self._theirs = dict[str, str]()
        self._names: Mapping[str, str] = self.module.HUGGING_FACE_TENSORS
        head = getattr(self.module, "HUGGING_FACE_HEAD", {})
        self.ranks = f"{head.get('cls.output')}.weight" in map(self._plain, self._file.tensors)
        if self.ranks:
            self._names = {**self._names, **head}
        self.tensors: dict[str, TensorInfo] = {}
        for theirs in [*self._file.tensors, *self._file.others]:
            self._take(theirs)

    def _plain(self, theirs: str) -> str:
        """The name of a tensor without that of the model, which is inside one with a head."""
        return re.sub(rf"^({re.escape(self._kind)}|model)\.", "", theirs)

    def _take(self, theirs: str) -> None:
        plain = self._plain(theirs)
        known = _ours(plain, self._names)
        if known is None and plain.startswith(self.module.HUGGING_FACE_SPARE):
            return
        if theirs in self._file.others:
            raise UnsupportedModel(
                f"{self.path}: the tensor {theirs} is {self._file.others[theirs]}; weights may be {', '.join(DTYPES)}"
            )
        ours = known or theirs  # a name that is not known is refused later
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

    def split(self, name: str, parts: Mapping[str, int]) -> None:
        """As TensorFile.split."""
        theirs = self._theirs.pop(name)
        names = {part: f"{theirs} as {part}" for part in parts}
        self._file.split(theirs, {names[part]: rows for part, rows in parts.items()})
        del self.tensors[name]
        for part, other in names.items():
            if part in self.tensors:
                raise FileError(f"{self.path}: the tensor {theirs} holds {part}, which is there again; get it again")
            self._theirs[part], self.tensors[part] = other, replace(self._file.tensors[other], name=part)

    def close(self) -> None:
        """Let go of the weights."""
        self._file.close()

    def __enter__(self) -> "Checkpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _module_of(folder: Folder) -> Any:
    """The architecture that a folder is of: the one whose HUGGING_FACE fits config.json, in the most points."""
    kind = folder.config.get("model_type")
    if not isinstance(kind, str):
        raise FileError(f"{folder.path}/config.json does not say its model_type; get the folder of the model again")
    readable = [module for module in map(architecture, known()) if hasattr(module, "HUGGING_FACE")]
    fitting = [module for module in readable if module.HUGGING_FACE.items() <= folder.config.items()]
    if fitting:
        return max(fitting, key=lambda module: len(module.HUGGING_FACE))
    architecture(kind, folder.path)  # raises for a name that means nothing here
    raise UnsupportedModel(
        f"{folder.path}: {kind!r} is not read from a folder yet; convert it to GGUF with llama.cpp's tools"
    )


def _flat(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a config.json, and those of the objects in it as "<object>.<key>"."""
    for key, value in config.items():
        yield before + key, value
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")


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
