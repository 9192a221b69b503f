"""LoRA adapters beside a model's weights: read from a GGUF file, checked against the model, and put in place.

    y = W x + scale * B A x        A (R, I), B (O, R), over all layers; a layer that a file leaves out gets zeros

The contract of the file is that of llama.cpp's llama-adapter.cpp: tensors blk.<i>.<product>.weight.lora_a and .lora_b,
and adapter.lora.alpha, of which alpha / R is the scale (1 where it is missing or 0).
"""

import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from soberano.backends import homes
from soberano.core.errors import FileError, InputError, UnsupportedModel
from soberano.core.types import Array
from soberano.formats import gguf
from soberano.quant.tensor import AdaptedStack

log = logging.getLogger("soberano.models")

BASE_HASH = "soberano.base.sha256"
"""The key that holds the SHA-256 of the file that an adapter was trained on."""

_NAME = re.compile(r"blk\.(0|[1-9]\d{0,5})\.([a-z0-9_]+)\.weight\.lora_([ab])")


class Pair(NamedTuple):
    """The matrices of one product, over all layers."""

    a: Array  # (L, R, I)
    b: Array  # (L, O, R)


class Adapter(NamedTuple):
    """Matrices by product, what each product of them is multiplied by, and the base they belong to, if it is said."""

    pairs: dict[str, Pair]
    scales: dict[str, float]
    base_hash: str | None


def adapt(weights: Any, pairs: Mapping[str, Pair], scales: Mapping[str, float]) -> Any:
    """The weights of a model with adapters beside the products that have some."""
    blk = weights.blk
    beside = {name: AdaptedStack(getattr(blk, name), *pair, scales[name]) for name, pair in pairs.items()}
    return weights._replace(blk=blk._replace(**beside))


def read_adapter(path: str | os.PathLike[str], architecture: str, module: Any, config: Any) -> Adapter:
    """Read an adapter of a model. Raises FileError for a damaged file, InputError for one of another model,
    UnsupportedModel for what is not known: an adapter that is half understood would answer wrongly.
    """
    with gguf.read(path) as file:
        kind = (file.metadata.get("general.type"), file.metadata.get("adapter.type"))
        if kind != ("adapter", "lora"):
            raise InputError(
                f"{file.path} is no LoRA adapter: general.type and adapter.type are {kind}, and must be 'adapter' and "
                f"'lora'"
            )
        theirs = file.metadata.get("general.architecture")
        if theirs != architecture:
            raise InputError(f"{file.path} is an adapter of {theirs!r}, and the model is {architecture!r}")
        if file.metadata.get("adapter.alora.invocation_tokens") is not None:
            raise UnsupportedModel(f"{file.path} is switched on by tokens (aLoRA), which is not supported yet")
        alpha = file.metadata.get("adapter.lora.alpha", 0.0)
        if not isinstance(alpha, float) or not 0 <= alpha < float("inf"):
            raise FileError(f"{file.path}: adapter.lora.alpha is {alpha!r}, and must be a number of at least 0")
        base = file.metadata.get(BASE_HASH)
        pairs = _pairs(file, module, config)
        scales = {name: alpha / pair.a.shape[1] if alpha else 1.0 for name, pair in pairs.items()}
        return Adapter(pairs, scales, base if isinstance(base, str) else None)


def refuse_wrong_base(beside: Adapter, base: Path, adapter: Path, hash_of_base: Callable[[], str]) -> None:
    """Raise InputError where an adapter was trained on another file than `base`; warn where it does not say on which.

    `adapter` is its path, for messages; the hash is asked for where it is needed, as it takes reading the whole file.
    """
    if beside.base_hash is None:
        log.warning("%s does not say which file it was trained on: it may belong to another model", adapter)
    elif (found := hash_of_base()) != beside.base_hash:
        raise InputError(
            f"{adapter} was trained on the file with SHA-256 {beside.base_hash[:16]}..., and {base} has "
            f"{found[:16]}...; an adapter answers wrongly on another base: get that file"
        )


def _pairs(file: gguf.GGUF, module: Any, config: Any) -> dict[str, Pair]:
    shapes, found = module.shapes(config), dict[str, dict[int, dict[str, np.ndarray]]]()
    for name in file.tensors:
        match = _NAME.fullmatch(name)
        if match is None or match[2] not in module.Layer._fields or len(shapes[match[2]]) != 2:
            raise UnsupportedModel(f"{file.path}: the tensor {name} belongs to no product of a layer of the model")
        layer, product, half = int(match[1]), match[2], match[3]
        if layer >= config.layers:
            raise InputError(f"{file.path}: the tensor {name} is of layer {layer}, and the model has {config.layers}")
        found.setdefault(product, {}).setdefault(layer, {})[half] = _matrix(file, name)
    if not found:
        raise FileError(f"{file.path} holds no adapter; get it again")
    return {
        product: _stacked(file, product, shapes[product], layers, config.layers) for product, layers in found.items()
    }


def _matrix(file: gguf.GGUF, name: str) -> np.ndarray:
    info = file.tensors[name]
    if len(info.shape) != 2:
        raise FileError(f"{file.path}: the tensor {name} is {tuple(info.shape)}, and must be a matrix")
    return info.format.dequantize(homes.home("numpy"), file.raw(name)).reshape(info.shape)


def _stacked(
    file: gguf.GGUF, product: str, shape: tuple[int, ...], layers: dict[int, dict[str, np.ndarray]], count: int
) -> Pair:
    """The matrices of a product over all layers, zeros where there are none, all of one rank."""
    outputs, inputs = shape
    ranks = {half["a"].shape[0] for half in layers.values() if "a" in half}
    if len(ranks) != 1:
        raise UnsupportedModel(f"{file.path}: the ranks of {product} are {sorted(ranks)}; one rank is supported")
    (rank,) = ranks
    a, b = np.zeros((count, rank, inputs), np.float32), np.zeros((count, outputs, rank), np.float32)
    for layer, halves in layers.items():
        for half, out in (("a", a), ("b", b)):
            if half not in halves or halves[half].shape != out.shape[1:]:
                shown = halves[half].shape if half in halves else "missing"
                raise InputError(
                    f"{file.path}: blk.{layer}.{product}.weight.lora_{half} is {shown}, and must be {out.shape[1:]} "
                    f"for this model"
                )
            out[layer] = halves[half]
    return Pair(a, b)
