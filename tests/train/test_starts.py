"""Where adapters begin: what each start promises of the first step, as an adapter of the unchanged base."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import soberano
from soberano.backends.homes import home
from soberano.bench.score import logits
from soberano.core.errors import InputError
from soberano.formats import gguf
from soberano.train.adapters import Shape
from soberano.train.export import write_gguf
from soberano.train.optimizer import Rates
from soberano.train.run import Run, Settings
from soberano.train.starts import begin, principal
from tests.tiny import write_tiny_llama
from tests.train.test_run import texts

SHAPE = Shape(rank=4, alpha=8.0, root=True, ranks=(("attn_k", 2),))
SETTINGS = Settings(shape=SHAPE, rates=Rates(rate=1e-2, decay=0.1), epochs=2, length=32, accumulate=2)
TEXT = list(range(3, 30))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model in 4 bits, and the same weights in float32."""
    folder = tmp_path_factory.mktemp("model")
    for name, kind in (("four", "Q4_0"), ("whole", "F32")):
        write_tiny_llama(folder / f"{name}.gguf", types=lambda n, kind=kind: "F32" if "norm" in n else kind)
    return folder / "four.gguf", folder / "whole.gguf"


def rows(path: Path, adapter: Path | None = None) -> np.ndarray:
    with soberano.load(path, backend="numpy", adapter=adapter) as model:
        return np.concatenate(list(logits(model, TEXT, single=False)))


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (3, 64)])
def test_principal_directions(shape: tuple[int, int], rng: np.random.Generator) -> None:
    w = (rng.normal(size=shape) * 0.5 ** np.arange(shape[1])).astype(np.float32)
    left, right = principal(w, 6, rng)
    u, s, v = np.linalg.svd(w, full_matrices=False)
    best = (u[:, :6] * s[:6]) @ v[:6]
    np.testing.assert_allclose(left @ right, best, atol=2e-3 * s[0])
    assert left.shape == (shape[0], 6) and right.shape == (6, shape[1])


def test_loftq_repairs_what_quantising_lost(files: tuple[Path, Path], tmp_path: Path) -> None:
    four, whole = files
    with soberano.load(four, backend="numpy") as model, gguf.read(four) as q, gguf.read(whole) as w:
        pairs, shape = begin(model, SHAPE, 0, "loftq", whole)
        for product, pair in pairs.items():
            name, numpy = f"blk.1.{product}.weight", home("numpy")
            lost = w.tensors[name].format.dequantize(numpy, w.raw(name)) - q.tensors[name].format.dequantize(
                numpy, q.raw(name)
            )
            rank = pair.a.shape[1]
            left = np.linalg.norm(lost - shape.scale_of(product) * pair.b[1] @ pair.a[1])
            singular = np.linalg.svd(lost, compute_uv=False)
            best = float(np.sqrt((singular[rank:] ** 2).sum()))
            assert left == pytest.approx(best, rel=0.05), "the best of its rank"
        said = {"architecture": "llama", "name": "start", "base_hash": model.base_hash()}
        write_gguf(tmp_path / "start.gguf", pairs, shape, **said)
    right = rows(whole)
    assert np.abs(rows(four, tmp_path / "start.gguf") - right).mean() < 0.95 * np.abs(rows(four) - right).mean()


@pytest.mark.parametrize("backend", ["cpu", "numpy"])
def test_pissa_begins_at_the_model_and_moves_from_there(backend: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    four, _ = files
    with soberano.load(four, backend=backend) as model:
        settings = replace(SETTINGS, start="pissa", exact=True)
        run, plain = Run(model, texts(12), [], settings, tmp_path), Run(model, [], [], SETTINGS, tmp_path / "none")
        assert run.evaluate(texts(4)) == pytest.approx(plain.evaluate(texts(4)), abs=1e-4), "W x, at first"
        first = {name: (pair.a.copy(), pair.b.copy()) for name, pair in run.pairs.items()}
        before = run.evaluate(texts(12))
        run.train()
        assert run.evaluate(texts(12)) < before / 2
        for name, pair in run.pairs.items():
            half = pair.a.shape[1] // 2
            assert half == SHAPE.rank_of(name)
            np.testing.assert_array_equal(pair.a[:, half:], first[name][0][:, half:], err_msg="it stays")
            np.testing.assert_array_equal(pair.b[:, :, half:], first[name][1][:, :, half:], err_msg="it stays")
            assert np.abs(pair.a[:, :half] - first[name][0][:, :half]).max() > 0
            assert np.abs(pair.b[:, :, :half] - first[name][1][:, :, :half]).max() > 0
        said = {"architecture": "llama", "name": "start", "base_hash": model.base_hash()}
        write_gguf(tmp_path / "pissa.gguf", run.pairs, run.shape, **said)
        after = run.evaluate(texts(4))
    with soberano.load(four, backend=backend, adapter=tmp_path / "pissa.gguf") as model:
        sequence = texts(4)
        found = []
        for text in sequence:
            seen = np.concatenate(list(logits(model, text.tokens.tolist(), single=False))).astype(np.float64)
            shifted = seen - np.log(np.exp(seen - seen.max(-1, keepdims=True)).sum(-1, keepdims=True))
            shifted -= seen.max(-1, keepdims=True)
            found += [-shifted[i, text.tokens[i + 1]] for i in range(len(text.tokens) - 1)]
        assert np.mean(found) == pytest.approx(after, rel=0.02), "the file is the adapter that was trained"


def test_a_start_that_cannot_be(files: tuple[Path, Path], tmp_path: Path) -> None:
    four, _ = files
    other = tmp_path / "other.gguf"
    write_tiny_llama(other, layers=1)
    with soberano.load(four, backend="numpy") as model:
        with pytest.raises(InputError, match="needs a 16-bit copy of the model: --sixteen"):
            begin(model, SHAPE, 0, "loftq")
        with pytest.raises(InputError, match=r"is no copy of .*: its tensor blk.1.attn_q.weight is missing"):
            begin(model, SHAPE, 0, "loftq", other)
