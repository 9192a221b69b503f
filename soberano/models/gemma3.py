"""Gemma 3: norms on both sides of attention and feed-forward and on every head; five layers in six look at a window.

Source: arXiv:2503.19786. A field of Block is the tensor blk.<i>.<field>.weight. Axes: B batch, T new tokens, D width,
H query heads, K key heads, E head width, F ffn, V vocabulary.
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
from soberano.ops.activation import soft_cap
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
    scale: float  # of scores
    cap: float  # of logits; 0: none

    @classmethod
    def from_gguf(cls, meta: Metadata) -> "Config":
        """Read the keys gemma3.*; raises FileError naming a key that is missing or wrong.

        What files leave out: every sixth layer sees everything, the others turn with base 10,000, and the largest
        model, of 62 layers, scales scores by its width for each head.
        """
        numbers = common_numbers(meta)
        head = numbers["width"] // numbers["heads"] if numbers["layers"] == 62 else numbers["head"]
        return cls(
            **numbers,
            windows=read_windows(meta, period=6, size=0),
            near=read_rotary_of_windows(meta, numbers["rotary"].width, 10_000.0),
            scale=head**-0.5,
            cap=meta.amount("final_logit_softcapping", 0.0),
        )


class Block(NamedTuple):
    """The weights of one layer; in a loaded model, of all layers."""

    attn_norm: Stack  # (D,)
    attn_q: Stack  # (H*E, D)
    attn_q_norm: Stack  # (E,)
    attn_k: Stack  # (K*E, D)
    attn_k_norm: Stack  # (E,)
    attn_v: Stack  # (K*E, D)
    attn_output: Stack  # (D, H*E)
    post_attention_norm: Stack  # (D,)
    ffn_norm: Stack  # (D,)
    ffn_gate: Stack  # (F, D)
    ffn_up: Stack  # (F, D)
    ffn_down: Stack  # (D, F)
    post_ffw_norm: Stack  # (D,)


Weights, Layer = Decoder, Block


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every field; a loader holds a file to it."""
    return decoder.common_shapes(c) | {"attn_q_norm": (c.head,), "attn_k_norm": (c.head,)}


def block(w: Block, x: Array, cache: Cache, turn: Rotation, window: Array, c: Config) -> tuple[Array, Cache]:
    """Run one layer: x (B, T, D) -> (B, T, D), and the cache with the new keys and values."""
    h = rms_norm(x, w.attn_norm, eps=c.eps)
    q, k, v = (heads(y, c.head) for y in linears((w.attn_q, w.attn_k, w.attn_v), h))  # (B, T, H or K, E)
    q, k = rms_norm(q, w.attn_q_norm, eps=c.eps), rms_norm(k, w.attn_k_norm, eps=c.eps)
    seen, cache = cache.attend(q, k, v, turn, pairing="halves", scale=c.scale, window=window)  # (B, T, H, E)
    x = x + rms_norm(linear(w.attn_output, merge(seen)), w.post_attention_norm, eps=c.eps)
    h = rms_norm(x, w.ffn_norm, eps=c.eps)
    h = feed_forward(w.ffn_gate, w.ffn_up, w.ffn_down, h, activation="gelu")
    return x + rms_norm(h, w.post_ffw_norm, eps=c.eps), cache


def forward(m: Decoder, tokens: Array, cache: Cache, c: Config) -> tuple[Array, Cache]:
    """Run tokens (B, T) through all layers -> (B, T, D), and the cache with their keys and values."""
    turn = c.windows.choose(c.near.at(cache.positions), c.rotary.at(cache.positions))
    x = embed(m.token_embd, tokens) * c.width**0.5  # (B, T, D)
    return each_layer(block, m.blk, x, cache, turn, c.windows.of_layers, c)


def logits(m: Decoder, x: Array, c: Config) -> Array:
    """From what the last layer made, x (..., D), to logits (..., V)."""
    return soft_cap(decoder.logits(m, x, c), cap=c.cap)


HUGGING_FACE_TENSORS = decoder.HUGGING_FACE_TENSORS | {
    "post_attention_norm": "model.layers.*.post_attention_layernorm",
    "ffn_norm": "model.layers.*.pre_feedforward_layernorm",
    "post_ffw_norm": "model.layers.*.post_feedforward_layernorm",
    "attn_q_norm": "model.layers.*.self_attn.q_norm",
    "attn_k_norm": "model.layers.*.self_attn.k_norm",
}
