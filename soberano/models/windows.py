"""Sliding windows: layers whose tokens see only the last few tokens before them, among layers that see all."""

from dataclasses import dataclass
from typing import Any

from soberano.models.layers import Metadata, PerLayer

EVERYTHING = 0
"""The window of a layer that has none, as soberano.ops.attention takes it."""


@dataclass(frozen=True)
class Windows:
    """The layers that look no further back than `size` tokens are the `local` ones."""

    size: int
    local: tuple[bool, ...]

    def choose(self, here: Any, elsewhere: Any) -> PerLayer:
        """A value that is `here` in local layers and `elsewhere` in the others."""
        return PerLayer.of(self.local, here, elsewhere)

    @property
    def of_layers(self) -> PerLayer:
        """The window of each layer."""
        return self.choose(self.size, EVERYTHING)


def read_windows(meta: Metadata, period: int, size: int | None = None) -> Windows:
    """The windows that a file asks for; every `period`-th layer sees everything, unless the file says which do.

    A file may leave the size out where its architecture knows one. Size 0: no layer is local.
    """
    found = int(meta.amount("attention.sliding_window", size))
    local = meta.pattern("attention.sliding_window_pattern", period)
    return Windows(found, tuple(found > 0 and each for each in local))
