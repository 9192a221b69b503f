"""A tiny random model of every decoder architecture, from its golden file: tests/golden/decoders/<architecture>.json.

Such a file holds what a GGUF file of the architecture says (`metadata`), the optional tensors that this one lacks
(`absent`), tensors that are no weights (`tensors`), the context to load it with, and logits that llama.cpp computed
(see make_decoders.py), `close` to right where it rounds on the way: its GELU is a table of float16. Names and shapes of
the weights come from the architecture's own file, so that nothing else has to know it.
"""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from soberano.formats import gguf
from soberano.models.architecture import architecture
from soberano.models.keys import read_config
from soberano.models.layers import Metadata
from soberano.quant.blocks import format_named
from soberano.quant.encode import encode
from tests.tiny import tokenizer_metadata

GOLDEN = Path(__file__).parent / "golden" / "decoders"
VOCABULARY = 272


def recipe(name: str) -> dict[str, Any]:
    """What the golden file of an architecture holds."""
    return json.loads((GOLDEN / f"{name}.json").read_text())


def write_tiny(
    path: str | os.PathLike[str], name: str, types: Callable[[str], str] = lambda tensor: "F32", seed: int = 0
) -> None:
    """Write the tiny model of an architecture; `types` names the format of each tensor that is a matrix."""
    told = recipe(name)
    metadata = told["metadata"] | tokenizer_metadata(VOCABULARY)
    plain, rng = format_named("F32"), np.random.default_rng(seed)
    tensors = {}
    for tensor, numbers in told.get("tensors", {}).items():
        tensors[tensor] = (plain, encode(plain, np.array(numbers, np.float32)))
    for tensor, shape in shapes(name, told, metadata, tensors).items():
        numbers = _numbers(rng, tensor, shape)
        numbers = numbers[0] if shape[0] == 1 else numbers  # as converters write a matrix of one row
        kind = format_named(types(tensor) if numbers.ndim > 1 else "F32")
        tensors[tensor] = (kind, encode(kind, numbers))
    gguf.write(path, metadata, tensors)


def shapes(name: str, told: Any, metadata: Any, tensors: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the tiny model: its Config is read from a file that has nothing but an embedding."""
    module, said = architecture(name), told["metadata"]
    prefix = said["general.architecture"]
    width, layers = said[f"{prefix}.embedding_length"], said[f"{prefix}.block_count"]
    with tempfile.TemporaryDirectory() as folder:
        path, plain = Path(folder) / "head.gguf", format_named("F32")
        filler = {f"filler.{i}": (plain, encode(plain, np.zeros(1, np.float32))) for i in range(layers)}
        embedding = {"token_embd.weight": (plain, encode(plain, np.zeros((VOCABULARY, width), np.float32)))}
        gguf.write(path, metadata, tensors | filler | embedding)
        with gguf.read(path) as file:
            config = read_config(module, Metadata(file, prefix))
    of_field = module.shapes(config)
    fields = {field: field for field in module.Weights._fields if field != "blk"}
    fields |= {f"blk.{i}.{field}": field for i in range(config.layers) for field in module.Layer._fields}
    named = {
        f"{place[:-5]}.bias" if place.endswith("_bias") else f"{place}.weight": of_field[field]
        for place, field in fields.items()
        if field not in told.get("absent", [])
    }
    return named


def _numbers(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = rng.standard_normal(shape, np.float32)
    if len(shape) == 1:
        return noise / 10 + np.float32("norm" in name)
    return noise * np.float32((2 if "embd" in name else 1) / np.sqrt(shape[-1]))
