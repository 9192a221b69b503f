"""What decoders share: the numbers of a transformer with rotary grouped attention, its outer weights, its head.

A file of this folder adds what is its own: a block, and the numbers and tensors that only it has.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from soberano.core.types import Array
from soberano.models.layers import Metadata
from soberano.models.rotary import Rotary, read_rotary
from soberano.ops.linear import linear
from soberano.ops.norm import rms_norm
from soberano.quant.tensor import Weight


@dataclass(frozen=True)
class Config:
    """The numbers of a model, as its file states them."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    ffn: int
    vocabulary: int
    context: int
    eps: float
    rotary: Rotary

    @classmethod
    def from_gguf(cls, meta: Metadata) -> Self:
        """Read the keys of an architecture that has no others. Raises FileError naming one that is missing or wrong."""
        return cls(**common_numbers(meta))


class Decoder(NamedTuple):
    """The weights of a model around its layers."""

    token_embd: Weight  # (V, D)
    blk: Any  # the Layer of the architecture, of all layers
    output_norm: Array  # (D,)
    output: Weight | None = None  # (V, D); the embedding again when the file has none


def common_numbers(meta: Metadata) -> dict[str, Any]:
    """Read the fields of Config from the keys that decoders share.

    Raises FileError naming a key that is missing or wrong.
    """
    count, width = meta.whole("attention.head_count"), meta.whole("embedding_length")
    kv_heads = meta.whole("attention.head_count_kv", count)
    if count % kv_heads:
        meta.fail("attention.head_count_kv", kv_heads, f"a divisor of the {count} query heads")
    head = meta.whole("attention.key_length", width // count)
    return {
        "layers": meta.layers,
        "width": width,
        "heads": count,
        "kv_heads": kv_heads,
        "head": head,
        "ffn": meta.whole("feed_forward_length"),
        "vocabulary": meta.vocabulary,
        "context": meta.whole("context_length"),
        "eps": meta.number("attention.layer_norm_rms_epsilon"),
        "rotary": read_rotary(meta, head),
    }


def common_shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors that most decoders have; a bias is as long as its product is wide."""
    q, kv = c.heads * c.head, c.kv_heads * c.head
    matrices: dict[str, tuple[int, ...]] = {
        "output": (c.vocabulary, c.width),
        "attn_q": (q, c.width),
        "attn_k": (kv, c.width),
        "attn_v": (kv, c.width),
        "attn_output": (c.width, q),
        "ffn_gate": (c.ffn, c.width),
        "ffn_up": (c.ffn, c.width),
        "ffn_down": (c.width, c.ffn),
    }
    biases = {f"{name}_bias": shape[:1] for name, shape in matrices.items()}
    norms = ("output_norm", "attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm")
    return {"token_embd": (c.vocabulary, c.width)} | matrices | biases | dict.fromkeys(norms, (c.width,))


HUGGING_FACE_TENSORS = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "model.layers.*.input_layernorm",
    "attn_q": "model.layers.*.self_attn.q_proj",
    "attn_k": "model.layers.*.self_attn.k_proj",
    "attn_v": "model.layers.*.self_attn.v_proj",
    "attn_output": "model.layers.*.self_attn.o_proj",
    "attn_qkv": "model.layers.*.self_attn.qkv_proj",
    "ffn_norm": "model.layers.*.post_attention_layernorm",
    "ffn_gate": "model.layers.*.mlp.gate_proj",
    "ffn_up": "model.layers.*.mlp.up_proj",
    "ffn_down": "model.layers.*.mlp.down_proj",
}
"""What most decoders call their tensors in a Hugging Face folder."""


def logits(m: Decoder, x: Array, c: Config) -> Array:
    """From what the last layer made, x (..., D), to logits (..., V)."""
    x = rms_norm(x, m.output_norm, eps=c.eps)
    return linear(m.token_embd if m.output is None else m.output, x)
