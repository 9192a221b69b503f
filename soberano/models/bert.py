"""BERT and what keeps its block: MiniLM, BGE, E5, GTE. Attention to all sides, norms behind the sums, GELU.

Source: arXiv:1810.04805; tensor names as in GGUF, and at the end those of Hugging Face. A field of Block is the tensor
blk.<i>.<field>.weight. Axes: B batch, T tokens, D width, H heads, E head width, F ffn, V vocabulary, P positions.
"""

from dataclasses import dataclass
from typing import NamedTuple

from soberano.backends.homes import home_of
from soberano.core.types import Array
from soberano.models import bert_config
from soberano.models.bert_config import common_numbers
from soberano.models.head import Tanh
from soberano.models.layers import Metadata, each_block, heads, merge
from soberano.ops.feed_forward import Activation, feed_forward
from soberano.ops.linear import embed, linear, linears
from soberano.ops.norm import add_layer_norm, layer_norm
from soberano.ops.self_attention import self_attention
from soberano.quant.tensor import Stack, Weight


@dataclass(frozen=True)
class Config(bert_config.Config):
    """The numbers of the model, as its file states them."""

    activation: Activation  # a GGUF file does not say, and means the exact GELU

    @classmethod
    def from_gguf(cls, meta: Metadata) -> "Config":
        """Read the keys bert.*; raises FileError naming a key that is missing or wrong."""
        meta.choice("position_type", {"absolute"}, "absolute")
        return cls(
            **common_numbers(meta),
            activation="gelu_erf" if meta.choice("activation", {"gelu", "gelu_new"}, "gelu") == "gelu" else "gelu",
        )


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
    ffn_up: Stack  # (F, D)
    ffn_up_bias: Stack  # (F,)
    ffn_down: Stack  # (D, F)
    ffn_down_bias: Stack  # (D,)
    layer_output_norm: Stack  # (D,)
    layer_output_norm_bias: Stack  # (D,)


class Bert(NamedTuple):
    """The weights of the model."""

    token_embd: Weight  # (V, D)
    position_embd: Weight  # (P, D)
    token_types: Weight  # (2, D)
    token_embd_norm: Array  # (D,)
    token_embd_norm_bias: Array  # (D,)
    blk: Block
    head: Tanh | None = None  # of a cross-encoder


Weights, Layer, Head = Bert, Block, Tanh
TABLES = {"token_embd", "position_embd", "token_types"}  # whose rows are looked up, and nothing more


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every field; a loader holds a file to it."""
    norms = ("token_embd_norm", "attn_output_norm", "layer_output_norm")
    found: dict[str, tuple[int, ...]] = dict.fromkeys(norms, (c.width,))
    found |= dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (c.width, c.width))
    found |= {"ffn_up": (c.ffn, c.width), "ffn_down": (c.width, c.ffn)}
    found |= {f"{name}_bias": shape[:1] for name, shape in found.items()}
    tables = {"token_embd": c.vocabulary, "position_embd": c.context, "token_types": c.types}
    return found | {name: (rows, c.width) for name, rows in tables.items()}


def block(w: Block, x: Array, lengths: Array, c: Config) -> Array:
    """Run one layer: x (B, T, D) -> (B, T, D)."""
    products = linears((w.attn_q, w.attn_k, w.attn_v), x, (w.attn_q_bias, w.attn_k_bias, w.attn_v_bias))
    q, k, v = (heads(y, c.head) for y in products)  # (B, T, H, E)
    y = linear(w.attn_output, merge(self_attention(q, k, v, lengths)), w.attn_output_bias)  # (B, T, D)
    x = add_layer_norm(x, y, w.attn_output_norm, w.attn_output_norm_bias, eps=c.eps)
    y = feed_forward(None, w.ffn_up, w.ffn_down, x, (None, w.ffn_up_bias, w.ffn_down_bias), activation=c.activation)
    return add_layer_norm(x, y, w.layer_output_norm, w.layer_output_norm_bias, eps=c.eps)


def encode(m: Bert, tokens: Array, lengths: Array, c: Config, types: Array | None = None) -> Array:
    """Run texts (B, T), the first lengths (B,) of whose tokens count, through the model -> (B, T, D).

    types (B, T) says which of two texts each token is of; None: there is one.
    """
    xp = home_of(tokens).xp
    places = xp.arange(tokens.shape[1], dtype=xp.int32)
    x = embed(m.token_embd, tokens) + embed(m.position_embd, places)  # (B, T, D)
    x = x + embed(m.token_types, xp.zeros_like(places[:1]) if types is None else types)
    x = layer_norm(x, m.token_embd_norm, m.token_embd_norm_bias, eps=c.eps)
    return each_block(c.layers, block, m.blk, x, lengths, c)


HUGGING_FACE = {"model_type": "bert"}
HUGGING_FACE_KEYS = {
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "activation": "hidden_act",
    "position_type": "position_embedding_type",
}
HUGGING_FACE_TENSORS = {
    "token_embd": "embeddings.word_embeddings",
    "position_embd": "embeddings.position_embeddings",
    "token_types": "embeddings.token_type_embeddings",
    "token_embd_norm": "embeddings.LayerNorm",
    "attn_q": "encoder.layer.*.attention.self.query",
    "attn_k": "encoder.layer.*.attention.self.key",
    "attn_v": "encoder.layer.*.attention.self.value",
    "attn_output": "encoder.layer.*.attention.output.dense",
    "attn_output_norm": "encoder.layer.*.attention.output.LayerNorm",
    "ffn_up": "encoder.layer.*.intermediate.dense",
    "ffn_down": "encoder.layer.*.output.dense",
    "layer_output_norm": "encoder.layer.*.output.LayerNorm",
}
HUGGING_FACE_HEAD = {"cls": "pooler.dense", "cls.output": "classifier"}
HUGGING_FACE_SPARE = ("embeddings.position_ids", "pooler.", "cls.")  # beginnings of names that no embedding needs
