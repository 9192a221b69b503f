"""What a model's speed could be at most on this machine: weights and cache read once a token, products at the peak."""

from typing import Any

import numpy as np

from soberano.bench import peaks
from soberano.models.model import Model
from soberano.quant.tensor import QTensor, Stack


class Roof:
    """Measures the peaks again whenever asked to, so that they are of the same minutes as what is held against them."""

    def __init__(self, model: Model) -> None:
        self._plan, w, c = model.plan, model.weights, model.config
        output = w.token_embd if w.output is None else w.output
        layers = [member for stack in w.blk if stack is not None for member in _members(stack)]
        self.bytes_per_token = sum(map(_bytes, [*layers, output]))
        self.bytes_per_seen = 2 * c.layers * c.kv_heads * c.head * np.dtype(model.cache_dtype).itemsize
        self.operations_per_token = sum(map(_operations, layers))  # of a prompt: its last token alone is given logits
        self._arithmetic = peaks.arithmetic_of(model.plan, "prompt")
        self._data = np.ones(
            self.bytes_per_token // 8, np.uint64
        )  # as much as the weights: what fits a cache, does here
        self._read: list[float] = []
        self._multiply: list[float] = []

    def measure(self) -> None:
        """Measure both peaks once."""
        self._read.append(peaks.read_gbs(self._plan, self._data))
        self._multiply.append(peaks.gigaops(self._plan)[self._arithmetic])

    @property
    def read_gbs(self) -> float:
        """GB/s at which as many bytes as the weights have can be read: the best that was seen."""
        return max(self._read)

    @property
    def gigaops(self) -> float:
        """Billions of operations per second in the arithmetic of a prompt: the best that was seen."""
        return max(self._multiply)

    def decode_share(self, tokens_per_second: float, seen: float) -> float:
        """The share of the memory's speed that reading weights, and a cache of `seen` tokens, once a token takes."""
        return (self.bytes_per_token + seen * self.bytes_per_seen) * tokens_per_second / (1e9 * self.read_gbs)

    def prefill_share(self, tokens_per_second: float) -> float:
        """The share of the arithmetic's peak that the products of the layers take."""
        return self.operations_per_token * tokens_per_second / (1e9 * self.gigaops)

    def to_text(self) -> str:
        """One line for a person."""
        return (
            f"this machine reads {self.bytes_per_token / 1e6:.0f} MB at {self.read_gbs:.1f} GB/s "
            f"and multiplies {self._arithmetic} at {self.gigaops / 1e3:.2f} Top/s, with {self._plan.threads} threads"
        )


def _members(stack: Stack | Any) -> list[Any]:
    return list(stack.members) if isinstance(stack, Stack) else [stack]


def _bytes(weight: Any) -> int:
    return int(weight.data.nbytes if isinstance(weight, QTensor) else weight.nbytes)


def _operations(weight: Any) -> int:
    """Two for each weight of a product; vectors take part in none."""
    if isinstance(weight, QTensor):
        return 2 * weight.shape[0] * weight.shape[1] * int(weight.data.shape[0])
    return 2 * int(weight.size) if weight.ndim > 2 else 0
