"""ModernBERT: norms before the sums, turned queries and keys, a gated feed-forward, and a window in most layers.

Every third layer sees the whole text; the others see a window, and turn by angles of their own. There are no biases.
Source: arXiv:2412.13663; tensor names as in GGUF, and at the end those of Hugging Face. A field of Block is the tensor
blk.<i>.<field>.weight. Axes: B batch, T tokens, D width, H heads, E head width, F ffn, V vocabulary, L layers.
"""

from dataclasses import dataclass
from typing import NamedTuple

from soberano.backends.homes import home_of
from soberano.core.types import Array
from soberano.models.head import NormedGelu
from soberano.models.layers import Metadata, PerLayer, each_block, heads, merge, widths
from soberano.ops.feed_forward import Activation, feed_forward
from soberano.ops.linear import embed, linear, linears
from soberano.ops.norm import layer_norm
from soberano.ops.rope import Rotation, rotation
from soberano.ops.self_attention import self_attention
from soberano.quant.tensor import Stack, Weight


@dataclass(frozen=True)
class Config:
    """The numbers of the model, as its file states them."""

    layers: int
    width: int
    head: int
    ffn: int
    vocabulary: int
    context: int
    eps: float
    activation: Activation
    local: tuple[bool, ...]  # (L,): whether a layer sees a window only
    window: int  # tokens that it sees to each side
    bases: tuple[float, float]  # of the angles: of layers that see the whole text, and of the others

    @classmethod
    def from_gguf(cls, meta: Metadata) -> "Config":
        """Read the keys modern-bert.*; raises FileError naming a key that is missing or wrong."""
        width, _, head = widths(meta)
        meta.only("attention.causal", False)
        for key in ("rope.scaling.type", "rope.scaling.type_swa"):
            meta.choice(key, ("none", "default"), "none")
        gate: dict[str, Activation] = {"gelu": "gelu_erf", "silu": "silu"}
        return cls(
            layers=meta.layers,
            width=width,
            head=head,
            ffn=meta.whole("feed_forward_length"),
            vocabulary=meta.vocabulary,
            context=meta.whole("context_length"),
            eps=meta.number("attention.layer_norm_epsilon", meta.number("attention.layer_norm_rms_epsilon", 1e-5)),
            activation=gate[meta.choice("hidden_activation", gate, "gelu")],
            local=meta.pattern("attention.sliding_window_pattern", 3, first=True),
            window=meta.whole("attention.sliding_window") // 2,
            bases=(meta.number("rope.freq_base", 160_000.0), meta.number("rope.freq_base_swa", 10_000.0)),
        )


class Block(NamedTuple):
    """The weights of one layer; in a loaded model, of all layers."""

    attn_norm: Stack  # (D,)
    attn_q: Stack  # (D, D)
    attn_k: Stack  # (D, D)
    attn_v: Stack  # (D, D)
    attn_output: Stack  # (D, D)
    ffn_norm: Stack  # (D,)
    ffn_gate: Stack  # (F, D)
    ffn_up: Stack  # (F, D)
    ffn_down: Stack  # (D, F)


class ModernBert(NamedTuple):
    """The weights of the model."""

    token_embd: Weight  # (V, D)
    token_embd_norm: Array  # (D,)
    blk: Block
    output_norm: Array  # (D,)
    head: NormedGelu | None = None  # of a cross-encoder


Weights, Layer, Head = ModernBert, Block, NormedGelu
TABLES = {"token_embd"}  # whose rows are looked up, and nothing more
FUSED = {"attn_qkv": ("attn_q", "attn_k", "attn_v"), "ffn_up": ("ffn_gate", "ffn_up")}
ABSENT = {"attn_norm": (0,)}


def shapes(c: Config) -> dict[str, tuple[int, ...]]:
    """The shape of every field; a loader holds a file to it."""
    square, vector = ("attn_q", "attn_k", "attn_v", "attn_output"), ("attn_norm", "ffn_norm")
    found: dict[str, tuple[int, ...]] = dict.fromkeys(square, (c.width, c.width))
    found |= dict.fromkeys(("token_embd_norm", *vector, "output_norm"), (c.width,))
    found |= {"ffn_gate": (c.ffn, c.width), "ffn_up": (c.ffn, c.width), "ffn_down": (c.width, c.ffn)}
    return found | {"token_embd": (c.vocabulary, c.width)}


def block(w: Block, x: Array, lengths: Array, turn: Rotation, window: Array, first: Array, c: Config) -> Array:
    """Run one layer: x (B, T, D) -> (B, T, D)."""
    h = layer_norm(x, w.attn_norm, None, eps=c.eps)
    h = home_of(x).xp.where(first, x, h)  # the first layer has x from a norm already
    q, k, v = (heads(y, c.head) for y in linears((w.attn_q, w.attn_k, w.attn_v), h))  # (B, T, H, E)
    seen = self_attention(q, k, v, lengths, rotation=turn, pairing="halves", window=window)  # (B, T, H, E)
    x = x + linear(w.attn_output, merge(seen))  # (B, T, D)
    h = layer_norm(x, w.ffn_norm, None, eps=c.eps)
    return x + feed_forward(w.ffn_gate, w.ffn_up, w.ffn_down, h, activation=c.activation)


def encode(m: ModernBert, tokens: Array, lengths: Array, c: Config) -> Array:
    """Run texts (B, T), the first lengths (B,) of whose tokens count, through the model -> (B, T, D)."""
    xp = home_of(tokens).xp
    places = xp.arange(tokens.shape[1], dtype=xp.int32)[None]
    far, near = (rotation(places, c.head, base=base) for base in c.bases)  # (1, T, E / 2)
    turn, window = PerLayer.of(c.local, near, far), PerLayer.of(c.local, c.window, c.context)
    first = PerLayer.of([i == 0 for i in range(c.layers)], True, False)
    x = layer_norm(embed(m.token_embd, tokens), m.token_embd_norm, None, eps=c.eps)  # (B, T, D)
    x = each_block(c.layers, block, m.blk, x, lengths, turn, window, first, c)
    return layer_norm(x, m.output_norm, None, eps=c.eps)


HUGGING_FACE = {"model_type": "modernbert"}
HUGGING_FACE_KEYS = {  # of newer files, and of older ones
    "attention.layer_norm_epsilon": "norm_eps",
    "attention.sliding_window": "local_attention",
    "attention.sliding_window_pattern": ("layer_types", "global_attn_every_n_layers"),
    "rope.freq_base": ("rope_parameters.full_attention.rope_theta", "global_rope_theta"),
    "rope.freq_base_swa": ("rope_parameters.sliding_attention.rope_theta", "local_rope_theta"),
    "rope.scaling.type": "rope_parameters.full_attention.rope_type",
    "rope.scaling.type_swa": "rope_parameters.sliding_attention.rope_type",
    "classifier.pooling_type": "classifier_pooling",
}
HUGGING_FACE_TENSORS = {
    "token_embd": "embeddings.tok_embeddings",
    "token_embd_norm": "embeddings.norm",
    "attn_norm": "layers.*.attn_norm",
    "attn_qkv": "layers.*.attn.Wqkv",
    "attn_output": "layers.*.attn.Wo",
    "ffn_norm": "layers.*.mlp_norm",
    "ffn_up": "layers.*.mlp.Wi",
    "ffn_down": "layers.*.mlp.Wo",
    "output_norm": "final_norm",
}
HUGGING_FACE_HEAD = {"cls": "head.dense", "cls.norm": "head.norm", "cls.output": "classifier"}
HUGGING_FACE_SPARE = ("head.", "decoder.")  # beginnings of names that no embedding needs
