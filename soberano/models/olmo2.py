"""OLMo 2 and 3: norms after attention and feed-forward instead of before them, and on all queries and keys together.

OLMo 3 has a window in three layers of four, where it turns without scaling. Sources: arXiv:2501.00656, 2512.13961. A
field of Block is the tensor blk.<i>.<field>.weight. Axes: B batch, T new tokens, D width, H query heads, K key heads,
E head width, F ffn, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

from soberano.core.types import Array
from soberano.models import decoder
from soberano.models.cache import Cache
from soberano.models.decoder import Decoder, common_numbers
from soberano.models.layers import Metadata, each_layer, heads, merge
from soberano.models.rotary import Rotary, read_rotary_of_windows
from soberano.models.windows import Windows, read_windows
from soberano.ops.feed_forward import feed_forward
from soberano.ops.linear import embed, linear, linears
from soberano.ops.norm import rms_norm
from soberano.ops.rope import Rotation
from soberano.quant.tensor import Stack


@dataclass(frozen=True)
class Config(decoder.Config):
    """The numbers of the model, as its file states them."""

    windows: Windows
    near: Rotary  # of the layers with a window

    @classmethod
    def from_gguf(cls, meta: Metadata) -> "Config":
        """Read the keys olmo2.*; raises FileError naming a key that is missing or wrong."""
        numbers = common_numbers(meta)
        far = numbers["rotary"]
        return cls(
            **numbers,
            windows=read_windows(meta, period=4, size=0),
            near=read_rotary_of_windows(meta, far.width, far.base),
        )


class Block(NamedTuple):
    """The weights of one layer; in a loaded model, of all layers."""

    attn_q: Stack  # (H*E, D)
    attn_q_norm: Stack  # (H*E,)
    attn_k: Stack  # (K*E, D)
    attn_k_norm: Stack  # (K*E,)
    attn_v: Stack  # (K*E, D)
    attn_output: Stack  # (D, H*E)
    post_attention_norm: Stack  # (D,)
    ffn_gate: Stack  # (F, D)
    ffn_up: Stack  # (F, D)
    ffn_down: Stack  # (D, F)
    post_ffw_norm: Stack  # (D,)


Weights, Layer, logits = Decoder, Block, decoder.logits


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every field; a loader holds a file to it."""
    return decoder.common_shapes(c) | {"attn_q_norm": (c.heads * c.head,), "attn_k_norm": (c.kv_heads * c.head,)}


def block(w: Block, x: Array, cache: Cache, turn: Rotation, window: Array, c: Config) -> tuple[Array, Cache]:
    """Run one layer: x (B, T, D) -> (B, T, D), and the cache with the new keys and values."""
    q, k, v = linears((w.attn_q, w.attn_k, w.attn_v), x)  # (B, T, H*E or K*E)
    q, k = rms_norm(q, w.attn_q_norm, eps=c.eps), rms_norm(k, w.attn_k_norm, eps=c.eps)
    q, k, v = (heads(y, c.head) for y in (q, k, v))  # (B, T, H or K, E)
    seen, cache = cache.attend(q, k, v, turn, pairing="halves", window=window)  # (B, T, H, E)
    x = x + rms_norm(linear(w.attn_output, merge(seen)), w.post_attention_norm, eps=c.eps)
    h = feed_forward(w.ffn_gate, w.ffn_up, w.ffn_down, x)
    return x + rms_norm(h, w.post_ffw_norm, eps=c.eps), cache


def forward(m: Decoder, tokens: Array, cache: Cache, c: Config) -> tuple[Array, Cache]:
    """Run tokens (B, T) through all layers -> (B, T, D), and the cache with their keys and values."""
    turn = c.windows.choose(c.near.at(cache.positions), c.rotary.at(cache.positions))
    x = embed(m.token_embd, tokens)  # (B, T, D)
    return each_layer(block, m.blk, x, cache, turn, c.windows.of_layers, c)
