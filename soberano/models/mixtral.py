"""Mixtral: llama's block, where a router gives every token to a few of several feed-forward layers.

Source: arXiv:2401.04088. Files say "llama" and that there are experts. A field of Block is the tensor
blk.<i>.<field>.weight. Axes: B batch, T new tokens, D width, H query heads, K key heads, E head width, F ffn, X
experts, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

from soberano.core.types import Array
from soberano.models import decoder, mixture
from soberano.models.cache import Cache
from soberano.models.decoder import Decoder, common_numbers
from soberano.models.layers import Metadata, each_layer
from soberano.models.llama import attention
from soberano.models.mixture import mixture_numbers
from soberano.ops.linear import embed
from soberano.ops.norm import rms_norm
from soberano.ops.rope import Rotation
from soberano.quant.tensor import Experts, Stack


@dataclass(frozen=True)
class Config(mixture.Config):
    """The numbers of the model, as its file states them."""

    @classmethod
    def from_gguf(cls, meta: Metadata) -> "Config":
        """Read the keys llama.*; raises FileError naming a key that is missing or wrong."""
        numbers = common_numbers(meta)
        return cls(**numbers, **mixture_numbers(meta) | {"expert_ffn": numbers["ffn"]})  # an expert is a whole layer


class Block(NamedTuple):
    """The weights of one layer; in a loaded model, of all layers."""

    attn_norm: Stack  # (D,)
    attn_q: Stack  # (H*E, D)
    attn_k: Stack  # (K*E, D)
    attn_v: Stack  # (K*E, D)
    attn_output: Stack  # (D, H*E)
    ffn_norm: Stack  # (D,)
    ffn_gate_inp: Stack  # (X, D)
    ffn_gate_exps: Experts  # (X, F, D)
    ffn_up_exps: Experts  # (X, F, D)
    ffn_down_exps: Experts  # (X, D, F)


Weights, Layer, shapes, logits = Decoder, Block, mixture.shapes, decoder.logits


def block(w: Block, x: Array, cache: Cache, turn: Rotation, c: Config) -> tuple[Array, Cache]:
    """Run one layer: x (B, T, D) -> (B, T, D), and the cache with the new keys and values."""
    x, cache = attention(w, x, cache, turn, c)
    return x + mixture.mixture(w, rms_norm(x, w.ffn_norm, eps=c.eps), c), cache


def forward(m: Decoder, tokens: Array, cache: Cache, c: Config) -> tuple[Array, Cache]:
    """Run tokens (B, T) through all layers -> (B, T, D), and the cache with their keys and values."""
    turn = c.rotary.at(cache.positions)
    x = embed(m.token_embd, tokens)  # (B, T, D)
    return each_layer(block, m.blk, x, cache, turn, c)


HUGGING_FACE_TENSORS = decoder.HUGGING_FACE_TENSORS
PAIRS_INTERLEAVED = True  # rows of queries and keys are in another order there
