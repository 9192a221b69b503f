"""What model files share: reading a file's metadata, the loop over layers, and the shapes of heads."""

import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NoReturn, Protocol

import numpy as np

from soberano.backends.base import Home
from soberano.backends.homes import home_of
from soberano.backends.tree import map_arrays
from soberano.core.errors import FileError, UnsupportedModel
from soberano.core.types import Array
from soberano.formats.tensors import TensorFile
from soberano.models.cache import Cache

DEFAULT_CONTEXT = 4096
"""Tokens of context when nobody asks for more: the cache is allocated whole, and few chats are longer."""


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
    the first that is there counts. `wanted` is the context, in tokens, that the model is loaded for; None: whatever is
    usual.
    """

    file: ModelFile
    architecture: str
    keys: Mapping[str, str | tuple[str, ...]] | None = None
    wanted: int | None = None
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

    def amount(self, key: str, default: float | None = None) -> float:
        """A finite number of at least 0, where 0 says that a thing is not used. Raises FileError as `whole` does."""
        _, value = self._value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
            self.fail(key, value, "a number of at least 0")
        return float(value)

    def factor(self, key: str) -> float:
        """A factor that a file may leave out, or call 0: 1 then."""
        return self.amount(key, 0.0) or 1.0

    def pattern(self, key: str, period: int, *, first: bool = False) -> tuple[bool, ...]:
        """Which layers do what only some do: as the file lists them, or all but one in n, n being `period` or said.

        The one is the last of every n, or the `first`. Of 0 all layers do, of 1 none. Raises FileError for anything
        else.
        """
        kinds = {"sliding_attention": True, "full_attention": False, 1: True, 0: False}
        value, layers = self.value(key, period), self.layers
        if isinstance(value, list):
            if len(value) != layers or not all(isinstance(each, str | int) and each in kinds for each in value):
                self.fail(key, value, f"a kind for each of the {layers} layers")
            return tuple(kinds[each] for each in value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            self.fail(key, value, f"a whole number, or a kind for each of the {layers} layers")
        return tuple(not value or (i % value > 0 if first else i % value < value - 1) for i in range(layers))

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
    def length(self) -> int:
        """The longest conversation that the model is loaded for, in tokens."""
        trained = self.whole("context_length")
        return min(trained, DEFAULT_CONTEXT) if self.wanted is None else self.wanted

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


@dataclass(frozen=True)
class PerLayer:
    """A value that is one of two, layer by layer."""

    options: Any  # an array, or a tuple of them, whose first axis is the choice
    which: np.ndarray  # (L,) int32

    @classmethod
    def of(cls, where: Sequence[bool], here: Any, elsewhere: Any) -> "PerLayer":
        """`here` in the layers where `where` is true, `elsewhere` in the others: numbers, arrays or tuples of them."""
        return cls(_pair(here, elsewhere), np.array([not each for each in where], np.int32))

    def layer(self, home: Home, i: Array | int) -> Any:
        """The value of layer i."""
        which = home.at(home.xp.asarray(self.which), i)
        return map_arrays(lambda array: home.at(home.xp.asarray(array), which), self.options)


def _pair(here: Any, elsewhere: Any) -> Any:
    if isinstance(here, tuple):
        return type(here)(*map(_pair, here, elsewhere))
    xp = np if isinstance(here, int) else home_of(here).xp
    return xp.stack([xp.asarray(here), xp.asarray(elsewhere)])


def each_layer(block: Callable[..., Any], blk: Any, x: Array, cache: Cache, *rest: Any) -> tuple[Array, Cache]:
    """Run `block(weights of layer i, x, cache at layer i, *rest)` for every layer.

    Compiled homes loop inside one program over stacked weights, so a packed weight is never copied; NumPy just loops.
    Of what is PerLayer in `rest`, the block gets layer i's.
    """
    home = home_of(x)

    def layer(i: Array | int, x: Array, cache: Cache) -> tuple[Array, Cache]:
        return block(layer_of(home, blk, i), x, cache, *_of_layer(home, rest, i))

    return cache.through(layer, x)


def each_block(count: int, block: Callable[..., Array], blk: Any, x: Array, *rest: Any) -> Array:
    """Run `block(weights of layer i, x, *rest)` for `count` layers: as each_layer, of a model without a cache."""
    home = home_of(x)
    return home.loop(count, lambda i, h: block(layer_of(home, blk, i), h, *_of_layer(home, rest, i)), x)


def _of_layer(home: Home, rest: Sequence[Any], i: Array | int) -> list[Any]:
    return [part.layer(home, i) if isinstance(part, PerLayer) else part for part in rest]


def layer_of(home: Home, blk: Any, i: Array | int) -> Any:
    """The weights of layer i of stacked ones; None stays None."""
    return type(blk)(*(None if part is None else part.layer(home, i) for part in blk))


def heads(x: Array, width: int) -> Array:
    """(B, T, H * E) -> (B, T, H, E)."""
    return x.reshape(*x.shape[:-1], x.shape[-1] // width, width)


def split(x: Array, *widths: int) -> list[Array]:
    """(..., sum of the widths) -> one (..., width) for each: what a fused product computed together."""
    return [x[..., end - width : end] for end, width in zip(accumulate(widths), widths, strict=True)]


def merge(x: Array) -> Array:
    """(B, T, H, E) -> (B, T, H * E)."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])


def pick_tokens(x: Array, which: Array) -> Array:
    """x (B, T, D) -> (B, D): of row b, token which[b]."""
    return home_of(x).xp.take_along_axis(x, which[:, None, None], axis=1)[:, 0]
