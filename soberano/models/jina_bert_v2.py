"""Jina Embeddings 2: BERT whose attention loses by distance (ALiBi) instead of knowing positions, with a GEGLU.

The model for code normalises queries and keys as well, and the sum of attention once more.
Source: arXiv:2310.19923; tensor names as in GGUF, and at the end those of Hugging Face. A field of Block is the tensor
blk.<i>.<field>.weight. Axes: B batch, T tokens, D width, H heads, E head width, F ffn, V vocabulary.
"""

from dataclasses import dataclass
from typing import NamedTuple

from soberano.backends.homes import home_of
from soberano.core.errors import UnsupportedModel
from soberano.core.types import Array
from soberano.models import bert_config
from soberano.models.bert_config import common_numbers
from soberano.models.layers import Metadata, each_block, heads, merge
from soberano.ops.feed_forward import feed_forward
from soberano.ops.linear import embed, linear, linears
from soberano.ops.norm import add_layer_norm, layer_norm
from soberano.ops.self_attention import alibi_slopes, self_attention
from soberano.quant.tensor import Stack, Weight


@dataclass(frozen=True)
class Config(bert_config.Config):
    """The numbers of the model, as its file states them."""

    @classmethod
    def from_gguf(cls, meta: Metadata) -> "Config":
        """Read the keys jina-bert-v2.*; raises FileError naming a key that is missing or wrong."""
        numbers = common_numbers(meta)
        meta.choice("feed_forward_type", {"geglu"}, "geglu")
        if "blk.0.attn_norm_2.weight" in meta.file.tensors and meta.rows("blk.0.ffn_up") != numbers["ffn"]:
            raise UnsupportedModel(
                f"{meta.file.path}: blk.0.ffn_up.weight holds the gate and what it gates in an order that depends on "
                f"who converted it; convert the file with ffn_gate and ffn_up apart"
            )
        return cls(**numbers)


class Block(NamedTuple):
    """The weights of one layer; in a loaded model, of all layers."""

    attn_q: Stack  # (D, D)
    attn_q_bias: Stack  # (D,)
    attn_k: Stack  # (D, D)
    attn_k_bias: Stack  # (D,)
    attn_v: Stack  # (D, D)
    attn_v_bias: Stack  # (D,)
    attn_output: Stack  # (D, D)
    attn_output_bias: Stack  # (D,)
    attn_output_norm: Stack  # (D,)
    attn_output_norm_bias: Stack  # (D,)
    ffn_gate: Stack  # (F, D)
    ffn_up: Stack  # (F, D)
    ffn_down: Stack  # (D, F)
    ffn_down_bias: Stack  # (D,)
    layer_output_norm: Stack  # (D,)
    layer_output_norm_bias: Stack  # (D,)
    attn_q_norm: Stack | None = None  # (D,); this and what follows: of the model for code
    attn_q_norm_bias: Stack | None = None  # (D,)
    attn_k_norm: Stack | None = None  # (D,)
    attn_k_norm_bias: Stack | None = None  # (D,)
    attn_norm_2: Stack | None = None  # (D,)
    attn_norm_2_bias: Stack | None = None  # (D,)


class JinaBert(NamedTuple):
    """The weights of the model."""

    token_embd: Weight  # (V, D)
    token_types: Weight  # (2, D)
    token_embd_norm: Array  # (D,)
    token_embd_norm_bias: Array  # (D,)
    blk: Block


Weights, Layer = JinaBert, Block
TABLES = {"token_embd", "token_types"}  # whose rows are looked up, and nothing more
FUSED = {"ffn_up": ("ffn_gate", "ffn_up")}


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every field; a loader holds a file to it."""
    found: dict[str, tuple[int, ...]] = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (c.width, c.width))
    found |= {"ffn_gate": (c.ffn, c.width), "ffn_up": (c.ffn, c.width), "ffn_down": (c.width, c.ffn)}
    found |= {"token_embd": (c.vocabulary, c.width), "token_types": (c.types, c.width)}
    return dict.fromkeys((*Block._fields, *JinaBert._fields), (c.width,)) | found  # all others are vectors


def block(w: Block, x: Array, lengths: Array, slopes: Array, c: Config) -> Array:
    """Run one layer: x (B, T, D) -> (B, T, D)."""
    q, k, v = linears((w.attn_q, w.attn_k, w.attn_v), x, (w.attn_q_bias, w.attn_k_bias, w.attn_v_bias))  # (B, T, D)
    q = q if w.attn_q_norm is None else layer_norm(q, w.attn_q_norm, w.attn_q_norm_bias, eps=c.eps)
    k = k if w.attn_k_norm is None else layer_norm(k, w.attn_k_norm, w.attn_k_norm_bias, eps=c.eps)
    seen = self_attention(*(heads(y, c.head) for y in (q, k, v)), lengths, slopes=slopes)  # (B, T, H, E)
    y = linear(w.attn_output, merge(seen), w.attn_output_bias)  # (B, T, D)
    h = add_layer_norm(x, y, w.attn_output_norm, w.attn_output_norm_bias, eps=c.eps)
    if w.attn_norm_2 is not None:
        h = layer_norm(x + h, w.attn_norm_2, w.attn_norm_2_bias, eps=c.eps)
    biases = (None, None, w.ffn_down_bias)
    y = feed_forward(w.ffn_gate, w.ffn_up, w.ffn_down, h, biases, activation="gelu_erf")  # (B, T, D)
    return add_layer_norm(h, y, w.layer_output_norm, w.layer_output_norm_bias, eps=c.eps)


def encode(m: JinaBert, tokens: Array, lengths: Array, c: Config) -> Array:
    """Run texts (B, T), the first lengths (B,) of whose tokens count, through the model -> (B, T, D)."""
    xp = home_of(tokens).xp
    x = embed(m.token_embd, tokens) + embed(m.token_types, xp.zeros_like(tokens[:1, :1]))  # (B, T, D)
    x = layer_norm(x, m.token_embd_norm, m.token_embd_norm_bias, eps=c.eps)
    return each_block(c.layers, block, m.blk, x, lengths, xp.asarray(alibi_slopes(c.heads)), c)


HUGGING_FACE = {"model_type": "bert", "position_embedding_type": "alibi"}
HUGGING_FACE_KEYS = {"attention.layer_norm_epsilon": "layer_norm_eps"}
HUGGING_FACE_TENSORS = {
    "token_embd": "embeddings.word_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
    "attn_q": "encoder.layer.*.attention.self.query",
    "attn_k": "encoder.layer.*.attention.self.key",
    "attn_v": "encoder.layer.*.attention.self.value",
    "attn_output": "encoder.layer.*.attention.output.dense",
    "attn_output_norm": "encoder.layer.*.attention.output.LayerNorm",
    "ffn_up": "encoder.layer.*.mlp.gated_layers",
    "ffn_down": "encoder.layer.*.mlp.wo",
    "layer_output_norm": "encoder.layer.*.mlp.layernorm",
}
HUGGING_FACE_SPARE = ("embeddings.position_ids", "pooler.", "cls.")  # beginnings of names that no embedding needs
