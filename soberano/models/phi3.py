"""Phi 3 and Phi 4 mini: llama's block with fused products, and rotary factors for short and for long contexts.

Source: arXiv:2404.14219. A field of Block is the tensor blk.<i>.<field>.weight. Axes: B batch, T new tokens, D width,
H query heads, K key heads, E head width, F ffn, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

from soberano.core.types import Array
from soberano.models import decoder
from soberano.models.cache import Cache
from soberano.models.decoder import Decoder, common_numbers
from soberano.models.layers import Metadata, each_layer, heads, merge, split
from soberano.models.windows import Windows, read_windows
from soberano.ops.activation import swiglu
from soberano.ops.linear import embed, linear
from soberano.ops.norm import rms_norm
from soberano.ops.rope import Rotation
from soberano.quant.tensor import Stack


@dataclass(frozen=True)
class Config(decoder.Config):
    """The numbers of the model, as its file states them."""

    windows: Windows

    @classmethod
    def from_gguf(cls, meta: Metadata) -> "Config":
        """Read the keys phi3.*; raises FileError naming a key that is missing or wrong."""
        return cls(**common_numbers(meta), windows=read_windows(meta, period=0, size=0))  # all layers, or none


class Block(NamedTuple):
    """The weights of one layer; in a loaded model, of all layers."""

    attn_norm: Stack  # (D,)
    attn_qkv: Stack  # (H*E + 2*K*E, D)
    attn_output: Stack  # (D, H*E)
    ffn_norm: Stack  # (D,)
    ffn_up: Stack  # (2*F, D): the gate, then what it gates
    ffn_down: Stack  # (D, F)


Weights, Layer, logits = Decoder, Block, decoder.logits


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every field; a loader holds a file to it."""
    fused = (c.heads + 2 * c.kv_heads) * c.head
    return decoder.common_shapes(c) | {"attn_qkv": (fused, c.width), "ffn_up": (2 * c.ffn, c.width)}


def block(w: Block, x: Array, cache: Cache, turn: Rotation, window: Array, c: Config) -> tuple[Array, Cache]:
    """Run one layer: x (B, T, D) -> (B, T, D), and the cache with the new keys and values."""
    h = rms_norm(x, w.attn_norm, eps=c.eps)
    q, k, v = split(linear(w.attn_qkv, h), c.heads * c.head, c.kv_heads * c.head, c.kv_heads * c.head)
    q, k, v = (heads(y, c.head) for y in (q, k, v))  # (B, T, H or K, E)
    seen, cache = cache.attend(q, k, v, turn, pairing="halves", window=window)  # (B, T, H, E)
    x = x + linear(w.attn_output, merge(seen))
    h = rms_norm(x, w.ffn_norm, eps=c.eps)
    gate, up = split(linear(w.ffn_up, h), c.ffn, c.ffn)  # (B, T, F)
    return x + linear(w.ffn_down, swiglu(gate, up)), cache


def forward(m: Decoder, tokens: Array, cache: Cache, c: Config) -> tuple[Array, Cache]:
    """Run tokens (B, T) through all layers -> (B, T, D), and the cache with their keys and values."""
    turn = c.rotary.at(cache.positions)
    x = embed(m.token_embd, tokens)  # (B, T, D)
    return each_layer(block, m.blk, x, cache, turn, c.windows.of_layers, c)
