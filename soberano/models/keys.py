"""The keys <architecture>.* that a model leaves unread: each must change no answer, or the file is refused.

A Config declares what its architecture understands by reading it (see layers.Metadata). What is left is neither read
nor forgotten in silence: it is one of ASIDE, or says one of the NEUTRAL values that mean "not used". Any other key
would make the model compute something else than was trained.
Names and neutral values: gguf's constants.py and llama.cpp's llama-model.cpp.
"""

import reprlib
from typing import Any

from soberano.core.errors import UnsupportedModel
from soberano.models.layers import Metadata

ASIDE = {
    "attention.value_length",  # the shape of attn_v is held to the head width
    "classifier.output_labels",  # how what a head tells is called
    "classifier.pooling_type",  # for the head of a cross-encoder
    "pooling_type",  # for embeddings of whole texts
    "rope.scaling.finetuned",  # history
    "tensor_data_layout",  # how rows lay in the file that was converted
    "vocab_size",  # the shape of token_embd
}
"""Keys that change no logit, whatever they say."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.output_scale": (0, 1),
    "attention.scale": (0,),  # 0: one over the root of the head width
    "attention.sliding_window": (0,),
    "attention.temperature_length": (0,),
    "attention.temperature_scale": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "expert_count": (0,),
    "expert_feed_forward_length": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_shared_feed_forward_length": (0,),
    "expert_used_count": (0,),
    "expert_weights_norm": (False,),
    "expert_weights_scale": (0, 1),
    "final_logit_softcapping": (0,),
    "leading_dense_block_count": (0,),
    "logit_scale": (0, 1),
    "nextn_predict_layers": (0,),
    "residual_scale": (0, 1),
    "swin_norm": (False,),
    "use_parallel_residual": (False,),
}
"""Key -> the values that ask for nothing; of a list, every element is one of them."""


def read_config(module: Any, meta: Metadata) -> Any:
    """The Config of an architecture's module. Raises what it raises, and UnsupportedModel for a key that it leaves."""
    config = module.Config.from_gguf(meta)
    _refuse_unread(meta)
    return config


def _refuse_unread(meta: Metadata) -> None:
    """Raise UnsupportedModel for the first key of the architecture that was not read and is not without effect."""
    prefix = f"{meta.architecture}."
    for name, value in sorted(meta.file.metadata.items()):
        key = name.removeprefix(prefix)
        if key == name or key in meta.read or key in ASIDE or _neutral(key, value):
            continue
        raise UnsupportedModel(
            f"{meta.file.path}: the key {name} (here {reprlib.repr(value)}) means nothing to the architecture "
            f"{meta.architecture!r} as this version knows it; the model would answer wrongly, so it is refused"
        )


def _neutral(key: str, value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return key in NEUTRAL and all(each in NEUTRAL[key] for each in values)
