"""The key-value cache: pages on the device, and the book of who holds which page.

`Cache` is what a model's block sees. `Pages` is the book; it is pure Python, touches no array, and is tested by random
events.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from soberano.backends.base import Home
from soberano.backends.homes import home_of
from soberano.backends.tree import node
from soberano.core.errors import CapacityError, InputError
from soberano.core.memory import free_memory
from soberano.core.types import Array
from soberano.core.units import bytes_text
from soberano.ops.attention import attend
from soberano.ops.pages import GROUP, TYPES, shapes
from soberano.ops.rope import Pairing, Rotation

PAGE = 32
"""Tokens in a page: with float16 keys one cache line per row of a transposed page."""


@node()
@dataclass(frozen=True)
class Cache:
    """Keys and values of all layers, with the places that the tokens of this step take in it.

    k (L, P, K, E, page), v (L, P, K, page, E), of a type of soberano.ops.pages; positions (B, T), table (B, N), layer
    () int32: see soberano.ops.attention.
    """

    k: Array
    v: Array
    positions: Array
    table: Array
    layer: Array | int = 0

    def through(self, layer: Callable[[Any, Array, "Cache"], tuple[Array, "Cache"]], x: Array) -> tuple[Array, "Cache"]:
        """Compute (x, cache) = layer(i, x, cache at layer i) for every layer i; consumes this cache."""

        def step(i: Any, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            x, k, v = carry
            x, cache = layer(i, x, replace(self, k=k, v=v, layer=i))
            return x, cache.k, cache.v

        x, k, v = home_of(x).loop(self.k.shape[0], step, (x, self.k, self.v))
        return x, replace(self, k=k, v=v)

    def attend(
        self,
        q: Array,
        k: Array,
        v: Array,
        turn: Rotation,
        *,
        pairing: Pairing = "interleaved",
        scale: float | None = None,
        window: Array | int | None = None,
        cap: float | None = None,
        sinks: Array | None = None,
    ) -> tuple[Array, "Cache"]:
        """Turn q (B, T, H, E) and k, put k and v (B, T, K, E) at the positions of this step, attend to what each token
        may see -> (B, T, H, E), and the cache that holds them. Consumes this one.

        `window`, which may be another one in each layer, `cap` and `sinks` are those of soberano.ops.attention.
        """
        place = self.k, self.v, self.positions, self.table, self.layer
        out, new_k, new_v = attend(
            q, k, v, turn, *place, pairing=pairing, scale=scale, window=window, cap=cap, sinks=sinks
        )
        return out, replace(self, k=new_k, v=new_v)


def cache_dtype(name: str, width: int) -> Any:
    """The dtype of the pages of a cache called f16, bf16 or q8_0, for heads of `width`. Raises InputError."""
    if name not in TYPES:
        raise InputError(f"cache is {name!r}; pass {', '.join(TYPES)}, or nothing for what suits the backend")
    if name == "q8_0" and width % GROUP:
        raise InputError(
            f"cache is 'q8_0', which has a scale for every {GROUP} numbers of a head, and the heads of this model have "
            f"{width}; pass f16 or bf16"
        )
    return TYPES[name]


@dataclass(frozen=True)
class Room:
    """What the page arrays of a cache take: known, and refused, before anything is allocated."""

    layers: int
    kv_heads: int
    width: int
    dtype: Any
    context: int  # tokens of a sequence
    sequences: int

    @property
    def pages(self) -> int:
        """Pages of all sequences."""
        return self.sequences * -(-self.context // PAGE)

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the key pages (L, P, K, E, page), and of the value pages (L, P, K, page, E); of q8_0 with its scales."""
        keys, values = shapes(np.dtype(self.dtype), self.width, PAGE)
        return (self.layers, self.pages, self.kv_heads, *keys), (self.layers, self.pages, self.kv_heads, *values)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        return sum(math.prod(shape) for shape in self.shapes) * np.dtype(self.dtype).itemsize

    def plan(self, weights: int, free: int) -> str:
        """What a model will take, in words, before it takes anything."""
        many = f" of {self.sequences} conversations" if self.sequences > 1 else ""
        return (
            f"memory: weights {bytes_text(weights)}, cache {bytes_text(self.nbytes)} ({self.context} tokens{many}), "
            f"together {bytes_text(weights + self.nbytes)} of the {bytes_text(free)} that are free"
        )

    def check(self, weights: int, free: int) -> None:
        """Raise CapacityError when `free` bytes of this machine's memory cannot hold it beside those of the weights.

        Of a device's own memory, ask the device.
        """
        if weights + self.nbytes > free:
            raise self._refusal(free, weights)

    def make(self, home: Home) -> tuple[Array, Array]:
        """Zero arrays of these shapes. Raises CapacityError when there is no memory left."""
        try:
            keys, values = home.zeros(self.shapes, self.dtype)
        except (MemoryError, RuntimeError) as error:  # NumPy and CuPy raise the one, XLA a class of the other
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                raise self._refusal(free_memory()) from error
            raise
        return keys, values

    def _refusal(self, free: int, weights: int = 0) -> CapacityError:
        many = f", {self.sequences} times" if self.sequences > 1 else ""
        beside = f"the weights take {bytes_text(weights)} and " if weights else ""
        return CapacityError(
            f"{beside}a cache for a context of {self.context} tokens{many} takes {bytes_text(self.nbytes)}, and "
            f"{bytes_text(free)} of memory are free; ask for a smaller context, fewer sequences at once, "
            f"a cache of q8_0, a smaller model, or close other programs"
        )


class Pages:
    """Which pages are free, and which belong to whom. Every page is in exactly one place."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = list(range(count - 1, -1, -1))

    @property
    def free(self) -> int:
        """How many pages nobody holds."""
        return len(self._free)

    def take(self, tokens: int) -> list[int]:
        """Take pages for that many tokens. Raises CapacityError, taking none, when there are too few."""
        need = -(-tokens // PAGE)
        if need > len(self._free):
            raise CapacityError(
                f"{tokens} tokens need {need} cache pages of {PAGE}, but {len(self._free)} of {self.count} are free; "
                f"wait for another request to end, ask for fewer tokens, or load with a larger context"
            )
        return [self._free.pop() for _ in range(need)]

    def give_back(self, pages: list[int]) -> None:
        """Return pages that were taken."""
        held = set(pages)
        if len(held) != len(pages) or held & set(self._free) or not held <= set(range(self.count)):
            raise AssertionError(f"pages {sorted(pages)} are not all held, or held twice")
        self._free.extend(reversed(pages))
