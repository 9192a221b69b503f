"""What makes a model of sentences out of an encoder, as its files say it: pooling, normalising, how much it reads.

A folder says it in modules.json and the files that it names (sentence-transformers), a GGUF file in two keys.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from soberano.core.errors import FileError, UnsupportedModel
from soberano.formats.hugging_face import Folder
from soberano.ops.pool import POOLINGS, Pooling

_MODES: Mapping[str, Pooling] = {
    "cls_token": "cls",
    "cls": "cls",
    "mean_tokens": "mean",
    "mean": "mean",
    "lasttoken": "last",
}
"""The words of a pooling's config.json: the older form has "pooling_mode_<word>": true, the newer names the word."""


@dataclass(frozen=True)
class Sentence:
    """How a text becomes a vector, besides the encoder."""

    pooling: Pooling = "mean"  # what sentence-transformers does where nothing is said
    normalize: bool = True
    longest: int | None = None  # tokens that are read of a text, if that is less than the encoder's context
    prompt: str = ""  # put before every text
    ranks: bool = False  # the files say that it is a cross-encoder; what its head takes is said elsewhere


def from_gguf(metadata: Mapping[str, Any], architecture: str) -> Sentence:
    """Read <architecture>.pooling_type. Raises UnsupportedModel for a pooling that is not known."""
    key = f"{architecture}.pooling_type"
    kind, rank = metadata.get(key, POOLINGS.index("mean")), len(POOLINGS)
    if type(kind) is not int or not 0 <= kind <= rank:
        raise UnsupportedModel(f"{key} is {kind!r:.40}; known are 0 (none), 1 (mean), 2 (cls), 3 (last) and 4 (rank)")
    return Sentence(ranks=True) if kind == rank else Sentence(POOLINGS[kind])


def from_folder(folder: Folder) -> Sentence:
    """Read modules.json and what it names; without it, the mean at length 1.

    Raises FileError for what is malformed, UnsupportedModel naming a module or a setting that is not known here.
    """
    if not folder.has("modules.json"):
        return Sentence()
    kinds, pooling = list[str](), Sentence.pooling
    for module in folder.array("modules.json"):
        if not isinstance(module, dict) or not isinstance(module.get("type"), str):
            raise FileError(f"{folder.path}/modules.json holds a module without a type; get the file again")
        kind, place = module["type"].rpartition(".")[2], module.get("path")
        if kind == "Pooling":
            if not isinstance(place, str) or place in ("", ".", "..") or "/" in place or "\\" in place:
                raise FileError(
                    f"{folder.path}/modules.json: Pooling is in {place!r:.60}, and must be in a folder here"
                )
            pooling = _pooling(folder, f"{place}/config.json")
        kinds.append(kind)
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UnsupportedModel(
            f"{folder.path}/modules.json chains {', '.join(kinds)[:200]}; known: Transformer, Pooling, Normalize"
        )
    return Sentence(pooling, "Normalize" in kinds, _longest(folder), _prompt(folder))


def _pooling(folder: Folder, name: str) -> Pooling:
    file = folder.json(name)
    newer = file.get("pooling_mode")
    on = [key.removeprefix("pooling_mode_") for key, value in file.items() if "pooling_mode_" in key and value is True]
    on += [newer] if isinstance(newer, str) else []
    if len(on) != 1 or on[0] not in _MODES:
        raise UnsupportedModel(
            f"{folder.path}/{name} asks for {' and '.join(on)[:200] or 'no pooling'}; known: {', '.join(_MODES)}"
        )
    return _MODES[on[0]]


def _longest(folder: Folder) -> int | None:
    found = folder.json_or("sentence_bert_config.json")
    longest = found.get("max_seq_length")
    if longest is not None and (type(longest) is not int or longest < 2):
        raise FileError(f"{folder.path}/sentence_bert_config.json: max_seq_length is {longest!r:.40}, not 2 or more")
    return longest


def _prompt(folder: Folder) -> str:
    found = folder.json_or("config_sentence_transformers.json")
    name, prompts = found.get("default_prompt_name"), found.get("prompts") or {}
    if name is None:
        return ""
    if not isinstance(prompts, dict) or not isinstance(prompts.get(name), str):
        raise FileError(f"{folder.path}/config_sentence_transformers.json lacks the prompt {name!r:.60}, its default")
    return prompts[name]
