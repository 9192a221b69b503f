"""Write models of random weights for benchmarks: shapes and mixes of formats of which no free file is at hand.

    python -m soberano.bench.synthetic llama-1b FILE        a recipe of RECIPES, the tokenizer of the demo model

How fast a model runs depends on its shape and on the formats of its tensors, not on what it says. So a tensor is made
of blocks drawn from a pool of encoded random ones: sane weights, written as fast as the disk takes them.
"""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from soberano.core.errors import InputError
from soberano.core.progress import Progress, silent
from soberano.formats import gguf
from soberano.quant.blocks import BlockFormat, format_named
from soberano.quant.encode import encode
from soberano.registry.store import resolve

POOL = 4096
"""Blocks of which a tensor is drawn, where it has more."""

ROWS = 512
"""Rows made at a time."""


@dataclass(frozen=True)
class Recipe:
    """The sizes of a llama and the format of each of its tensors."""

    name: str
    layers: int
    width: int
    ffn: int
    heads: int
    kv_heads: int
    context: int
    rope_base: float
    kind: Callable[["Recipe", str, int], str]  # (recipe, field, layer) -> the name of a format

    @property
    def head(self) -> int:
        """The width of a head."""
        return self.width // self.heads

    def shapes(self, vocabulary: int) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor; the embedding serves as output too."""
        keys, width = self.kv_heads * self.head, self.width
        layer: dict[str, tuple[int, ...]] = {
            "attn_norm": (width,),
            "attn_q": (width, width),
            "attn_k": (keys, width),
            "attn_v": (keys, width),
            "attn_output": (width, width),
            "ffn_norm": (width,),
            "ffn_gate": (self.ffn, width),
            "ffn_up": (self.ffn, width),
            "ffn_down": (width, self.ffn),
        }
        shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, width), "output_norm.weight": (width,)}
        for i in range(self.layers):
            shapes |= {f"blk.{i}.{field}.weight": shape for field, shape in layer.items()}
        return shapes


def more_bits(layer: int, layers: int) -> bool:
    """Whether llama.cpp's *_K_M mixes give a layer's attn_v and ffn_down more bits: the ends, and each third between.

    Source: llama-quant.cpp, use_more_bits.
    """
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def q4_k_m(recipe: Recipe, field: str, layer: int) -> str:
    """The mix of Q4_K_M where every row is whole blocks of 256."""
    if field == "token_embd":
        return "Q6_K"
    return "Q6_K" if field in ("attn_v", "ffn_down") and more_bits(layer, recipe.layers) else "Q4_K"


def gemma_mix(recipe: Recipe, field: str, layer: int) -> str:
    """The mix of Gemma 3 270M's Q4_K_M: its rows of 640 are no whole blocks of 256, so most fall back to 32s."""
    if field == "token_embd":
        return "Q8_0"
    wanted = q4_k_m(recipe, field, layer)
    if field in ("attn_output", "ffn_down"):  # the rows that are whole blocks there
        return wanted
    return {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}[wanted]


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("llama-1b", 16, 2048, 8192, 32, 8, 131072, 500000.0, q4_k_m),
        Recipe("gemma-mix", 30, 768, 2048, 12, 4, 8192, 100000.0, gemma_mix),
    )
}


def write(
    recipe: Recipe, path: str | os.PathLike[str], tokenizer: str = "smollm2", *, progress: Progress = silent
) -> None:
    """Write a model of a recipe as GGUF, with the tokenizer of another model: a path or a stored name."""
    with gguf.read(resolve(tokenizer)) as donor:
        vocabulary = len(donor.field("tokenizer.ggml.tokens", list[str]))
        words = {
            key: gguf.Typed(donor.kinds[key], value)
            for key, value in donor.metadata.items()
            if key.startswith("tokenizer.")
        }
    head: dict[str, Any] = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": f"Synthetic {recipe.name}",
        "general.quantization_version": 2,
        "general.file_type": 15,
        "llama.block_count": recipe.layers,
        "llama.context_length": recipe.context,
        "llama.embedding_length": recipe.width,
        "llama.feed_forward_length": recipe.ffn,
        "llama.attention.head_count": recipe.heads,
        "llama.attention.head_count_kv": recipe.kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": recipe.rope_base,
        "llama.rope.dimension_count": recipe.head,
        "llama.vocab_size": vocabulary,
    }
    rng = np.random.default_rng(0)
    tensors = {name: _tensor(recipe, name, shape, rng) for name, shape in recipe.shapes(vocabulary).items()}
    gguf.write(path, head | words, tensors, progress=progress)


def _tensor(
    recipe: Recipe, name: str, shape: tuple[int, ...], rng: np.random.Generator
) -> tuple[type[BlockFormat], np.ndarray | gguf.Chunks]:
    if len(shape) == 1:
        return format_named("F32"), encode(format_named("F32"), np.ones(shape, np.float32))
    _, layer, field = name.split(".")[:3] if name.startswith("blk.") else ("", "-1", name.split(".")[0])
    kind = format_named(recipe.kind(recipe, field, int(layer)))
    outputs, row = shape[0], kind.row_bytes(shape[1])
    # Activations keep their size from layer to layer, and logits spread over a few units.
    weights = rng.standard_normal((POOL, kind.block), np.float32) / np.float32(np.sqrt(shape[1]))
    pool = encode(kind, weights)

    def chunks() -> Iterator[np.ndarray]:
        for start in range(0, outputs, ROWS):
            count = min(ROWS, outputs - start)
            yield pool[rng.integers(POOL, size=(count, row // kind.block_bytes))].reshape(count, row)

    return kind, gguf.Chunks((outputs, row), chunks)


def main(argv: list[str]) -> int:
    """Write the recipe argv[0] to the file argv[1]."""
    if len(argv) != 2 or argv[0] not in RECIPES:
        raise InputError(f"give a recipe, one of {', '.join(RECIPES)}, and a file to write; not {' '.join(argv)!r}")
    write(RECIPES[argv[0]], argv[1])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
