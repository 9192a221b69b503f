"""Adapters as others read them: a GGUF file for llama.cpp and ourselves, a folder for PEFT.

GGUF holds, for a tensor NAME of the model, NAME.lora_a (R, I) and NAME.lora_b (O, R), and one alpha: the product is
scaled by alpha / R, so with several ranks, or with rsLoRA, what is left of the scale goes into B. (The reader in
llama.cpp's llama-adapter.cpp is the specification.) PEFT has the names of Hugging Face, and rows of queries and keys in
its order, where GGUF pairs them for the rotation.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from soberano.core.errors import UnsupportedModel
from soberano.formats import gguf, safetensors_write
from soberano.models.adapter import BASE_HASH, Pair
from soberano.quant.blocks import format_named
from soberano.quant.encode import encode
from soberano.train.adapters import Shape


def write_gguf(
    path: Path, pairs: Mapping[str, Pair], shape: Shape, *, architecture: str, name: str, base_hash: str
) -> None:
    """Write adapters as a GGUF file in float32."""
    plain, tensors = format_named("F32"), {}
    for product, layer, a, b in _each(pairs):
        factor = shape.scale_of(product) * len(a) / shape.alpha  # what alpha / R lacks
        for half, matrix in (("lora_a", a), ("lora_b", b * np.float32(factor))):
            tensors[f"blk.{layer}.{product}.weight.{half}"] = (plain, encode(plain, matrix))
    metadata = {
        "general.type": "adapter",
        "general.architecture": architecture,
        "general.name": name,
        "adapter.type": "lora",
        "adapter.lora.alpha": float(shape.alpha),
        BASE_HASH: base_hash,
    }
    gguf.write(path, metadata, tensors)


def write_peft(folder: Path, pairs: Mapping[str, Pair], shape: Shape, *, module: Any, config: Any, base: str) -> None:
    """Write adapters as PEFT does: adapter_model.safetensors and adapter_config.json.

    Raises UnsupportedModel where it is not known what Hugging Face calls the tensors of the architecture.
    """
    names: Mapping[str, str] = getattr(module, "HUGGING_FACE_TENSORS", {})
    missing = [product for product in pairs if product not in names]
    if missing:
        raise UnsupportedModel(f"what Hugging Face calls {missing[0]} of {module.__name__} is not known yet")
    tensors = {}
    for product, layer, a, b in _each(pairs):
        theirs = f"base_model.model.{names[product]}".replace("*", str(layer))
        tensors[f"{theirs}.lora_A.weight"] = a
        tensors[f"{theirs}.lora_B.weight"] = _rows_as_theirs(b, product, module, config)
    modules = {product: names[product].rpartition(".")[2] for product in pairs}
    told = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": shape.rank,
        "lora_alpha": shape.alpha,
        "use_rslora": shape.root,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted(modules.values()),
        "rank_pattern": {modules[p]: shape.rank_of(p) for p in pairs if shape.rank_of(p) != shape.rank},
        "alpha_pattern": {modules[p]: shape.alpha_of(p) for p in pairs if shape.alpha_of(p) != shape.alpha},
    }
    safetensors_write.write(folder / "adapter_model.safetensors", tensors, {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(told, indent=2) + "\n")


def _rows_as_theirs(b: np.ndarray, product: str, module: Any, config: Any) -> np.ndarray:
    """The rows of B in the order of Hugging Face, which pairs number i of a head with number i + E / 2."""
    heads = {"attn_q": config.heads, "attn_k": config.kv_heads}.get(product)
    if heads is None or not getattr(module, "PAIRS_INTERLEAVED", False):
        return b
    return np.ascontiguousarray(b.reshape(heads, -1, 2, b.shape[1]).swapaxes(1, 2).reshape(b.shape))


def rows_as_ours(b: np.ndarray, product: str, module: Any, config: Any) -> np.ndarray:
    """The inverse of that."""
    heads = {"attn_q": config.heads, "attn_k": config.kv_heads}.get(product)
    if heads is None or not getattr(module, "PAIRS_INTERLEAVED", False):
        return b
    return np.ascontiguousarray(b.reshape(heads, 2, -1, b.shape[1]).swapaxes(1, 2).reshape(b.shape))


def _each(pairs: Mapping[str, Pair]) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """(product, layer, A (R, I), B (O, R)), layer by layer."""
    layers = len(next(iter(pairs.values())).a)
    for layer in range(layers):
        for product, pair in pairs.items():
            yield product, layer, np.asarray(pair.a[layer]), np.asarray(pair.b[layer])
