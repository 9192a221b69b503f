"""LoRA adapters: two small matrices beside each product of a model, over all layers.

    y = W x + (alpha / R) * B A x        A (R, I) random, B (O, R) zero, so that training starts from the model itself

rsLoRA divides by the root of R instead, which keeps large ranks from fading. Sources: Hu et al. 2021, arXiv 2106.09685;
Kalajdzievski 2023, arXiv 2312.03732.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from soberano.core.errors import InputError, UnsupportedModel
from soberano.models.adapter import Pair

LINEAR = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
"""The products of a layer, by the names of their tensors."""


@dataclass(frozen=True)
class Shape:
    """What adapters a training run has: `rank` and `alpha`, and for products that a pattern names, their own.

    A key of `ranks` and `alphas` is a regular expression, found anywhere in a tensor's name: {"ffn_": 32}.
    """

    rank: int = 16
    alpha: float = 32.0
    root: bool = False  # rsLoRA
    products: tuple[str, ...] = LINEAR
    ranks: tuple[tuple[str, int], ...] = ()
    alphas: tuple[tuple[str, float], ...] = ()

    def rank_of(self, name: str) -> int:
        """The rank of a product."""
        return next((rank for pattern, rank in self.ranks if re.search(pattern, name)), self.rank)

    def alpha_of(self, name: str) -> float:
        """The alpha of a product."""
        return next((alpha for pattern, alpha in self.alphas if re.search(pattern, name)), self.alpha)

    def scale_of(self, name: str) -> float:
        """What B A is multiplied by."""
        rank = self.rank_of(name)
        return self.alpha_of(name) / (math.sqrt(rank) if self.root else rank)

    def scales(self, names: Iterable[str]) -> dict[str, float]:
        """The scale of each of these products."""
        return {name: self.scale_of(name) for name in names}


def fresh(module: Any, config: Any, shape: Shape, seed: int) -> dict[str, Pair]:
    """Adapters that change nothing yet, as NumPy arrays: A as PEFT draws it (uniform, Kaiming), B zero.

    Raises InputError when the model has none of the products, UnsupportedModel for one that cannot be trained.
    """
    if "ffn_gate_exps" in module.Layer._fields:
        raise UnsupportedModel(
            "the model is a mixture of experts, and no gradient passes through one yet; train a dense model"
        )
    shapes, rng = module.shapes(config), np.random.default_rng(seed)
    names = [name for name in module.Layer._fields if name in shape.products]
    if not names:
        raise InputError(
            f"the model has none of the products {', '.join(shape.products)}; it has {', '.join(module.Layer._fields)}"
        )
    pairs = {}
    for name in names:
        (outputs, inputs), rank = shapes[name], shape.rank_of(name)
        bound = 1 / math.sqrt(inputs)
        a = rng.uniform(-bound, bound, (config.layers, rank, inputs)).astype(np.float32)
        pairs[name] = Pair(a, np.zeros((config.layers, outputs, rank), np.float32))
    return pairs
