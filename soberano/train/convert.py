"""Adapters from PEFT's form to GGUF's and back. What is not understood is refused: half an adapter answers wrongly."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from soberano.backends import homes
from soberano.core.errors import FileError, InputError, UnsupportedModel
from soberano.core.hashing import sha256
from soberano.core.progress import Progress, silent
from soberano.formats import gguf, safetensors
from soberano.formats.json_file import read_object
from soberano.models.adapter import Adapter, Pair, read_adapter, refuse_wrong_base
from soberano.models.architecture import architecture, name_of_file
from soberano.models.keys import read_config
from soberano.models.layers import Metadata
from soberano.train.adapters import Shape
from soberano.train.export import rows_as_ours, write_gguf, write_peft

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PLAIN = {
    "peft_type": "LORA",
    "use_dora": False,
    "fan_in_fan_out": False,
    "bias": "none",
    "modules_to_save": None,
    "trainable_token_indices": None,
    "lora_bias": False,
    "alora_invocation_tokens": None,
}
"""What the configuration of an adapter may say where GGUF has a form for it, or leave out."""

_NAME = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight")


def described(file: gguf.GGUF) -> tuple[str, Any, Any]:
    """(architecture as the file says it, its module, its config) of an open model."""
    said = file.field("general.architecture", str)
    module = architecture(name_of_file(said, file.metadata, file.path))
    return said, module, read_config(module, Metadata(file, said))


def to_peft(adapter: Path, base: Path, out: Path, *, progress: Progress = silent) -> None:
    """Write a GGUF adapter of the model `base` as PEFT does, to the folder `out`.

    Raises InputError for an adapter of another model, UnsupportedModel for what PEFT's names are not known of.
    """
    with gguf.read(base) as file:
        said, module, config = described(file)
        beside = read_adapter(adapter, said, module, config)
        refuse_wrong_base(beside, base, adapter, lambda: sha256(base, progress))
        name = str(file.metadata.get("general.name") or base.stem)
    out.mkdir(parents=True, exist_ok=True)
    write_peft(out, beside.pairs, _shape(beside), module=module, config=config, base=name)


def to_gguf(folder: Path, base: Path, out: Path, *, progress: Progress = silent) -> None:
    """Write PEFT's adapter in `folder`, of the model `base`, as a GGUF file. Scales, which may differ, go into B.

    Raises FileError for damaged files, InputError for an adapter of another shape, UnsupportedModel, naming it, for
    what GGUF has no form for.
    """
    told = read_object(folder / CONFIG)
    for key, right in PLAIN.items():
        if told.get(key, right) not in (right, [] if right is None else right):
            raise UnsupportedModel(f"{folder / CONFIG}: {key} is {told[key]!r}; in GGUF it can only be {right!r}")
    with gguf.read(base) as file:
        said, module, config = described(file)
    with safetensors.read(folder / TENSORS) as found:
        pairs = _pairs(found, told, module, config)
    ranks = {name: pair.a.shape[1] for name, pair in pairs.items()}
    alphas = {name: float(rank) for name, rank in ranks.items()}  # a scale of 1: it is in B
    shape = Shape(alpha=1.0, products=tuple(pairs), ranks=_each(ranks), alphas=_each(alphas))
    about = {"architecture": said, "name": folder.name, "base_hash": sha256(base, progress)}
    write_gguf(out, pairs, shape, **about)


def _each(values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((f"^{re.escape(name)}$", value) for name, value in values.items())


def _shape(beside: Adapter) -> Shape:
    """The ranks and alphas that make an adapter's scales."""
    ranks = {name: pair.a.shape[1] for name, pair in beside.pairs.items()}
    alphas = {name: beside.scales[name] * rank for name, rank in ranks.items()}
    first = next(iter(ranks))
    return Shape(
        rank=ranks[first],
        alpha=alphas[first],
        products=tuple(ranks),
        ranks=_each({name: rank for name, rank in ranks.items() if rank != ranks[first]}),
        alphas=_each({name: alpha for name, alpha in alphas.items() if alpha != alphas[first]}),
    )


def _pairs(file: Any, told: Mapping[str, Any], module: Any, config: Any) -> dict[str, Pair]:
    names: Mapping[str, str] = getattr(module, "HUGGING_FACE_TENSORS", {})
    forms = {p: re.compile(re.escape(name).replace(r"\*", r"(\d+)")) for p, name in names.items()}
    halves: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for tensor, info in file.tensors.items():
        match = _NAME.fullmatch(tensor)
        place = match and next(((p, m) for p, form in forms.items() if (m := form.fullmatch(match[1]))), None)
        if not match or not place or place[0] not in module.Layer._fields:
            raise UnsupportedModel(f"{file.path}: the tensor {tensor} belongs to no product of a layer of the model")
        product, layer = place[0], int(place[1][1])
        if layer >= config.layers:
            raise InputError(f"{file.path}: {tensor} is of layer {layer}, and the model has {config.layers}")
        matrix = info.format.dequantize(homes.home("numpy"), file.raw(tensor)).reshape(info.shape)
        halves.setdefault((product, layer), {})[match[2]] = matrix
    if not halves:
        raise FileError(f"{file.path} holds no adapter; get it again")
    shapes, pairs = module.shapes(config), dict[str, Pair]()
    for product in dict.fromkeys(product for product, _ in halves):
        outputs, inputs = shapes[product]
        here = {layer: half for (name, layer), half in halves.items() if name == product}
        rank = max(half["A"].shape[0] for half in here.values() if "A" in half)
        a, b = (np.zeros((config.layers, *s), np.float32) for s in ((rank, inputs), (outputs, rank)))
        for layer, half in here.items():
            name = names[product].replace("*", str(layer))
            r = half["A"].shape[0] if "A" in half else 0
            if set(half) != {"A", "B"} or half["A"].shape != (r, inputs) or half["B"].shape != (outputs, r):
                raise InputError(f"{file.path}: the adapter of {name} does not fit a weight of {(outputs, inputs)}")
            a[layer, :r] = half["A"]
            b[layer, :, :r] = rows_as_ours(half["B"], product, module, config) * np.float32(_scale(told, name, r))
        pairs[product] = Pair(a, b)
    return pairs


def _scale(told: Mapping[str, Any], module: str, rank: int) -> float:
    """alpha / rank, or by its root, as PEFT finds the alpha of a module."""
    alphas = told.get("alpha_pattern") or {}
    if not isinstance(alphas, dict) or not all(re.fullmatch(r"[\w.]+", key) for key in alphas):
        raise UnsupportedModel(
            f"{CONFIG}: alpha_pattern is {str(alphas)[:80]}; names of modules are understood, no rules"
        )
    alpha = next((v for k, v in alphas.items() if f".{module}".endswith(f".{k}")), told.get("lora_alpha"))
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise FileError(f"{CONFIG}: lora_alpha of {module} is {alpha!r}, and must be a number")
    return alpha / (math.sqrt(rank) if told.get("use_rslora") else rank)
