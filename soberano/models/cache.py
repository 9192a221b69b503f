"""The key-value cache: pages on the device, and the book of who holds which page.

`Cache` is what a model's block sees. `Pages` is the book; it is pure Python, touches no array, and is tested by random
events.
"""

from dataclasses import dataclass, replace
from typing import Any

from soberano.backends.base import Home
from soberano.backends.tree import node
from soberano.core.errors import CapacityError
from soberano.core.types import Array
from soberano.ops.attention import attention, write_kv

PAGE = 32
"""Tokens in a page: with float16 keys one cache line per row of a transposed page."""


@node()
@dataclass(frozen=True)
class Cache:
    """Keys and values of all layers, with the places that the tokens of this step take in it.

    k (L, P, K, E, page), v (L, P, K, page, E); positions (B, T), table (B, N), layer () int32: see
    soberano.ops.attention.
    """

    k: Array
    v: Array
    positions: Array
    table: Array
    layer: Array | int = 0

    def at(self, layer: Array | int) -> "Cache":
        """The same cache, as layer `layer` sees it."""
        return replace(self, layer=layer)

    def write(self, k: Array, v: Array) -> "Cache":
        """Put k, v (B, T, K, E) at the positions of this step. Consumes this cache: use what it returns."""
        new_k, new_v = write_kv(self.k, self.v, k, v, self.positions, self.table, self.layer)
        return replace(self, k=new_k, v=new_v)

    def attend(self, q: Array, *, scale: float | None = None) -> Array:
        """Attend from q (B, T, H, E) to what each token may see -> (B, T, H, E)."""
        return attention(q, self.k, self.v, self.positions, self.table, self.layer, scale=scale)


def empty_pages(home: Home, layers: int, pages: int, kv_heads: int, width: int, dtype: Any) -> tuple[Array, Array]:
    """Make the page arrays of a cache: (L, P, K, E, page) and (L, P, K, page, E), zero."""
    keys = home.xp.zeros((layers, pages, kv_heads, width, PAGE), dtype)
    return keys, home.xp.zeros((layers, pages, kv_heads, PAGE, width), dtype)


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
