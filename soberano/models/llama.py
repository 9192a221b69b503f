"""Llama 2 and 3, Mistral, SmolLM2, and every model that shares their block: RMS norm, rotary grouped attention, SwiGLU.

Sources: arXiv:2307.09288, arXiv:2407.21783; tensor names as in GGUF. A field of Block is the tensor
blk.<i>.<field>.weight. Axes: B batch, T new tokens, D width, H query heads, K key heads, E head width, F ffn, V
vocabulary.
"""

from typing import Any, NamedTuple

from soberano.core.types import Array
from soberano.models import decoder
from soberano.models.cache import Cache
from soberano.models.decoder import Config, Decoder
from soberano.models.layers import each_layer, heads, merge
from soberano.ops.feed_forward import feed_forward
from soberano.ops.linear import embed, linear, linears
from soberano.ops.norm import rms_norm
from soberano.ops.rope import Rotation
from soberano.quant.tensor import Stack


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


Weights, Layer, shapes, logits = Decoder, Block, decoder.common_shapes, decoder.logits


def attention(w: Any, x: Array, cache: Cache, turn: Rotation, c: Config) -> tuple[Array, Cache]:
    """Run the first half of a layer that has this block's attention: x (B, T, D) -> (B, T, D), and the cache."""
    h = rms_norm(x, w.attn_norm, eps=c.eps)
    q, k, v = (heads(y, c.head) for y in linears((w.attn_q, w.attn_k, w.attn_v), h))  # (B, T, H or K, E)
    seen, cache = cache.attend(q, k, v, turn)  # (B, T, H, E)
    return x + linear(w.attn_output, merge(seen)), cache


def block(w: Block, x: Array, cache: Cache, turn: Rotation, c: Config) -> tuple[Array, Cache]:
    """Run one layer: x (B, T, D) -> (B, T, D), and the cache with the new keys and values."""
    x, cache = attention(w, x, cache, turn, c)
    h = rms_norm(x, w.ffn_norm, eps=c.eps)
    return x + feed_forward(w.ffn_gate, w.ffn_up, w.ffn_down, h), cache


def forward(m: Decoder, tokens: Array, cache: Cache, c: Config) -> tuple[Array, Cache]:
    """Run tokens (B, T) through all layers -> (B, T, D), and the cache with their keys and values."""
    turn = c.rotary.at(cache.positions)
    x = embed(m.token_embd, tokens)  # (B, T, D)
    return each_layer(block, m.blk, x, cache, turn, c)


HUGGING_FACE_TENSORS = decoder.HUGGING_FACE_TENSORS
MIXTURE = "mixtral"
PAIRS_INTERLEAVED = True  # rows of queries and keys are in another order there
