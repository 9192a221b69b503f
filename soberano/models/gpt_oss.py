"""gpt-oss: experts with biases and a clamped gate, heads that may see nothing (sinks), a window in every other layer.

Source: arXiv:2508.10925. A field of Block is the tensor blk.<i>.<field>.weight, or its .bias. Axes: B batch, T new
tokens, D width, H query heads, K key heads, E head width, F width of an expert, X experts, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

from soberano.core.types import Array
from soberano.models import decoder, mixture
from soberano.models.cache import Cache
from soberano.models.decoder import Decoder, common_numbers
from soberano.models.layers import Metadata, each_layer, heads, merge
from soberano.models.mixture import mixture_numbers
from soberano.models.windows import Windows, read_windows
from soberano.ops.experts import Biases, experts, route
from soberano.ops.linear import embed, linear, linears
from soberano.ops.norm import rms_norm
from soberano.ops.rope import Rotation
from soberano.quant.tensor import Experts, Stack


@dataclass(frozen=True)
class Config(mixture.Config):
    """The numbers of the model, as its file states them."""

    windows: Windows

    @classmethod
    def from_gguf(cls, meta: Metadata) -> "Config":
        """Read the keys gpt-oss.*; raises FileError naming a key that is missing or wrong."""
        return cls(**common_numbers(meta), **mixture_numbers(meta), windows=read_windows(meta, period=2))


class Block(NamedTuple):
    """The weights of one layer; in a loaded model, of all layers."""

    attn_norm: Stack  # (D,)
    attn_q: Stack  # (H*E, D)
    attn_q_bias: Stack  # (H*E,)
    attn_k: Stack  # (K*E, D)
    attn_k_bias: Stack  # (K*E,)
    attn_v: Stack  # (K*E, D)
    attn_v_bias: Stack  # (K*E,)
    attn_sinks: Stack  # (H,)
    attn_output: Stack  # (D, H*E)
    attn_output_bias: Stack  # (D,)
    post_attention_norm: Stack  # (D,)
    ffn_gate_inp: Stack  # (X, D)
    ffn_gate_inp_bias: Stack  # (X,)
    ffn_gate_exps: Experts  # (X, F, D)
    ffn_gate_exps_bias: Stack  # (X, F)
    ffn_up_exps: Experts  # (X, F, D)
    ffn_up_exps_bias: Stack  # (X, F)
    ffn_down_exps: Experts  # (X, D, F)
    ffn_down_exps_bias: Stack  # (X, D)


Weights, Layer, logits = Decoder, Block, decoder.logits


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every field; a loader holds a file to it."""
    found = mixture.shapes(c)
    of_experts = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
    biases = {f"{name}_bias": found[name][:2] for name in of_experts}
    return found | biases | {"ffn_gate_inp_bias": (c.experts,), "attn_sinks": (c.heads,)}


def block(w: Block, x: Array, cache: Cache, turn: Rotation, window: Array, c: Config) -> tuple[Array, Cache]:
    """Run one layer: x (B, T, D) -> (B, T, D), and the cache with the new keys and values."""
    h = rms_norm(x, w.attn_norm, eps=c.eps)
    q, k, v = linears((w.attn_q, w.attn_k, w.attn_v), h)  # (B, T, H*E or K*E)
    q, k, v = (heads(y, c.head) for y in (q + w.attn_q_bias, k + w.attn_k_bias, v + w.attn_v_bias))
    seen, cache = cache.attend(q, k, v, turn, pairing="halves", window=window, sinks=w.attn_sinks)  # (B, T, H, E)
    x = x + linear(w.attn_output, merge(seen)) + w.attn_output_bias
    h = rms_norm(x, w.post_attention_norm, eps=c.eps)
    chosen = route(linear(w.ffn_gate_inp, h) + w.ffn_gate_inp_bias, count=c.used, normalise=True)  # (B, T, k) each
    matrices = w.ffn_gate_exps, w.ffn_up_exps, w.ffn_down_exps
    biases = Biases(w.ffn_gate_exps_bias, w.ffn_up_exps_bias, w.ffn_down_exps_bias)
    return x + experts(*matrices, h, *chosen, activation="clamped_swiglu", biases=biases), cache


def forward(m: Decoder, tokens: Array, cache: Cache, c: Config) -> tuple[Array, Cache]:
    """Run tokens (B, T) through all layers -> (B, T, D), and the cache with their keys and values."""
    turn = c.rotary.at(cache.positions)
    x = embed(m.token_embd, tokens)  # (B, T, D)
    return each_layer(block, m.blk, x, cache, turn, c.windows.of_layers, c)


HUGGING_FACE_TENSORS = decoder.HUGGING_FACE_TENSORS
