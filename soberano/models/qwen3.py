"""Qwen 3: llama's block with a norm on every query and key head, and pairs in halves.

Source: arXiv:2505.09388. A field of Block is the tensor blk.<i>.<field>.weight, or its .bias. Axes: B batch, T new
tokens, D width, H query heads, K key heads, E head width, F ffn, V vocabulary.
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
    attn_q_norm: Stack  # (E,)
    attn_k: Stack  # (K*E, D)
    attn_k_norm: Stack  # (E,)
    attn_v: Stack  # (K*E, D)
    attn_output: Stack  # (D, H*E)
    ffn_norm: Stack  # (D,)
    ffn_gate: Stack  # (F, D)
    ffn_up: Stack  # (F, D)
    ffn_down: Stack  # (D, F)


Weights, Layer, logits = Decoder, Block, decoder.logits


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every field; a loader holds a file to it."""
    return decoder.common_shapes(c) | {"attn_q_norm": (c.head,), "attn_k_norm": (c.head,)}


def attention(w: Any, x: Array, cache: Cache, turn: Rotation, c: Config) -> tuple[Array, Cache]:
    """Run the first half of a layer that has this block's attention: x (B, T, D) -> (B, T, D), and the cache."""
    h = rms_norm(x, w.attn_norm, eps=c.eps)
    q, k, v = (heads(y, c.head) for y in linears((w.attn_q, w.attn_k, w.attn_v), h))  # (B, T, H or K, E)
    q, k = rms_norm(q, w.attn_q_norm, eps=c.eps), rms_norm(k, w.attn_k_norm, eps=c.eps)
    seen, cache = cache.attend(q, k, v, turn, pairing="halves")  # (B, T, H, E)
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


HUGGING_FACE_TENSORS = decoder.HUGGING_FACE_TENSORS | {
    "attn_q_norm": "model.layers.*.self_attn.q_norm",
    "attn_k_norm": "model.layers.*.self_attn.k_norm",
}
