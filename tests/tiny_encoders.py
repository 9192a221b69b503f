"""An encoder of any architecture, small enough to make in a moment: random weights under the names of GGUF.

What it is told of its size lies in tests/golden/encoders/<name>.json, and what others computed with the same weights in
<name>.npz beside it. <name> is the architecture, or <architecture>.<variant>; so a new architecture adds these two
files, and nothing here.

    keys       <architecture>.* of the GGUF file, beside USUAL
    config     config.json of the Hugging Face folder; null: there is no such folder
    optional   fields that the architecture may do without, and this model has
    apart      true: what the architecture knows as fused is not
    oracle     what computed `vectors`: see make_encoders.py

Cross-encoders are in tests/golden/rankers, with `scores` in their .npz.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from soberano.formats.gguf import Typed, write
from soberano.models.architecture import architecture
from soberano.models.head import NAMES
from soberano.models.layers import Metadata
from soberano.quant.blocks import format_named
from soberano.quant.encode import encode
from tests.formats.safetensors_files import contents
from tests.text.vocabularies import wordpiece_json, wordpiece_metadata, wordpieces

GOLDEN = Path(__file__).parent / "golden" / "encoders"
RANKERS = GOLDEN.with_name("rankers")
QUERY = "quick brown fox"
TEXTS = ["", "the", "Hello world", "the quick brown fox", "naïve café!" * 3, "x" * 200, "a b c d e f g h " * 20]
WIDTH, CONTEXT = 64, 64
USUAL = {
    "block_count": 4,
    "context_length": CONTEXT,
    "embedding_length": WIDTH,
    "feed_forward_length": 96,
    "attention.head_count": 2,
    "attention.layer_norm_epsilon": 1e-5,
    "attention.causal": False,
    "pooling_type": 1,
}


class Tiny:
    """One of them."""

    def __init__(self, name: str, folder: Path = GOLDEN) -> None:
        self.folder, self.ranks = folder, folder == RANKERS
        told = json.loads((folder / f"{name}.json").read_text())
        self.name, self.architecture = name, name.partition(".")[0]
        self.module = architecture(self.architecture)
        self.keys: dict[str, Any] = USUAL | told["keys"]
        self.config: dict[str, Any] | None = told["config"]
        self.optional, self.apart, self.oracle = told.get("optional", []), told.get("apart", False), told["oracle"]

    @property
    def golden(self) -> Mapping[str, np.ndarray]:
        """What others computed."""
        with np.load(self.folder / f"{self.name}.npz") as file:
            return {key: file[key] for key in file.files}

    def weights(self, seed: int = 0) -> dict[str, np.ndarray]:
        """The tensors under GGUF's names, float32, of a size that keeps activations near 1."""
        rng, module = np.random.default_rng(seed), self.module
        rows = {"token_embd": len(wordpieces()), "token_types": 2, "position_embd": CONTEXT}
        tables = {f"{table}.weight": SimpleNamespace(shape=(count, WIDTH)) for table, count in rows.items()}
        keys = {f"{self.architecture}.{key}": value for key, value in self.keys.items()}
        file: Any = SimpleNamespace(path="tiny", metadata=keys, tensors=tables | {f"{i}.spare": None for i in range(9)})
        config = module.Config.from_gguf(Metadata(file, self.architecture))
        made, shapes = dict[str, np.ndarray](), module.shapes(config)
        prefixes = [(module.Weights, "")] + [(module.Layer, f"blk.{i}.") for i in range(config.layers)]
        for kind, prefix in prefixes:
            for field in kind._fields:
                absent = prefix in [f"blk.{i}." for i in getattr(module, "ABSENT", {}).get(field, ())]
                left_out = field in kind._field_defaults and field not in self.optional
                if field not in ("blk", "head") and not absent and not left_out:
                    end = "bias" if field.endswith("_bias") else "weight"
                    made[f"{prefix}{field.removesuffix('_bias')}.{end}"] = _random(rng, field, shapes[field])
        for fused, parts in {} if self.apart else getattr(module, "FUSED", {}).items():
            for i in range(config.layers):
                pieces = [made.pop(f"blk.{i}.{part}.weight") for part in parts]
                made[f"blk.{i}.{fused}.weight"] = np.concatenate(pieces)
        square: dict[str, tuple[int, ...]] = {"dense": (WIDTH, WIDTH), "out": (1, WIDTH), "out_bias": (1,)}
        for field in module.Head._fields if self.ranks else ():
            made[NAMES[field]] = _random(rng, field, square.get(field, (WIDTH,)))
        return made

    def write_gguf(
        self,
        path: Path,
        kind: str | Mapping[str, str] = "F32",
        tensors: Mapping[str, np.ndarray] | None = None,
        **keys: Any,
    ) -> Path:
        """Write a GGUF file, matrices of layers in a format, or those that begin with a text in the one for it.

        `keys` changes keys of the architecture; two underscores stand for a dot.
        """
        name = self.architecture.replace("_", "-")
        own = self.keys | {key.replace("__", "."): value for key, value in keys.items()}
        head = {"general.architecture": name, "general.name": f"Tiny {self.name}"}
        words = wordpiece_metadata(wordpieces())
        words["tokenizer.ggml.token_type"] = Typed("[i32]", words["tokenizer.ggml.token_type"])
        made = {}
        for tensor, value in (self.weights() if tensors is None else tensors).items():
            formats = {"blk.": kind} if isinstance(kind, str) else kind
            wanted = next((formats[start] for start in formats if tensor.startswith(start) and value.ndim == 2), "F32")
            made[tensor] = (format_named(wanted), encode(format_named(wanted), value))
        write(path, head | {f"{name}.{key}": value for key, value in own.items()} | words, made)
        return path

    def write_folder(self, folder: Path, tensors: Mapping[str, np.ndarray] | None = None, **config: Any) -> Path:
        """Write a Hugging Face folder; `config` changes keys of config.json."""
        assert self.config is not None
        folder.mkdir(parents=True, exist_ok=True)
        theirs = {}
        for tensor, value in (self.weights() if tensors is None else tensors).items():
            stem, _, part = tensor.rpartition(".")
            layer, field = stem.split(".")[1:] if stem.startswith("blk.") else ("", stem)
            named = self.module.HUGGING_FACE_TENSORS | (self.module.HUGGING_FACE_HEAD if self.ranks else {})
            spelt = named.get(field, stem).replace("*", layer)
            if self.ranks and not spelt.startswith(("classifier", "head.")):
                spelt = f"{self.config['inside']}.{spelt}"
            theirs[f"{spelt}.{part}"] = value
        (folder / "model.safetensors").write_bytes(contents(theirs))
        (folder / "config.json").write_text(json.dumps(self.config | config))
        (folder / "tokenizer.json").write_text(json.dumps(wordpiece_json(wordpieces())))
        return folder


def _random(rng: np.random.Generator, field: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = rng.standard_normal(shape, np.float32)
    if field.endswith("_bias"):
        return noise / 4
    if len(shape) == 1:
        return 1 + noise / 10
    return noise if field in ("token_embd", "token_types", "position_embd") else noise * np.float32(shape[-1] ** -0.5)
