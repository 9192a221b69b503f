"""Which file of this folder reads an architecture: the one that has its name and keeps the contract.

The contract of such a file, soberano/models/<general.architecture>.py (dashes become underscores):

    Config      a frozen dataclass with Config.from_gguf(Metadata); has layers, kv_heads, head, vocabulary, context.
                Keys of the file that it does not read are refused, unless they change nothing: see keys.py
    Weights     a NamedTuple; a field is the tensor <field>.weight, and blk is a Layer; None as default means it may be
    absent
    Layer       a NamedTuple; a field is the tensor blk.<i>.<field>.weight (a name that ends in _bias:
    blk.<i>.<name>.bias)
    shapes      Config -> the shape of every field
    forward     of a decoder: (weights, tokens (B, T), Cache, Config) -> ((B, T, D), Cache)
    logits      of a decoder: (weights, (..., D), Config) -> (..., V)
    encode      of an encoder: (weights, tokens (B, T), lengths (B,), Config) -> (B, T, D)
    Head        if it is there: the class of the head that makes it a cross-encoder, see head.py; Weights has a field
    `head` then, and where Config.types is above 1, encode takes types (B, T) as well: which text a token is of
    MIXTURE     if it is there: the file that reads those whose files say this name, and that they have experts
    TABLES      if it is there: the fields whose rows are looked up and nothing more
    FUSED       if it is there: tensors that a file may hold as one, and the fields that they are: see fused.py
    ABSENT      if it is there: fields of a Layer -> the layers that do without; zeros are there, for nobody to read
    HUGGING_FACE, HUGGING_FACE_KEYS, HUGGING_FACE_TENSORS, HUGGING_FACE_HEAD, HUGGING_FACE_SPARE   of one that is read
    from a folder as well: see checkpoint.py
"""

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import soberano.models
from soberano.core.errors import UnsupportedModel

_CONTRACT = {"Config", "Weights", "Layer", "shapes"}
_RUNS = ({"forward", "logits"}, {"encode"})  # a file has the one or the other


def known() -> list[str]:
    """The architectures that have a file here: the files that keep the contract."""
    return [name for name in _files() if _keeps_contract(name)]


def architecture(name: str, path: object = "the model") -> Any:
    """The module of an architecture. Raises UnsupportedModel, naming it, when there is none."""
    file = name.replace("-", "_")
    if file in _files() and _keeps_contract(file):
        return _module(file)
    raise UnsupportedModel(
        f"{path}: the architecture is {name[:60]!r}, which is not supported yet; known: {', '.join(known())}"
    )


def name_of_file(said: str, metadata: Mapping[str, Any], path: object = "the model") -> str:
    """What to ask `architecture` for, of a file whose metadata say it is `said`. Raises as that does."""
    mixture = getattr(architecture(said, path), "MIXTURE", None)
    return mixture if mixture and metadata.get(f"{said}.expert_count") else said


def is_encoder(module: Any) -> bool:
    """Whether an architecture turns texts into vectors, rather than continuing them."""
    return "encode" in vars(module)


def _files() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(soberano.models.__path__))


def _keeps_contract(file: str) -> bool:
    names = vars(_module(file)).keys()
    return names >= _CONTRACT and sum(names >= each for each in _RUNS) == 1


def _module(file: str) -> Any:
    return import_module(f"soberano.models.{file}")
