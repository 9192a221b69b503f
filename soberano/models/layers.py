"""What model files share: reading a file's metadata, the loop over layers, and the shapes of heads."""

import reprlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import numpy as np

from soberano.backends.base import Home
from soberano.backends.homes import home_of
from soberano.backends.tree import map_arrays
from soberano.core.errors import FileError, UnsupportedModel
from soberano.core.types import Array
from soberano.formats.tensors import TensorFile
from soberano.models.cache import Cache
from soberano.quant.tensor import Stack


class ModelFile(TensorFile, Protocol):
    """Tensors under the names of GGUF, and what the model's author says about them."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Keys and values of the file."""


@dataclass(frozen=True)
class Metadata:
    """A file's metadata as its architecture reads it: meta.whole("block_count") is <architecture>.block_count.

    What is asked for counts as understood, in the file or not: see soberano.models.keys.

    A file of another kind has no architecture in its keys, and `keys` says what it calls otherwise; of several names,
    the first that is there counts.
    """

    file: ModelFile
    architecture: str
    keys: Mapping[str, str | tuple[str, ...]] | None = None
    read: set[str] = field(default_factory=set)

    def _name(self, key: str) -> str:
        if self.keys is None:
            return f"{self.architecture}.{key}"
        names = self.keys.get(key, key)
        if isinstance(names, str):
            return names
        return next((name for name in names if self.file.metadata.get(name) is not None), names[0])

    def _value(self, key: str, default: Any) -> tuple[str, Any]:
        name = self._name(key)
        self.read.add(key)
        value = self.file.metadata.get(name, default)
        if value is None:
            raise FileError(
                f"{self.file.path}: the key {name} is missing, so the model cannot be built; convert the file again"
            )
        return name, value

    def fail(self, key: str, value: object, right: str) -> NoReturn:
        """Raise FileError: the value of a key cannot be; `right` says what it must be."""
        name = self._name(key)
        raise FileError(
            f"{self.file.path}: {name} is {reprlib.repr(value)}; it must be {right}; convert the file again"
        )

    def value(self, key: str, default: Any) -> Any:
        """Whatever the file says, for what none of the readers below fits; unchecked."""
        return self._value(key, default)[1]

    def whole(self, key: str, default: int | None = None) -> int:
        """A positive whole number. Raises FileError, naming the key, when it is missing without default or wrong."""
        name, value = self._value(key, default)
        if isinstance(value, list) and value and all(v == value[0] for v in value):
            value = value[0]  # some converters write one number per layer
        if isinstance(value, list):
            raise UnsupportedModel(
                f"{self.file.path}: {name} differs from layer to layer ({reprlib.repr(value)}), which is not supported "
                f"yet"
            )
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            self.fail(key, value, "a whole number above 0")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number above 0. Raises FileError as `whole` does."""
        _, value = self._value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
            self.fail(key, value, "a number above 0")
        return float(value)

    def choice(self, key: str, known: Collection[str], default: str) -> str:
        """One of the `known` words. Raises UnsupportedModel for any other."""
        name, value = self._value(key, default)
        if not isinstance(value, str) or value not in known:
            raise UnsupportedModel(
                f"{self.file.path}: {name} is {reprlib.repr(value)}, which is not supported; known: "
                f"{', '.join(sorted(known))}"
            )
        return value

    def only(self, key: str, right: object) -> None:
        """Raise UnsupportedModel where a key says anything but `right`, which is what it means to leave it out."""
        name, value = self._value(key, right)
        if value != right:
            raise UnsupportedModel(
                f"{self.file.path}: {name} is {reprlib.repr(value)}; only {right!r} is supported with this architecture"
            )

    @property
    def layers(self) -> int:
        """How many layers there are. A file that claims more of them than it has tensors is refused, not counted."""
        count = self.whole("block_count")
        if count > len(self.file.tensors):
            self.fail("block_count", count, f"at most {len(self.file.tensors)}, as many as the file has tensors")
        return count

    @property
    def vocabulary(self) -> int:
        """How many tokens the embedding has."""
        return self.rows("token_embd")

    def rows(self, tensor: str) -> int:
        """How many rows the matrix <tensor>.weight has. Raises FileError when it is missing, or no matrix."""
        info = self.file.tensors.get(f"{tensor}.weight")
        if info is None or len(info.shape) != 2:
            raise FileError(f"{self.file.path}: there is no matrix {tensor}.weight, so this is no whole model")
        return info.shape[0]


def widths(meta: Metadata) -> tuple[int, int, int]:
    """(width of the model, heads, width of a head). Raises FileError where heads are no even shares of the width."""
    heads, width = meta.whole("attention.head_count"), meta.whole("embedding_length")
    if width % heads:
        meta.fail("attention.head_count", heads, f"a divisor of the width {width}")
    return width, heads, width // heads


def rope_scale(meta: Metadata) -> float:
    """The factor on positions that the file asks for. Raises UnsupportedModel for a scaling that is not linear.

    As in llama.cpp, a factor without a type is linear, and old files call it rope.scale_linear.
    """
    kind = meta.choice("rope.scaling.type", ("none", "linear"), "linear")
    factor = meta.number("rope.scaling.factor", meta.number("rope.scale_linear", 1.0))
    return 1.0 / factor if kind == "linear" else 1.0


def rope_width(meta: Metadata, head: int) -> int:
    """How many numbers of a head are turned: all, unless the file says fewer. Raises FileError if no pairs fit."""
    width = meta.whole("rope.dimension_count", head)
    if width % 2 or width > head:
        meta.fail("rope.dimension_count", width, f"even, and at most {head}, the width of a head")
    return width


def rope_factors(meta: Metadata, width: int) -> tuple[float, ...] | None:
    """The divisors of the rotary frequencies (Llama 3.1 on), which a file carries as the tensor rope_freqs.weight.

    Raises FileError unless it holds width / 2 finite float32 numbers above 0.
    """
    info = meta.file.tensors.get("rope_freqs.weight")
    if info is None:
        return None
    if info.format.name != "F32" or info.shape != (width // 2,):
        raise FileError(
            f"{meta.file.path}: the tensor rope_freqs.weight is {info.format.name} {info.shape}, and must be F32 "
            f"{(width // 2,)}; convert the file again"
        )
    factors = meta.file.raw("rope_freqs.weight").view("<f4")
    wrong = factors[~(np.isfinite(factors) & (factors > 0))]
    if wrong.size:
        raise FileError(
            f"{meta.file.path}: the tensor rope_freqs.weight holds {wrong[0]}, and must hold finite numbers above 0; "
            f"get the file again"
        )
    return tuple(float(f) for f in factors)


def local_layers(meta: Metadata, *, period: int) -> tuple[bool, ...]:
    """Which layers see a window only: all but the first of every so many, or as the file lists them.

    `period` holds where the file does not say. Raises FileError for a list that says nothing of a layer.
    """
    key, kinds = "attention.sliding_window_pattern", {"sliding_attention": True, "full_attention": False, 0: 0, 1: 1}
    said = meta.value(key, period)
    if not isinstance(said, list):
        return tuple(i % meta.whole(key, period) != 0 for i in range(meta.layers))
    if len(said) != meta.layers or not all(isinstance(kind, str | int) and kind in kinds for kind in said):
        meta.fail(key, said, f"a kind of attention for each of the {meta.layers} layers")
    return tuple(bool(kinds[kind]) for kind in said)


def each_layer(block: Callable[..., Any], blk: Any, x: Array, cache: Cache, *rest: Any) -> tuple[Array, Cache]:
    """Run `block(weights of layer i, x, cache at layer i, *rest)` for every layer.

    Compiled homes loop inside one program over stacked weights, so a packed weight is never copied; NumPy just loops.
    """
    home = home_of(x)

    def layer(i: Array | int, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        h, k, v = carry
        here = Cache(k, v, cache.positions, cache.table, i)
        h, here = block(layer_of(home, blk, i), h, here, *rest)
        return h, here.k, here.v

    x, k, v = home.loop(cache.k.shape[0], layer, (x, cache.k, cache.v))
    return x, Cache(k, v, cache.positions, cache.table)


def each_block(count: int, block: Callable[..., Array], blk: Any, x: Array, *rest: Any, differs: Any = None) -> Array:
    """Run `block(weights of layer i, x, *rest)` for `count` layers: as each_layer, of a model without a cache.

    `differs` is a tree of arrays (L, ...), what layers have besides weights: layer i's comes behind x.
    """
    home = home_of(x)

    def layer(i: Array | int, h: Array) -> Array:
        own = () if differs is None else (map_arrays(lambda table: home.at(table, i), differs),)
        return block(layer_of(home, blk, i), h, *own, *rest)

    return home.loop(count, layer, x)


def layer_of(home: Home, blk: Any, i: Array | int) -> Any:
    """The weights of layer i of stacked ones; None stays None."""
    return type(blk)(*(part.layer(home, i) if isinstance(part, Stack) else None for part in blk))


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
