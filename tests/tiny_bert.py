"""A BERT small enough to make in a moment, with random weights: as a Hugging Face folder and as a GGUF file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from soberano.formats.gguf import Typed, write
from soberano.quant.blocks import format_named
from soberano.quant.encode import encode
from tests.formats.safetensors_files import contents
from tests.text.vocabularies import wordpiece_json, wordpiece_metadata, wordpieces

LAYERS, WIDTH, HEADS, FFN, CONTEXT, EPS = 3, 64, 2, 128, 64, 1e-12
NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
"""Hugging Face's names, inside the embeddings and inside a layer, and GGUF's."""


def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """The tensors under Hugging Face's names, float32, of a size that keeps activations near 1."""
    rng, tokens = np.random.default_rng(seed), len(wordpieces())
    shapes = {
        "embeddings.word_embeddings": (tokens, WIDTH),
        "embeddings.position_embeddings": (CONTEXT, WIDTH),
        "embeddings.token_type_embeddings": (2, WIDTH),
        "embeddings.LayerNorm": (WIDTH,),
    }
    for i in range(LAYERS):
        at = f"encoder.layer.{i}."
        shapes |= {f"{at}attention.self.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")}
        shapes |= {f"{at}attention.output.dense": (WIDTH, WIDTH), f"{at}attention.output.LayerNorm": (WIDTH,)}
        shapes |= {f"{at}intermediate.dense": (FFN, WIDTH), f"{at}output.dense": (WIDTH, FFN)}
        shapes |= {f"{at}output.LayerNorm": (WIDTH,)}
    found = {}
    for name, shape in shapes.items():
        noise = rng.standard_normal(shape, np.float32)
        if "LayerNorm" in name:
            found[f"{name}.weight"] = 1 + noise / 10
        else:
            found[f"{name}.weight"] = noise if "embeddings" in name else noise * np.float32(shape[-1] ** -0.5)
        if "_embeddings" not in name:
            found[f"{name}.bias"] = rng.standard_normal(shape[:1], np.float32) / 4
    return found


def write_folder(
    folder: Path,
    tensors: Mapping[str, np.ndarray] | None = None,
    *,
    pooling: str = "mean_tokens",
    normalize: bool = True,
    longest: int | None = None,
    **config: Any,
) -> Path:
    """Write what sentence-transformers would; `config` changes keys of config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights() if tensors is None else tensors
    spare = {"embeddings.position_ids": np.arange(CONTEXT)[None], "pooler.dense.bias": np.zeros(WIDTH, np.float32)}
    spare["pooler.dense.weight"] = np.zeros((WIDTH, WIDTH), np.float32)
    (folder / "model.safetensors").write_bytes(contents(spare | dict(tensors)))
    model = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "intermediate_size": FFN,
        "layer_norm_eps": EPS,
        "max_position_embeddings": CONTEXT,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "type_vocab_size": 2,
        "vocab_size": len(wordpieces()),
    }
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalize else [])]
    (folder / "1_Pooling").mkdir(exist_ok=True)
    for name, value in {
        "config.json": model | config,
        "tokenizer.json": wordpiece_json(wordpieces()),
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "model_max_length": CONTEXT},
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(modules)
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": WIDTH, f"pooling_mode_{pooling}": True},
        "sentence_bert_config.json": {"max_seq_length": longest or CONTEXT},
    }.items():
        (folder / name).write_text(json.dumps(value))
    return folder


def write_gguf(path: Path, kind: str = "F32", tensors: Mapping[str, np.ndarray] | None = None, **keys: Any) -> Path:
    """Write the same model as a GGUF file, matrices in a format; `keys` changes keys under bert."""
    metadata = wordpiece_metadata(wordpieces())
    metadata["tokenizer.ggml.token_type"] = Typed("[i32]", metadata["tokenizer.ggml.token_type"])
    bert = {
        "block_count": LAYERS,
        "context_length": CONTEXT,
        "embedding_length": WIDTH,
        "feed_forward_length": FFN,
        "attention.head_count": HEADS,
        "attention.layer_norm_epsilon": EPS,
        "attention.causal": False,
        "pooling_type": 1,
        **keys,
    }
    head = {"general.architecture": "bert", "general.name": "Tiny BERT"} | {f"bert.{k}": v for k, v in bert.items()}
    made = {}
    for name, value in (weights() if tensors is None else tensors).items():
        used = format_named(kind if value.ndim == 2 and "embeddings" not in name else "F32")
        made[gguf_name(name)] = (used, encode(used, value))
    write(path, head | metadata, made)
    return path


def gguf_name(name: str) -> str:
    """The name that GGUF has for a tensor: encoder.layer.0.output.dense.weight -> blk.0.ffn_down.weight."""
    stem, _, part = name.rpartition(".")
    if stem in NAMES:
        return f"{NAMES[stem]}.{part}"
    layer, _, inner = stem.removeprefix("encoder.layer.").partition(".")
    return f"blk.{layer}.{NAMES[inner]}.{part}"
