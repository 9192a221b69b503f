"""Heads that were trained on what a frozen encoder makes of texts: a classifier, or how well a document fits a query.

    logits = skip x + out relu(hidden x + hidden_bias) + bias

A head is a folder: head.json, which says what it is, and head.safetensors. It belongs to the one encoder that it was
trained on, whose SHA-256 it holds, and to vectors that are pooled as they were then.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from soberano.backends.homes import home_of
from soberano.core import durable
from soberano.core.errors import FileError, InputError
from soberano.core.hashing import sha256
from soberano.core.progress import Progress, silent
from soberano.core.types import Array
from soberano.formats import safetensors, safetensors_write
from soberano.formats.json_file import read_object
from soberano.models.sentence import Sentence
from soberano.ops.activation import relu, sigmoid
from soberano.ops.linear import linear
from soberano.ops.softmax import softmax

Kind = Literal["classifier", "relevance"]
CARD, WEIGHTS, FORMAT = "head.json", "head.safetensors", 1
MAX_CARD = 16 * 2**20
MAX_LABELS = 1 << 16


class Layers(NamedTuple):
    """The weights; C is the number of labels, and 1 for relevance."""

    skip: Array  # (C, I)
    hidden: Array  # (H, I)
    hidden_bias: Array  # (H,)
    out: Array  # (C, H)
    bias: Array  # (C,)

    def logits(self, x: Array) -> Array:
        """x (B, I) float32 -> (B, C) float32."""
        h = relu(linear(self.hidden, x, self.hidden_bias))  # (B, H)
        return linear(self.skip, x) + linear(self.out, h, self.bias)


@dataclass(frozen=True)
class Reads:
    """How the vectors were made that a head was trained on."""

    width: int
    pooling: str
    normalize: bool
    prompt: str
    context: int  # tokens that were read of a text: said, and not compared

    @classmethod
    def of(cls, sentence: Sentence, width: int, context: int) -> "Reads":
        """As an encoder makes them."""
        return cls(width, sentence.pooling, sentence.normalize, sentence.prompt, context)


@dataclass(frozen=True)
class Base:
    """The encoder that a head was trained on."""

    name: str
    sha256: str


@dataclass(frozen=True)
class TrainedHead:
    """A head, ready to use on arrays of any home that its weights are of."""

    kind: Kind
    labels: tuple[str, ...]  # of a classifier, in the order of its logits; none for relevance
    layers: Layers
    reads: Reads
    base: Base

    def classify(self, vectors: Array) -> Array:
        """The probability of each label: vectors (B, D) float32 -> (B, C) float32."""
        return softmax(self.layers.logits(vectors))

    def relevance(self, query: Array, documents: Array) -> Array:
        """How well documents fit a query, from 0 to 1: query (D,) and documents (B, D), or both (B, D), -> (B,)."""
        return sigmoid(self.layers.logits(pair_features(query, documents)))[:, 0]

    def check(self, path: Path, sentence: Sentence, width: int, progress: Progress = silent) -> None:
        """Raise InputError for another encoder than that of the head, or one that pools otherwise."""
        found = base_hash(path, progress)
        if found != self.base.sha256:
            raise InputError(
                f"the head was trained on {self.base.name!r} with SHA-256 {self.base.sha256[:16]}..., and {path} has "
                f"{found[:16]}...; a head answers wrongly on another encoder: give that one, or train a head for this"
            )
        now = Reads.of(sentence, width, self.reads.context)
        if now != self.reads:
            was, other = ({k: v for k, v in asdict(r).items() if k != "context"} for r in (self.reads, now))
            raise InputError(
                f"the head was trained on vectors made with {was}, and {path} says {other}: train it again"
            )


def pair_features(query: Array, documents: Array) -> Array:
    """What a relevance head reads of a query and a document: q * d, |q - d| and their cosine.

    query (D,) and documents (B, D), or both (B, D), float32 -> (B, 2 D + 1) float32. Source of the first two:
    Conneau et al. 2017, arXiv 1705.02364.
    """
    xp = home_of(query, documents).xp
    both = query * documents  # (B, D)
    lengths = xp.sqrt(xp.sum(query * query, axis=-1) * xp.sum(documents * documents, axis=-1))  # (B,)
    cosine = xp.sum(both, axis=-1) / xp.where(lengths == 0, 1, lengths)
    return xp.concatenate([both, xp.abs(query - documents), cosine[:, None]], axis=-1)


def features(kind: Kind, width: int) -> int:
    """How many numbers a head reads, of vectors of `width`."""
    return width if kind == "classifier" else 2 * width + 1


def base_hash(path: Path, progress: Progress = silent) -> str:
    """The SHA-256 of an encoder's weights: of its file; of a folder's parts, the SHA-256 of their hashes in order."""
    if not path.is_dir():
        return sha256(path, progress)
    parts = sorted(path.glob("*.safetensors")) if (path / f"model.safetensors{safetensors.INDEX}").is_file() else []
    if not parts:
        return sha256(path / "model.safetensors", progress)
    digests = "\n".join(f"{part.name} {sha256(part, progress)}" for part in parts)
    return hashlib.sha256(digests.encode()).hexdigest()


def write_head(folder: Path, head: TrainedHead, told: Mapping[str, Any]) -> dict[str, Any]:
    """Write a head; `told` is what else head.json says -> all that it says. Raises FileError, OSError.

    head.json comes last and holds the hash of the weights, so a folder is a head, or none, whenever the power fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    safetensors_write.write(folder / WEIGHTS, head.layers._asdict(), {"format": "pt"})
    card = {
        "format": FORMAT,
        "kind": head.kind,
        "labels": list(head.labels),
        "base": asdict(head.base),
        "reads": asdict(head.reads),
        "hidden": len(head.layers.hidden),
        "weights_sha256": sha256(folder / WEIGHTS),
        **told,
    }
    part = folder / f".{CARD}.{secrets.token_hex(4)}.part"
    try:
        part.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        durable.rename(part, folder / CARD)
    finally:
        part.unlink(missing_ok=True)
    return card


