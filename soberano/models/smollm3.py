"""SmolLM 3: llama's block, where every fourth layer knows no positions.

Sources: arXiv:2501.18795 (layers without positions); names and axes as in llama.py.
"""

from soberano.backends.homes import home_of
from soberano.core.types import Array
from soberano.models import decoder
from soberano.models.cache import Cache
from soberano.models.decoder import Config, Decoder
from soberano.models.layers import PerLayer, each_layer
from soberano.models.llama import Block, block
from soberano.ops.linear import embed
from soberano.ops.rope import Rotation

Weights, Layer, shapes, logits = Decoder, Block, decoder.common_shapes, decoder.logits

STILL_EVERY = 4
"""The layers that turn nothing: every fourth. No file says so."""


def forward(m: Decoder, tokens: Array, cache: Cache, c: Config) -> tuple[Array, Cache]:
    """Run tokens (B, T) through all layers -> (B, T, D), and the cache with their keys and values."""
    xp = home_of(tokens).xp
    turn = c.rotary.at(cache.positions)
    still = Rotation(xp.ones_like(turn.cos), xp.zeros_like(turn.sin))
    turns = PerLayer.of([i % STILL_EVERY == STILL_EVERY - 1 for i in range(c.layers)], still, turn)
    x = embed(m.token_embd, tokens)  # (B, T, D)
    return each_layer(block, m.blk, x, cache, turns, c)


HUGGING_FACE_TENSORS = decoder.HUGGING_FACE_TENSORS
PAIRS_INTERLEAVED = True  # rows of queries and keys are in another order there
