"""Qwen 3 with experts (30B-A3B, 235B-A22B, Qwen3-Coder): Qwen 3's attention, and a mixture of many small experts.

Source: arXiv:2505.09388. A field of Block is the tensor blk.<i>.<field>.weight. Axes: B batch, T new tokens, D width,
H query heads, K key heads, E head width, F width of an expert, X experts, V vocabulary.
"""

from typing import NamedTuple

from soberano.core.types import Array
from soberano.models import decoder, mixture, qwen3
from soberano.models.cache import Cache
from soberano.models.decoder import Decoder
from soberano.models.layers import each_layer
from soberano.models.mixture import Config
from soberano.models.qwen3 import attention
from soberano.ops.linear import embed
from soberano.ops.norm import rms_norm
from soberano.ops.rope import Rotation
from soberano.quant.tensor import Experts, Stack


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
    ffn_gate_inp: Stack  # (X, D)
    ffn_gate_exps: Experts  # (X, F, D)
    ffn_up_exps: Experts  # (X, F, D)
    ffn_down_exps: Experts  # (X, D, F)


Weights, Layer, logits = Decoder, Block, decoder.logits


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every field; a loader holds a file to it."""
    return mixture.shapes(c) | {"attn_q_norm": (c.head,), "attn_k_norm": (c.head,)}


def block(w: Block, x: Array, cache: Cache, turn: Rotation, c: Config) -> tuple[Array, Cache]:
    """Run one layer: x (B, T, D) -> (B, T, D), and the cache with the new keys and values."""
    x, cache = attention(w, x, cache, turn, c)
    return x + mixture.mixture(w, rms_norm(x, w.ffn_norm, eps=c.eps), c), cache


def forward(m: Decoder, tokens: Array, cache: Cache, c: Config) -> tuple[Array, Cache]:
    """Run tokens (B, T) through all layers -> (B, T, D), and the cache with their keys and values."""
    turn = c.rotary.at(cache.positions)
    x = embed(m.token_embd, tokens)  # (B, T, D)
    return each_layer(block, m.blk, x, cache, turn, c)


HUGGING_FACE_TENSORS = qwen3.HUGGING_FACE_TENSORS
