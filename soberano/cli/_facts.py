"""The facts that people ask of a model first, from whatever kind of file it is in; None where that does not say."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from soberano.core.errors import UnsupportedModel

if TYPE_CHECKING:
    from soberano.formats.gguf import GGUF
    from soberano.formats.hugging_face import Folder
    from soberano.formats.tensors import TensorInfo

GENERATES, EMBEDS, RANKS = "generating text", "embedding texts", "ranking documents"


@dataclass(frozen=True)
class Inspected:
    """What there is to say of a model: its facts, and all that they were taken from."""

    kind: str  # of file
    facts: dict[str, Any]
    metadata: Mapping[str, Any]
    tensors: "Mapping[str, TensorInfo]"


@contextmanager
def opened(path: Path) -> Iterator[Inspected]:
    """The model at a path: a GGUF file, a Hugging Face folder or a file of one. Raises FileError."""
    from soberano.formats import gguf
    from soberano.formats.hugging_face import Folder, folder_of

    folder = folder_of(path)
    if folder is None:
        with gguf.read(path) as file:
            yield Inspected(f"GGUF version {file.version}", _of_gguf(file), file.metadata, file.tensors)
    else:
        files = Folder(folder)
        with files.weights() as weights:
            facts = _of_folder(files, weights.tensors)
            yield Inspected("a Hugging Face folder", facts, files.config, weights.tensors)


def _of_gguf(file: "GGUF") -> dict[str, Any]:
    from soberano.models.head import NAMES

    meta, words = file.metadata, "tokenizer.ggml."
    name, tokens = meta.get("general.architecture"), meta.get(f"{words}tokens")
    return {
        "file": str(file.path),
        "name": meta.get("general.name"),
        "architecture": name,
        "purpose": _purpose(name, NAMES["out"] in file.tensors),
        "licence": meta.get("general.license"),
        **_size(file.tensors),
        "layers": meta.get(f"{name}.block_count"),
        "context": meta.get(f"{name}.context_length"),
        "width": meta.get(f"{name}.embedding_length"),
        "ffn": meta.get(f"{name}.feed_forward_length"),
        "heads": meta.get(f"{name}.attention.head_count"),
        "kv_heads": meta.get(f"{name}.attention.head_count_kv"),
        "tokenizer": meta.get(f"{words}model"),
        "pretokenizer": meta.get(f"{words}pre"),
        "vocabulary": len(tokens) if isinstance(tokens, list) else None,
        "bos": meta.get(f"{words}bos_token_id"),
        "eos": meta.get(f"{words}eos_token_id"),
        "chat_template": "tokenizer.chat_template" in meta,
        "gguf_version": file.version,
    }


def _of_folder(folder: "Folder", tensors: "Mapping[str, TensorInfo]") -> dict[str, Any]:
    from soberano.models.checkpoint import Checkpoint

    def said(*names: str) -> Any:
        return next((folder.config[name] for name in names if folder.config.get(name) is not None), None)

    purpose, words = None, folder.json_or("tokenizer.json").get("model")
    try:
        with Checkpoint(folder) as weights:
            purpose = _purpose(weights.architecture, weights.ranks)
    except UnsupportedModel:  # it can be looked at all the same
        pass
    return {
        "file": str(folder.path),
        "name": folder.path.name,
        "architecture": said("model_type"),
        "purpose": purpose,
        "licence": None,
        **_size(tensors),
        "layers": said("num_hidden_layers", "n_layer"),
        "context": said("max_position_embeddings", "n_positions"),
        "width": said("hidden_size", "n_embd"),
        "ffn": said("intermediate_size", "n_inner"),
        "heads": said("num_attention_heads", "n_head"),
        "kv_heads": said("num_key_value_heads"),
        "tokenizer": words.get("type") if isinstance(words, dict) else None,
        "pretokenizer": None,
        "vocabulary": said("vocab_size"),
        "bos": said("bos_token_id"),
        "eos": said("eos_token_id"),
        "chat_template": "chat_template" in folder.json_or("tokenizer_config.json")
        or folder.has("chat_template.jinja"),
        "gguf_version": None,
    }


def _size(tensors: "Mapping[str, TensorInfo]") -> dict[str, Any]:
    weights = sum(math.prod(info.shape) for info in tensors.values())
    size = sum(info.nbytes for info in tensors.values())
    return {
        "weights": weights,
        "bytes": size,
        "bits_per_weight": round(8 * size / weights, 3) if weights else None,
    }


def _purpose(name: Any, has_head: bool) -> str | None:
    """What a model of this architecture is for, if the architecture is known here."""
    from soberano.models.architecture import architecture, is_encoder

    try:
        module = architecture(str(name))
    except UnsupportedModel:
        return None
    if not is_encoder(module):
        return GENERATES
    return RANKS if has_head else EMBEDS
