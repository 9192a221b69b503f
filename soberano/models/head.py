"""The heads of cross-encoders: from the vector of a pair of texts to one number, how well they fit.

An architecture that ranks says which is its own, Head = Tanh, and its weights have an optional field `head`. The first
token's vector goes in, or the mean of all.
"""

from typing import Any, NamedTuple

from soberano.backends.homes import home_of
from soberano.core.errors import FileError, UnsupportedModel
from soberano.core.types import Array
from soberano.formats.tensors import TensorFile, TensorInfo
from soberano.models.layers import Metadata
from soberano.ops.activation import gelu
from soberano.ops.linear import linear
from soberano.ops.norm import layer_norm
from soberano.ops.pool import Pooling
from soberano.quant.tensor import Weight

NAMES = {
    "dense": "cls.weight",
    "dense_bias": "cls.bias",
    "norm": "cls.norm.weight",
    "out": "cls.output.weight",
    "out_bias": "cls.output.bias",
}
"""How the fields of heads are called in a file."""


class Tanh(NamedTuple):
    """BERT's head: its pooler, and one row."""

    dense: Weight  # (D, D)
    dense_bias: Array  # (D,)
    out: Weight  # (1, D)
    out_bias: Array  # (1,)

    def score(self, x: Array, eps: float) -> Array:
        """x (B, D) -> (B, 1)."""
        h = home_of(x).xp.tanh(linear(self.dense, x) + self.dense_bias)  # (B, D)
        return linear(self.out, h) + self.out_bias


class NormedGelu(NamedTuple):
    """ModernBERT's head: the one that it predicted words with, and one row."""

    dense: Weight  # (D, D)
    norm: Array  # (D,)
    out: Weight  # (1, D)
    out_bias: Array  # (1,)

    def score(self, x: Array, eps: float) -> Array:
        """x (B, D) -> (B, 1)."""
        h = layer_norm(gelu(linear(self.dense, x), form="erf"), self.norm, None, eps=eps)  # (B, D)
        return linear(self.out, h) + self.out_bias


def find_head(file: TensorFile, module: Any, config: Any) -> dict[str, TensorInfo] | None:
    """The tensors of a head, by field; None for a model that does not rank.

    Raises FileError for one that is missing or has a wrong shape, UnsupportedModel for a head of several classes.
    """
    if NAMES["out"] not in file.tensors or not hasattr(module, "Head"):
        return None
    out, width = tuple(file.tensors[NAMES["out"]].shape), config.width
    if out != (1, width):
        raise UnsupportedModel(
            f"{file.path}: the head ({NAMES['out']}) is {out}, so it tells classes apart; only one that ranks is "
            f"supported, and that is (1, {width})"
        )
    shapes = {"dense": (width, width), "out": (1, width), "out_bias": (1,)}
    found = {}
    for field in module.Head._fields:
        info, shape = file.tensors.get(NAMES[field]), shapes.get(field, (width,))
        if info is None:
            raise FileError(
                f"{file.path}: the tensor {NAMES[field]} is missing, without which its head ({NAMES['out']}) scores "
                f"wrongly; some converters drop it: convert the file again, or use the folder that it was made from"
            )
        if tuple(info.shape) != shape:
            raise FileError(f"{file.path}: the tensor {NAMES[field]} is {tuple(info.shape)}, and must be {shape}")
        found[field] = info
    return found


def head_pooling(meta: Metadata, head: type) -> Pooling:
    """What a head takes of the vectors of a pair's tokens: as the file says, else as llama.cpp and transformers do.

    Raises FileError for what is neither the mean nor the first.
    """
    kinds: dict[Any, Pooling] = {1: "mean", 2: "cls", "mean": "mean", "cls": "cls"}
    said = meta.value("classifier.pooling_type", "mean" if head is NormedGelu and meta.keys is None else "cls")
    if not isinstance(said, int | str) or said not in kinds:
        meta.fail("classifier.pooling_type", said, "1 (mean) or 2 (cls)")
    return kinds[said]
