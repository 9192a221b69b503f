"""Qwen 1.5 and 2 with experts (A2.7B, 57B-A14B): Qwen 2's attention, a mixture, and an expert that all tokens share.

Source: arXiv:2407.10671. A field of Block is the tensor blk.<i>.<field>.weight, or its .bias. Axes: B batch, T new
tokens, D width, H query heads, K key heads, E head width, F width of an expert, G width of the shared one, X experts,
V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

from soberano.core.types import Array
from soberano.models import decoder, mixture
from soberano.models.cache import Cache
from soberano.models.decoder import Decoder, common_numbers
from soberano.models.layers import Metadata, each_layer
from soberano.models.mixture import mixture_numbers
from soberano.models.qwen2 import attention
from soberano.ops.activation import sigmoid
from soberano.ops.feed_forward import feed_forward
from soberano.ops.linear import embed, linear
from soberano.ops.norm import rms_norm
from soberano.ops.rope import Rotation
from soberano.quant.tensor import Experts, Stack


@dataclass(frozen=True)
class Config(mixture.Config):
    """The numbers of the model, as its file states them."""

    shared_ffn: int

    @classmethod
    def from_gguf(cls, meta: Metadata) -> "Config":
        """Read the keys qwen2moe.*; raises FileError naming a key that is missing or wrong."""
        numbers = common_numbers(meta)
        shared = meta.whole("expert_shared_feed_forward_length", numbers["ffn"])
        return cls(**numbers, **mixture_numbers(meta), shared_ffn=shared)


class Block(NamedTuple):
    """The weights of one layer; in a loaded model, of all layers."""

    attn_norm: Stack  # (D,)
    attn_q: Stack  # (H*E, D)
    attn_q_bias: Stack  # (H*E,)
    attn_k: Stack  # (K*E, D)
    attn_k_bias: Stack  # (K*E,)
    attn_v: Stack  # (K*E, D)
    attn_v_bias: Stack  # (K*E,)
    attn_output: Stack  # (D, H*E)
    ffn_norm: Stack  # (D,)
    ffn_gate_inp: Stack  # (X, D)
    ffn_gate_exps: Experts  # (X, F, D)
    ffn_up_exps: Experts  # (X, F, D)
    ffn_down_exps: Experts  # (X, D, F)
    ffn_gate_inp_shexp: Stack  # (1, D)
    ffn_gate_shexp: Stack  # (G, D)
    ffn_up_shexp: Stack  # (G, D)
    ffn_down_shexp: Stack  # (D, G)


Weights, Layer, logits = Decoder, Block, decoder.logits


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every field; a loader holds a file to it."""
    return mixture.shapes(c) | {
        "ffn_gate_inp_shexp": (1, c.width),
        "ffn_gate_shexp": (c.shared_ffn, c.width),
        "ffn_up_shexp": (c.shared_ffn, c.width),
        "ffn_down_shexp": (c.width, c.shared_ffn),
    }


def block(w: Block, x: Array, cache: Cache, turn: Rotation, c: Config) -> tuple[Array, Cache]:
    """Run one layer: x (B, T, D) -> (B, T, D), and the cache with the new keys and values."""
    x, cache = attention(w, x, cache, turn, c)
    h = rms_norm(x, w.ffn_norm, eps=c.eps)
    shared = feed_forward(w.ffn_gate_shexp, w.ffn_up_shexp, w.ffn_down_shexp, h)
    share = sigmoid(linear(w.ffn_gate_inp_shexp, h))  # (B, T, 1)
    return x + mixture.mixture(w, h, c, normalise=False) + share * shared, cache


def forward(m: Decoder, tokens: Array, cache: Cache, c: Config) -> tuple[Array, Cache]:
    """Run tokens (B, T) through all layers -> (B, T, D), and the cache with their keys and values."""
    turn = c.rotary.at(cache.positions)
    x = embed(m.token_embd, tokens)  # (B, T, D)
    return each_layer(block, m.blk, x, cache, turn, c)


HUGGING_FACE_TENSORS = decoder.HUGGING_FACE_TENSORS
