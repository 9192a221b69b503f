"""Where adapters begin: at nothing, at what quantising lost, or in the principal directions of the weights.

The base stays as it is in its file, so each start is an adapter of it. LoftQ's repairs what rounding did to the
weights, where a 16-bit copy says what that was: s B A is the best of its rank to W16 - W (arXiv 2310.08659, one step).
PiSSA's begins with the principal part of W, where a gradient finds most to do, and takes it off again with a second
pair that stays: W x + s (B A - B0 A0) x is W x at first (arXiv 2404.02948). So its adapter has twice the rank.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from soberano.backends import homes
from soberano.core.errors import InputError
from soberano.core.progress import Progress, silent
from soberano.formats import gguf
from soberano.models.adapter import Pair
from soberano.models.model import Model
from soberano.train.adapters import Shape, fresh

Start = Literal["lora", "loftq", "pissa"]
STARTS: tuple[Start, ...] = ("lora", "loftq", "pissa")

OVERSAMPLED, POWERS = 8, 3
"""Of the randomised singular value decomposition: directions beside those that are wanted, and rounds."""

Matrix = Callable[[str], np.ndarray]


def begin(
    model: Model, shape: Shape, seed: int, start: Start, sixteen: Path | None = None, progress: Progress = silent
) -> tuple[dict[str, Pair], Shape]:
    """(adapters as NumPy arrays, their shape). Of PiSSA's, the second half of each rank is never trained.

    Raises InputError where LoftQ's start is given no 16-bit copy of the model, or that of another.
    """
    pairs = fresh(model.module, model.config, shape, seed)
    if start == "lora":
        return pairs, shape
    if start == "loftq" and sixteen is None:
        raise InputError("loftq repairs what quantising lost, and needs a 16-bit copy of the model: --sixteen")
    with gguf.read(model.path) as file:
        if start == "pissa":
            return _pissa(pairs, shape, _reader(file), seed, progress), twice(shape, pairs)
        with gguf.read(sixteen or "") as whole:
            _same(file, whole, pairs, model.config.layers)
            base, exact = _reader(file), _reader(whole)
            return _factors(pairs, shape, lambda name: exact(name) - base(name), seed, progress), shape


def trained(pairs: dict[str, Pair], start: Start) -> dict[str, Pair]:
    """1 for each rank that is trained and 0 for one that stays, to multiply changes by."""
    masks = {}
    for name, pair in pairs.items():
        rank = pair.a.shape[1]
        learns = (np.arange(rank) < (rank // 2 if start == "pissa" else rank)).astype(np.float32)
        masks[name] = Pair(learns[:, None], learns)
    return masks


def twice(shape: Shape, names: Any) -> Shape:
    """The shape of adapters of twice the rank and the same scales."""
    each = lambda values: tuple((f"^{re.escape(name)}$", value) for name, value in values.items())  # noqa: E731
    ranks = {name: 2 * shape.rank_of(name) for name in names}
    alphas = {name: shape.scale_of(name) * rank for name, rank in ranks.items()}
    return replace(shape, root=False, rank=2 * shape.rank, ranks=each(ranks), alphas=each(alphas))


def _reader(file: gguf.GGUF) -> Matrix:
    numpy = homes.home("numpy")
    return lambda name: file.tensors[name].format.dequantize(numpy, file.raw(name)).astype(np.float32)


def _same(file: gguf.GGUF, whole: gguf.GGUF, names: Any, layers: int) -> None:
    for name in (f"blk.{layer}.{product}.weight" for product in names for layer in range(layers)):
        theirs = whole.tensors.get(name)
        if theirs is None or theirs.shape != file.tensors[name].shape:
            said = "is missing" if theirs is None else f"is {theirs.shape}"
            raise InputError(
                f"{whole.path} is no copy of {file.path}: its tensor {name} {said}, and should be "
                f"{file.tensors[name].shape}"
            )


def _factors(pairs: dict[str, Pair], shape: Shape, matrix: Matrix, seed: int, progress: Progress) -> dict[str, Pair]:
    """The pairs whose products, times their scales, are nearest to the matrices of their names."""
    done, count = 0, sum(len(pair.a) for pair in pairs.values())
    for product, pair in pairs.items():
        for layer in range(len(pair.a)):
            name = f"blk.{layer}.{product}.weight"
            left, right = principal(matrix(name), pair.a.shape[1], np.random.default_rng([seed, *name.encode()]))
            even = np.float32(shape.scale_of(product) ** -0.5)
            pair.a[layer], pair.b[layer] = even * right, even * left
            done += 1
            progress("start", done, count, "matrices")
    return pairs


def _pissa(pairs: dict[str, Pair], shape: Shape, matrix: Matrix, seed: int, progress: Progress) -> dict[str, Pair]:
    found = _factors(pairs, shape, matrix, seed, progress)
    return {
        name: Pair(np.concatenate([pair.a, pair.a], axis=1), np.concatenate([pair.b, -pair.b], axis=2))
        for name, pair in found.items()
    }


def principal(w: np.ndarray, rank: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(O, R) and (R, I) whose product is nearest to w (O, I), each with the root of the singular values.

    Randomised: Halko, Martinsson and Tropp 2011, arXiv 0909.4061. Missing ranks, where w has fewer, are zeros.
    """
    room = min(rank + OVERSAMPLED, *w.shape)
    found = w @ rng.standard_normal((w.shape[1], room)).astype(np.float32)
    for _ in range(POWERS):
        basis, _ = np.linalg.qr(found)
        found = w @ (w.T @ basis)
    basis, _ = np.linalg.qr(found)
    u, s, v = np.linalg.svd(basis.T @ w, full_matrices=False)
    kept = min(rank, len(s))
    left, right = np.zeros((w.shape[0], rank), np.float32), np.zeros((rank, w.shape[1]), np.float32)
    root = np.sqrt(s[:kept])
    left[:, :kept], right[:kept] = (basis @ u[:, :kept]) * root, root[:, None] * v[:kept]
    return left, right
