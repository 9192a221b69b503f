"""What mixtures of experts share: how many experts there are, their tensors, and the router that chooses some.

A block of such a model has a mixture in the place of its feed-forward layer. Axes as in soberano.ops.experts.
"""

from dataclasses import dataclass
from typing import Any, Self

from soberano.core.types import Array
from soberano.models import decoder
from soberano.models.decoder import common_numbers, common_shapes
from soberano.models.layers import Metadata
from soberano.ops.experts import experts, route
from soberano.ops.linear import linear


@dataclass(frozen=True)
class Config(decoder.Config):
    """The numbers of a model, as its file states them."""

    experts: int
    used: int  # by a token
    expert_ffn: int

    @classmethod
    def from_gguf(cls, meta: Metadata) -> Self:
        """Read the keys of an architecture that has no others. Raises FileError naming one that is missing or wrong."""
        return cls(**common_numbers(meta), **mixture_numbers(meta))


def mixture_numbers(meta: Metadata) -> dict[str, Any]:
    """Read the fields that Config adds. Raises FileError naming a key that is missing or wrong.

    Where a file does not say how wide an expert is, those of a token are together as wide as a feed-forward layer.
    """
    count, used = meta.whole("expert_count"), meta.whole("expert_used_count")
    if used > count:
        meta.fail("expert_used_count", used, f"at most {count}, as many as there are experts")
    share = max(1, meta.whole("feed_forward_length") // used)
    return {"experts": count, "used": used, "expert_ffn": meta.whole("expert_feed_forward_length", share)}


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that most decoders with experts have."""
    return common_shapes(c) | {
        "ffn_gate_inp": (c.experts, c.width),
        "ffn_gate_exps": (c.experts, c.expert_ffn, c.width),
        "ffn_up_exps": (c.experts, c.expert_ffn, c.width),
        "ffn_down_exps": (c.experts, c.width, c.expert_ffn),
    }


def mixture(w: Any, h: Array, c: Config, *, normalise: bool = True) -> Array:
    """Run the mixture of a layer: h (B, T, D) -> (B, T, D). The weights of those chosen add up to 1 if `normalise`."""
    ids, weights = route(linear(w.ffn_gate_inp, h), count=c.used, normalise=normalise)  # (B, T, k)
    return experts(w.ffn_gate_exps, w.ffn_up_exps, w.ffn_down_exps, h, ids, weights)
