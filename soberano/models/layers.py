"""What model files share: reading a file's metadata, the loop over layers, and the shapes of heads."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from soberano.backends.homes import home_of
from soberano.core.errors import FileError, UnsupportedModel
from soberano.core.types import Array
from soberano.formats.gguf import GGUF
from soberano.models.cache import Cache
from soberano.quant.tensor import Stack


@dataclass(frozen=True)
class Metadata:
    """A file's metadata as its architecture reads it: meta.whole("block_count") is <architecture>.block_count."""

    file: GGUF
    architecture: str

    def whole(self, key: str, default: int | None = None) -> int:
        """A positive whole number. Raises FileError, naming the key, when it is missing without default or wrong."""
        name, value = f"{self.architecture}.{key}", self.file.metadata.get(f"{self.architecture}.{key}", default)
        if value is None:
            raise FileError(
                f"{self.file.path}: the key {name} is missing, so the model cannot be built; convert the file again"
            )
        if isinstance(value, list) and value and all(v == value[0] for v in value):
            value = value[0]  # some converters write one number per layer
        if isinstance(value, list):
            raise UnsupportedModel(
                f"{self.file.path}: {name} differs from layer to layer ({value[:4]}...), which is not supported yet"
            )
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise FileError(f"{self.file.path}: {name} is {value!r}; it must be a whole number above 0")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number of 0 or more. Raises FileError as `whole` does."""
        name, value = f"{self.architecture}.{key}", self.file.metadata.get(f"{self.architecture}.{key}", default)
        if value is None:
            raise FileError(
                f"{self.file.path}: the key {name} is missing, so the model cannot be built; convert the file again"
            )
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise FileError(f"{self.file.path}: {name} is {value!r}; it must be a number of 0 or more")
        return float(value)

    @property
    def vocabulary(self) -> int:
        """How many tokens the embedding has."""
        if "token_embd.weight" not in self.file.tensors:
            raise FileError(f"{self.file.path}: the tensor token_embd.weight is missing, so this is no whole model")
        return self.file.tensors["token_embd.weight"].shape[0]


def rope_scale(meta: Metadata) -> float:
    """The factor on positions that the file asks for. Raises UnsupportedModel for a scaling that is not linear."""
    kind = meta.file.metadata.get(f"{meta.architecture}.rope.scaling.type", "none")
    if kind == "none":
        return 1.0
    if kind == "linear":
        return 1.0 / meta.number("rope.scaling.factor")
    raise UnsupportedModel(
        f"{meta.file.path}: {meta.architecture}.rope.scaling.type is {kind!r}; known are none and linear"
    )


def rope_factors(meta: Metadata) -> tuple[float, ...] | None:
    """The divisors of the rotary frequencies (Llama 3.1 on), which a file carries as the tensor rope_freqs.weight."""
    if "rope_freqs.weight" not in meta.file.tensors:
        return None
    return tuple(float(f) for f in np.frombuffer(meta.file.raw("rope_freqs.weight").tobytes(), "<f4"))


def each_layer(block: Callable[..., Any], blk: Any, x: Array, cache: Cache, *rest: Any) -> tuple[Array, Cache]:
    """Run `block(weights of layer i, x, cache at layer i, *rest)` for every layer.

    Compiled homes loop inside one program over stacked weights, so a packed weight is never copied; NumPy just loops.
    """
    home = home_of(x)
    fields = type(blk)._fields

    def layer(i: Array | int, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        h, k, v = carry
        here = Cache(k, v, cache.positions, cache.table, i)
        weights = type(blk)(
            *(part.layer(home, i) if isinstance(part, Stack) else None for part in (getattr(blk, f) for f in fields))
        )
        h, here = block(weights, h, here, *rest)
        return h, here.k, here.v

    x, k, v = home.loop(cache.k.shape[0], layer, (x, cache.k, cache.v))
    return x, Cache(k, v, cache.positions, cache.table)


def heads(x: Array, width: int) -> Array:
    """(B, T, H * E) -> (B, T, H, E)."""
    return x.reshape(*x.shape[:-1], x.shape[-1] // width, width)


def merge(x: Array) -> Array:
    """(B, T, H, E) -> (B, T, H * E)."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def last_tokens(x: Array, last: Array | None) -> Array:
    """x (B, T, D) -> (B, D), row b's token last[b]; all of x if None."""
    if last is None:
        return x
    xp = home_of(x).xp
    return xp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
