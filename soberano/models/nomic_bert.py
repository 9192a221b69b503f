"""Nomic Embed: BERT with turned queries and keys for positions, a SwiGLU, and no biases but those of its norms.

Source: arXiv:2402.01613; tensor names as in GGUF, and at the end those of Hugging Face. A field of Block is the tensor
blk.<i>.<field>.weight. Axes: B batch, T tokens, D width, H heads, E head width, F ffn, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

from soberano.backends.homes import home_of
from soberano.core.types import Array
from soberano.models import bert_config
from soberano.models.bert_config import common_numbers
from soberano.models.layers import Metadata, each_block, heads, merge
from soberano.models.rotary import UNSCALED, Rotary, read_rotary
from soberano.ops.feed_forward import feed_forward
from soberano.ops.linear import embed, linear, linears
from soberano.ops.norm import layer_norm
from soberano.ops.rope import Rotation
from soberano.ops.self_attention import self_attention
from soberano.quant.tensor import Stack, Weight


@dataclass(frozen=True)
class Config(bert_config.Config):
    """The numbers of the model, as its file states them."""

    rotary: Rotary

    @classmethod
    def from_gguf(cls, meta: Metadata) -> "Config":
        """Read the keys nomic-bert.*; raises FileError naming a key that is missing or wrong."""
        numbers = common_numbers(meta)
        numbers["head"] = meta.whole("attention.key_length", numbers["head"])
        meta.choice("activation", ("silu", "swiglu"), "silu")
        meta.choice("rope.scaling.type", UNSCALED, "none")
        for key, plain in (("prenorm", False), ("rotary_emb_interleaved", False), ("rotary_emb_fraction", 1.0)):
            meta.only(key, plain)
        return cls(**numbers, rotary=read_rotary(meta, numbers["head"]))


class Block(NamedTuple):
    """The weights of one layer; in a loaded model, of all layers."""

    attn_q: Stack  # (D, D)
    attn_k: Stack  # (D, D)
    attn_v: Stack  # (D, D)
    attn_output: Stack  # (D, D)
    attn_output_norm: Stack  # (D,)
    attn_output_norm_bias: Stack  # (D,)
    ffn_gate: Stack  # (F, D)
    ffn_up: Stack  # (F, D)
    ffn_down: Stack  # (D, F)
    layer_output_norm: Stack  # (D,)
    layer_output_norm_bias: Stack  # (D,)


class NomicBert(NamedTuple):
    """The weights of the model."""

    token_embd: Weight  # (V, D)
    token_types: Weight  # (2, D)
    token_embd_norm: Array  # (D,)
    token_embd_norm_bias: Array  # (D,)
    blk: Block


Weights, Layer = NomicBert, Block
TABLES = {"token_embd", "token_types"}  # whose rows are looked up, and nothing more
FUSED = {"attn_qkv": ("attn_q", "attn_k", "attn_v")}


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every field; a loader holds a file to it."""
    norms = ("token_embd_norm", "attn_output_norm", "layer_output_norm")
    found: dict[str, tuple[int, ...]] = {f"{name}{end}": (c.width,) for name in norms for end in ("", "_bias")}
    found |= dict.fromkeys(("attn_q", "attn_k", "attn_v"), (c.heads * c.head, c.width))
    found |= {"attn_output": (c.width, c.heads * c.head)}
    found |= {"ffn_gate": (c.ffn, c.width), "ffn_up": (c.ffn, c.width), "ffn_down": (c.width, c.ffn)}
    return found | {"token_embd": (c.vocabulary, c.width), "token_types": (c.types, c.width)}


def block(w: Block, x: Array, lengths: Array, turn: Rotation, c: Config) -> Array:
    """Run one layer: x (B, T, D) -> (B, T, D)."""
    q, k, v = (heads(y, c.head) for y in linears((w.attn_q, w.attn_k, w.attn_v), x))  # (B, T, H, E)
    seen = self_attention(q, k, v, lengths, rotation=turn, pairing="halves")  # (B, T, H, E)
    x = x + linear(w.attn_output, merge(seen))  # (B, T, D)
    x = layer_norm(x, w.attn_output_norm, w.attn_output_norm_bias, eps=c.eps)
    x = x + feed_forward(w.ffn_gate, w.ffn_up, w.ffn_down, x)
    return layer_norm(x, w.layer_output_norm, w.layer_output_norm_bias, eps=c.eps)


def encode(m: NomicBert, tokens: Array, lengths: Array, c: Config) -> Array:
    """Run texts (B, T), the first lengths (B,) of whose tokens count, through the model -> (B, T, D)."""
    xp = home_of(tokens).xp
    places = xp.arange(tokens.shape[1], dtype=xp.int32)[None]
    turn = c.rotary.at(places)  # (1, T, E / 2)
    x = embed(m.token_embd, tokens) + embed(m.token_types, xp.zeros_like(places[:, :1]))  # (B, T, D)
    x = layer_norm(x, m.token_embd_norm, m.token_embd_norm_bias, eps=c.eps)
    return each_block(c.layers, block, m.blk, x, lengths, turn, c)


HUGGING_FACE = {"model_type": "nomic_bert"}
HUGGING_FACE_KEYS = {  # of transformers, and of the model's own code
    "block_count": ("num_hidden_layers", "n_layer"),
    "embedding_length": ("hidden_size", "n_embd"),
    "attention.head_count": ("num_attention_heads", "n_head"),
    "attention.key_length": "head_dim",
    "feed_forward_length": ("intermediate_size", "n_inner"),
    "context_length": ("max_trained_positions", "max_position_embeddings", "n_positions"),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon"),
    "rope.freq_base": ("rope_parameters.rope_theta", "rotary_emb_base"),
    "rope.scaling.type": "rope_parameters.rope_type",
    "activation": ("hidden_act", "activation_function"),
}
HUGGING_FACE_TENSORS = {
    "token_embd": "embeddings.word_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "emb_ln",
    "attn_qkv": "encoder.layers.*.attn.Wqkv",
    "attn_output": "encoder.layers.*.attn.out_proj",
    "attn_output_norm": "encoder.layers.*.norm1",
    "ffn_up": "encoder.layers.*.mlp.fc11",
    "ffn_gate": "encoder.layers.*.mlp.fc12",
    "ffn_down": "encoder.layers.*.mlp.fc2",
    "layer_output_norm": "encoder.layers.*.norm2",
}
HUGGING_FACE_SPARE = ("pooler.", "cls.")  # beginnings of names that no embedding needs
