"""Ministral 3 and Mistral Small 3: llama's block, with queries that grow with their position in very long texts.

Source: Hugging Face's mistral3 and ministral3. A field of llama.Block is the tensor blk.<i>.<field>.weight. Axes: B
batch, T new tokens, D width, H query heads, K key heads, E head width, F ffn, V vocabulary.
"""

from dataclasses import dataclass

from soberano.backends.homes import home_of
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

    growth: float  # of queries, each time a text is `original` tokens longer
    original: int

    @classmethod
    def from_gguf(cls, meta: Metadata) -> "Config":
        """Read the keys mistral3.*; raises FileError naming a key that is missing or wrong."""
        return cls(
            **common_numbers(meta),
            growth=meta.amount("attention.temperature_scale", 0.0),
            original=meta.whole("rope.scaling.original_context_length", meta.whole("context_length")),
        )


Weights, Layer, shapes, logits = Decoder, Block, decoder.common_shapes, decoder.logits


def block(w: Block, x: Array, cache: Cache, turn: Rotation, grown: Array, c: Config) -> tuple[Array, Cache]:
    """Run one layer: x (B, T, D) -> (B, T, D), and the cache with the new keys and values."""
    h = rms_norm(x, w.attn_norm, eps=c.eps)
    q, k, v = (heads(y, c.head) for y in linears((w.attn_q, w.attn_k, w.attn_v), h))  # (B, T, H or K, E)
    seen, cache = cache.attend(q * grown, k, v, turn)  # (B, T, H, E)
    x = x + linear(w.attn_output, merge(seen))
    h = rms_norm(x, w.ffn_norm, eps=c.eps)
    return x + feed_forward(w.ffn_gate, w.ffn_up, w.ffn_down, h), cache


def forward(m: Decoder, tokens: Array, cache: Cache, c: Config) -> tuple[Array, Cache]:
    """Run tokens (B, T) through all layers -> (B, T, D), and the cache with their keys and values."""
    xp = home_of(tokens).xp
    turn = c.rotary.at(cache.positions)
    times = (cache.positions // c.original).astype(xp.float32)[:, :, None, None]  # (B, T, 1, 1)
    grown = 1 + c.growth * xp.log(1 + xp.maximum(times, 0))
    x = embed(m.token_embd, tokens)  # (B, T, D)
    return each_layer(block, m.blk, x, cache, turn, grown, c)


HUGGING_FACE_TENSORS = decoder.HUGGING_FACE_TENSORS
PAIRS_INTERLEAVED = True  # rows of queries and keys are in another order there
