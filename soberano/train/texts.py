"""What a model attends to while it is trained: the texts of a batch themselves, and no cache.

A row of a batch holds several texts one after another, so that no place is wasted; a token sees its own text alone, and
its position counts from the beginning of that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from soberano.backends.homes import home_of
from soberano.core.types import Array
from soberano.ops.causal_attention import causal_attention
from soberano.ops.rope import Pairing, Rotation, rope


@dataclass(frozen=True)
class Texts:
    """Stands where a soberano.models.cache.Cache does: a model's file calls `attend` and does not ask which it is."""

    positions: Array  # (B, T) int32
    segments: Array  # (B, T) int32: which text of the row a token belongs to; below 0: padding
    layers: int

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
    ) -> tuple[Array, "Texts"]:
        """Turn q (B, T, H, E) and k (B, T, K, E), attend to the tokens of the same text -> (B, T, H, E), and itself."""
        q, k = rope(q, turn, pairing=pairing), rope(k, turn, pairing=pairing)
        return causal_attention(q, k, v, self.segments, window, sinks, scale=scale, cap=cap), self

    def through(self, layer: Callable[[Any, Array, "Texts"], tuple[Array, "Texts"]], x: Array) -> tuple[Array, "Texts"]:
        """Compute x, _ = layer(i, x, texts) for every layer i. For a gradient, what is inside a layer is made again."""
        home = home_of(x)
        run = home.checkpoint(lambda i, x: layer(i, x, self)[0])
        return home.loop(self.layers, run, x), self