def read_head(folder: str | os.PathLike[str]) -> TrainedHead:
    """Read a head, as NumPy arrays. Raises FileError for a folder that holds none, or a damaged one."""
    folder = Path(folder)
    path = folder / CARD
    if not path.is_file():
        raise FileError(f"{folder} holds no head ({CARD} is missing); `soberano train head` makes one")
    card = read_object(path, MAX_CARD)
    kind: Any = card.get("kind")
    labels: Any = card.get("labels")
    if card.get("format") != FORMAT or kind not in get_args(Kind):
        said = f"format {card.get('format')!r:.40} and kind {kind!r:.40}"
        raise FileError(f"{path} says {said}; known are format {FORMAT}, {' and '.join(get_args(Kind))}")
    texts = isinstance(labels, list) and all(isinstance(label, str) for label in labels)
    if not texts or len(set(labels)) != len(labels) or not (2 <= len(labels) <= MAX_LABELS or kind == "relevance"):
        raise FileError(f"{path}: labels must be a list of 2 or more different texts; train the head again")
    reads = _part(path, card, "reads", Reads, {"width": int, "pooling": str, "normalize": bool, "prompt": str})
    base = _part(path, card, "base", Base, {"name": str, "sha256": str})
    if card.get("weights_sha256") != sha256(folder / WEIGHTS):
        raise FileError(f"{folder / WEIGHTS} is not the file that {CARD} was written with; train the head again")
    count = len(labels) if kind == "classifier" else 1
    layers = _layers(folder / WEIGHTS, count, features(kind, reads.width), card.get("hidden"))
    return TrainedHead(kind, tuple(labels) if kind == "classifier" else (), layers, reads, base)


def _part(path: Path, card: Mapping[str, Any], name: str, kind: type, types: Mapping[str, type]) -> Any:
    """An object of head.json as a dataclass."""
    types = {**types, "context": int} if kind is Reads else types
    given = card.get(name)
    if not isinstance(given, dict) or {key: type(value) for key, value in given.items()} != types:
        wanted = ", ".join(f"{key} ({each.__name__})" for key, each in types.items())
        raise FileError(f"{path}: {name} must be an object of {wanted}; train the head again")
    return kind(**given)


def _layers(path: Path, count: int, inputs: int, hidden: Any) -> Layers:
    shapes = Layers((count, inputs), (hidden, inputs), (hidden,), (count, hidden), (count,))._asdict()
    with safetensors.read(path) as file:
        for name, shape in shapes.items():
            info = file.tensors.get(name)
            if info is None or tuple(info.shape) != shape or info.format.__name__ != "F32":
                found = "missing" if info is None else f"{tuple(info.shape)} {info.format.__name__}"
                raise FileError(f"{path}: the tensor {name} is {found}, and must be {shape} F32; train the head again")
        arrays = {name: file.raw(name).view("<f4").reshape(shape).copy() for name, shape in shapes.items()}
    bad = next((name for name, array in arrays.items() if not np.isfinite(array).all()), None)
    if bad is not None:
        raise FileError(f"{path}: the tensor {bad} holds numbers that are not finite; train the head again")
    return Layers(**arrays)
