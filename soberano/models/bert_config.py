"""What the family of BERT shares: the numbers of an encoder whose tokens have types, as its file states them."""

from dataclasses import dataclass
from typing import Any

from soberano.models.layers import Metadata, widths


@dataclass(frozen=True)
class Config:
    """The numbers of a model. One that has others as well adds them to these."""

    layers: int
    width: int
    heads: int
    head: int
    ffn: int
    vocabulary: int
    context: int
    types: int
    eps: float


def common_numbers(meta: Metadata) -> dict[str, Any]:
    """Read the fields of Config. Raises FileError naming a key that is missing or wrong."""
    width, count, head = widths(meta)
    meta.only("attention.causal", False)
    return {
        "layers": meta.layers,
        "width": width,
        "heads": count,
        "head": head,
        "ffn": meta.whole("feed_forward_length"),
        "vocabulary": meta.vocabulary,
        "context": meta.whole("context_length"),
        "types": meta.rows("token_types"),
        "eps": meta.number("attention.layer_norm_epsilon"),
    }
