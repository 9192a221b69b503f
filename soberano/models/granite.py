"""Granite 3: llama's block with a factor on embeddings, attention, residuals and logits.

Source: arXiv:2408.13359 (the factors), Hugging Face's granite. A field of Block is the tensor blk.<i>.<field>.weight.
Axes: B batch, T new tokens, D width, H query heads, K key heads, E head width, F ffn, V vocabulary.
"""

from dataclasses import dataclass

from soberano.core.types import Array
from soberano.models import decoder
from soberano.models.cache import Cache
from soberano.models.decoder import Decoder, common_numbers
from soberano.models.layers import Metadata, each_layer, heads, merge
from soberano.models.llama import Block
from soberano.ops.feed_forward import feed_forward
from soberano.ops.linear import embed, linear, linears
from soberano.ops.norm import rms_norm
from soberano.ops.rope import Rotation


@dataclass(frozen=True)
class Config(decoder.Config):
    """The numbers of the model, as its file states them."""

    embedding_scale: float
    attention_scale: float
    residual_scale: float
    logit_scale: float

    @classmethod
    def from_gguf(cls, meta: Metadata) -> "Config":
        """Read the keys granite.*; raises FileError naming a key that is missing or wrong."""
        meta.only("rope.scaling.finetuned", True)  # false: a model without positions
        return cls(
            **common_numbers(meta),
            embedding_scale=meta.factor("embedding_scale"),
            attention_scale=meta.amount("attention.scale", 0.0),
            residual_scale=meta.factor("residual_scale"),
            logit_scale=meta.factor("logit_scale"),
        )


Weights, Layer, shapes = Decoder, Block, decoder.common_shapes


def block(w: Block, x: Array, cache: Cache, turn: Rotation, c: Config) -> tuple[Array, Cache]:
    """Run one layer: x (B, T, D) -> (B, T, D), and the cache with the new keys and values."""
    h = rms_norm(x, w.attn_norm, eps=c.eps)
    q, k, v = (heads(y, c.head) for y in linears((w.attn_q, w.attn_k, w.attn_v), h))  # (B, T, H or K, E)
    seen, cache = cache.attend(q, k, v, turn, scale=c.attention_scale or None)  # (B, T, H, E)
    x = x + linear(w.attn_output, merge(seen)) * c.residual_scale
    h = rms_norm(x, w.ffn_norm, eps=c.eps)
    return x + feed_forward(w.ffn_gate, w.ffn_up, w.ffn_down, h) * c.residual_scale, cache


def forward(m: Decoder, tokens: Array, cache: Cache, c: Config) -> tuple[Array, Cache]:
    """Run tokens (B, T) through all layers -> (B, T, D), and the cache with their keys and values."""
    turn = c.rotary.at(cache.positions)
    x = embed(m.token_embd, tokens) * c.embedding_scale  # (B, T, D)
    return each_layer(block, m.blk, x, cache, turn, c)


def logits(m: Decoder, x: Array, c: Config) -> Array:
    """From what the last layer made, x (..., D), to logits (..., V)."""
    return decoder.logits(m, x, c) / c.logit_scale


HUGGING_FACE_TENSORS = decoder.HUGGING_FACE_TENSORS
PAIRS_INTERLEAVED = True  # rows of queries and keys are in another order there
