"""Llama 2 and 3, SmolLM2, and every model that shares their block: RMS norm, rotary grouped attention, SwiGLU.

Sources: arXiv:2307.09288, arXiv:2407.21783; tensor names as in GGUF. A field of Block is the tensor
blk.<i>.<field>.weight. Axes: B batch, T new tokens, D width, H query heads, K key heads, E head width, F ffn, V
vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

from soberano.core.types import Array
from soberano.models.cache import Cache
from soberano.models.layers import Metadata, each_layer, heads, last_tokens, merge, rope_factors, rope_scale, rope_width
from soberano.ops.feed_forward import feed_forward
from soberano.ops.linear import embed, linear, linears
from soberano.ops.norm import rms_norm
from soberano.ops.rope import Rotation, rotation
from soberano.quant.tensor import Stack, Weight


@dataclass(frozen=True)
class Config:
    """The numbers of the model, as its file states them."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head: int
    ffn: int
    vocabulary: int
    context: int
    eps: float
    rope_width: int
    rope_base: float
    rope_scale: float
    rope_factors: tuple[float, ...] | None

    @classmethod
    def from_gguf(cls, meta: Metadata) -> "Config":
        """Read the keys llama.*; raises FileError naming a key that is missing or wrong."""
        count, width = meta.whole("attention.head_count"), meta.whole("embedding_length")
        kv_heads = meta.whole("attention.head_count_kv", count)
        if count % kv_heads:
            meta.fail("attention.head_count_kv", kv_heads, f"a divisor of the {count} query heads")
        head = meta.whole("attention.key_length", width // count)
        turned = rope_width(meta, head)
        return cls(
            layers=meta.layers,
            width=width,
            heads=count,
            kv_heads=kv_heads,
            head=head,
            ffn=meta.whole("feed_forward_length"),
            vocabulary=meta.vocabulary,
            context=meta.whole("context_length"),
            eps=meta.number("attention.layer_norm_rms_epsilon"),
            rope_width=turned,
            rope_base=meta.number("rope.freq_base", 10_000.0),
            rope_scale=rope_scale(meta),
            rope_factors=rope_factors(meta, turned),
        )


class Block(NamedTuple):
    """The weights of one layer; in a loaded model, of all layers."""

    attn_norm: Stack  # (D,)
    attn_q: Stack  # (H*E, D)
    attn_k: Stack  # (K*E, D)
    attn_v: Stack  # (K*E, D)
    attn_output: Stack  # (D, H*E)
    ffn_norm: Stack  # (D,)
    ffn_gate: Stack  # (F, D)
    ffn_up: Stack  # (F, D)
    ffn_down: Stack  # (D, F)


class Llama(NamedTuple):
    """The weights of the model."""

    token_embd: Weight  # (V, D)
    blk: Block
    output_norm: Array  # (D,)
    output: Weight | None = None  # (V, D); the embedding again when the file has none


Weights, Layer = Llama, Block


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every field; a loader holds a file to it."""
    q, kv = c.heads * c.head, c.kv_heads * c.head
    return {
        "token_embd": (c.vocabulary, c.width),
        "output_norm": (c.width,),
        "output": (c.vocabulary, c.width),
        "attn_norm": (c.width,),
        "attn_q": (q, c.width),
        "attn_k": (kv, c.width),
        "attn_v": (kv, c.width),
        "attn_output": (c.width, q),
        "ffn_norm": (c.width,),
        "ffn_gate": (c.ffn, c.width),
        "ffn_up": (c.ffn, c.width),
        "ffn_down": (c.width, c.ffn),
    }


def block(w: Block, x: Array, cache: Cache, turn: Rotation, c: Config) -> tuple[Array, Cache]:
    """Run one layer: x (B, T, D) -> (B, T, D), and the cache with the new keys and values."""
    h = rms_norm(x, w.attn_norm, eps=c.eps)
    q, k, v = (heads(y, c.head) for y in linears((w.attn_q, w.attn_k, w.attn_v), h))  # (B, T, H or K, E)
    seen, cache = cache.attend(q, k, v, turn)  # (B, T, H, E)
    x = x + linear(w.attn_output, merge(seen))
    h = rms_norm(x, w.ffn_norm, eps=c.eps)
    return x + feed_forward(w.ffn_gate, w.ffn_up, w.ffn_down, h), cache


def forward(m: Llama, tokens: Array, cache: Cache, c: Config, last: Array | None = None) -> tuple[Array, Cache]:
    """Run tokens (B, T) through the model -> logits (B, V) of token `last` (B,) of each row; (B, T, V) if None."""
    turn = rotation(cache.positions, c.rope_width, base=c.rope_base, scale=c.rope_scale, factors=c.rope_factors)
    x = embed(m.token_embd, tokens)  # (B, T, D)
    x, cache = each_layer(block, m.blk, x, cache, turn, c)
    x = rms_norm(last_tokens(x, last), m.output_norm, eps=c.eps)
    return linear(m.token_embd if m.output is None else m.output, x), cache
