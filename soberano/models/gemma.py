"""Gemma: llama's block with a GELU for the gate, embeddings as long as the model is wide, and pairs in halves.

Source: arXiv:2403.08295. A field of llama.Block is the tensor blk.<i>.<field>.weight. Axes: B batch, T new tokens, D
width, H query heads, K key heads, E head width, F ffn, V vocabulary.
"""

from soberano.core.types import Array
from soberano.models import decoder
from soberano.models.cache import Cache
from soberano.models.decoder import Config, Decoder
from soberano.models.layers import each_layer, heads, merge
from soberano.models.llama import Block
from soberano.ops.feed_forward import feed_forward
from soberano.ops.linear import embed, linear, linears
from soberano.ops.norm import rms_norm
from soberano.ops.rope import Rotation

Weights, Layer, shapes, logits = Decoder, Block, decoder.common_shapes, decoder.logits


def block(w: Block, x: Array, cache: Cache, turn: Rotation, c: Config) -> tuple[Array, Cache]:
    """Run one layer: x (B, T, D) -> (B, T, D), and the cache with the new keys and values."""
    h = rms_norm(x, w.attn_norm, eps=c.eps)
    q, k, v = (heads(y, c.head) for y in linears((w.attn_q, w.attn_k, w.attn_v), h))  # (B, T, H or K, E)
    seen, cache = cache.attend(q, k, v, turn, pairing="halves")  # (B, T, H, E)
    x = x + linear(w.attn_output, merge(seen))
    h = rms_norm(x, w.ffn_norm, eps=c.eps)
    return x + feed_forward(w.ffn_gate, w.ffn_up, w.ffn_down, h, activation="gelu"), cache


def forward(m: Decoder, tokens: Array, cache: Cache, c: Config) -> tuple[Array, Cache]:
    """Run tokens (B, T) through all layers -> (B, T, D), and the cache with their keys and values."""
    turn = c.rotary.at(cache.positions)
    x = embed(m.token_embd, tokens) * c.width**0.5  # (B, T, D)
    return each_layer(block, m.blk, x, cache, turn, c)
