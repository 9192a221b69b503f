"""Load any model: a GGUF file, a Hugging Face folder, or a name that `soberano pull` stored."""

import os
from pathlib import Path
from typing import Any

from soberano.core.errors import InputError
from soberano.core.progress import Progress, silent
from soberano.formats import gguf
from soberano.formats.hugging_face import Folder, folder_of
from soberano.models import sentence
from soberano.models.architecture import architecture, is_encoder
from soberano.models.checkpoint import Checkpoint
from soberano.models.encoder import Encoder
from soberano.models.model import Model, refuse_parts
from soberano.models.trained_head import TrainedHead, read_head
from soberano.registry.store import resolve
from soberano.text import hugging_face, tokenizer


def load(
    path: str | os.PathLike[str],
    *,
    backend: str | None = None,
    context: int | None = None,
    sequences: int = 1,
    cache: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    head: str | os.PathLike[str] | None = None,
    exact: bool = False,
    progress: Progress = silent,
) -> Model | Encoder:
    """Load a model, ready to generate (Model) or to embed (Encoder): what it can do is in its files.

    `path` is a GGUF file, a Hugging Face folder or its model.safetensors, or the name of a model that `soberano pull`
    stored. `backend` is auto, cpu, cuda, xla or numpy (default: SOBERANO_BACKEND). `context` is the longest
    conversation in tokens (default: the model's, at most 4096), of an encoder the longest text (default: the model's).

    For a Model: the cache has room for `sequences` conversations of that length, and `cache` is the type of its
    numbers, f16, bf16 or q8_0, which takes half the memory (default: f16, and float32 where only the meaning computes
    on a CPU); `adapter` is a LoRA adapter of this very model, a GGUF file. For an Encoder: `exact` computes in float32
    even where a matrix unit would be faster; `head` is the folder of a head that was trained on this very encoder.

    Raises FileError for a file that is missing or damaged, UnsupportedModel, naming it, for what we do not know.
    """
    decoder = {"context": context, "sequences": sequences, "cache": cache, "adapter": _path(adapter)}
    return _load(path, None, decoder, {"context": context, "exact": exact, "head": _head(head)}, backend, progress)


def load_decoder(
    path: str | os.PathLike[str],
    *,
    backend: str | None = None,
    context: int | None = None,
    sequences: int = 1,
    cache: str | None = None,
    adapter: str | os.PathLike[str] | None = None,
    progress: Progress = silent,
) -> Model:
    """Load a model that generates text, as `load` does. Raises InputError for an encoder."""
    how = {"context": context, "sequences": sequences, "cache": cache, "adapter": _path(adapter)}
    found = _load(path, Model, how, {}, backend, progress)
    assert isinstance(found, Model)
    return found


def load_encoder(
    path: str | os.PathLike[str],
    *,
    backend: str | None = None,
    context: int | None = None,
    head: str | os.PathLike[str] | None = None,
    exact: bool = False,
    progress: Progress = silent,
) -> Encoder:
    """Load a model that embeds texts, as `load` does. Raises InputError for any other."""
    found = _load(path, Encoder, {}, {"context": context, "exact": exact, "head": _head(head)}, backend, progress)
    assert isinstance(found, Encoder)
    return found


def check_decoder(path: Path) -> None:
    """Raise InputError for an encoder, of which there is nothing to generate; only the head of a file is read."""
    folder = folder_of(path)
    if folder is not None:
        with Checkpoint(Folder(folder)) as weights:
            _check(weights.module, Model, folder)
    else:
        with gguf.read(path) as file:
            _check(architecture(file.field("general.architecture", str), path), Model, path)


def _load(
    path: str | os.PathLike[str],
    wanted: type | None,
    decoder: dict[str, Any],
    encoder: dict[str, Any],
    backend: str | None,
    progress: Progress,
) -> Model | Encoder:
    """Load what `path` means; refuse what is not `wanted` before anything is read."""
    where = Path(path)
    if not where.exists():  # a stored name, or an error that says what there is
        where = resolve(os.fspath(path))
    folder = folder_of(where)
    if folder is not None:
        files = Folder(folder)
        with Checkpoint(files) as weights:
            _check(weights.module, wanted, folder)
            how = sentence.Sentence(ranks=True) if weights.ranks else sentence.from_folder(files)
            named = folder.name, weights.architecture, _tokenizer(files), how
            return Encoder(weights, *named, keys=weights.keys, backend=backend, progress=progress, **encoder)
    with gguf.read(where) as file:
        name = file.field("general.architecture", str)
        module = architecture(name, where)
        _check(module, wanted, where)
        if not is_encoder(module):
            if encoder.get("head") is not None:
                raise InputError(f"{where} generates text, and a trained head belongs to an encoder; leave --head out")
            return Model(where, file, backend, progress=progress, **decoder)
        refuse_parts(file)
        title = str(file.metadata.get("general.name") or where.stem)
        words, how = tokenizer.from_metadata(file.metadata), sentence.from_gguf(file.metadata, name)
        return Encoder(file, title, name, words, how, keys=None, backend=backend, progress=progress, **encoder)


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)


def _head(folder: str | os.PathLike[str] | None) -> TrainedHead | None:
    return None if folder is None else read_head(folder)


def _check(module: Any, wanted: type | None, where: Path) -> None:
    if wanted is Model and is_encoder(module):
        raise InputError(
            f"{where} is an encoder: it turns texts into vectors and writes none; use `soberano embed`, or `soberano "
            f"rerank` where it has a head that ranks"
        )
    if wanted is Encoder and not is_encoder(module):
        raise InputError(f"{where} generates text and is no encoder; `soberano pull minilm` brings one that embeds")


def _tokenizer(folder: Folder) -> tokenizer.Tokenizer:
    if folder.has("tokenizer.json"):
        return hugging_face.from_tokenizer_json(folder.json("tokenizer.json"))
    return hugging_face.from_vocab_txt(folder.text("vocab.txt"), folder.json_or("tokenizer_config.json"))
