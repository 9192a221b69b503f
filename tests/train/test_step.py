"""The loss and its gradient, on every backend, of every decoder."""

from pathlib import Path

import numpy as np
import pytest

import soberano
from soberano.backends.tree import map_arrays
from soberano.core.errors import UnsupportedModel
from soberano.models.adapter import Pair
from soberano.models.architecture import architecture
from soberano.train.adapters import Shape, fresh
from soberano.train.step import Batch, loss_and_grad
from tests.models.test_conformance import DECODERS
from tests.tiny_decoders import write_tiny

LIMIT = {"xla": 1e-5, "cpu": 1e-3}
"""How far the gradient of one product may be from NumPy's, of its length: cpu rounds activations to 15 bits."""

KERNELS = ("llama", "qwen2", "phi3", "gemma3")
"""Architectures that between them call every op: where our kernels compute too."""

MIXTURES = [name for name in DECODERS if "ffn_gate_exps" in architecture(name).Layer._fields]
SHAPE = Shape(rank=4, alpha=8.0)


def batch() -> Batch:
    """Two rows: two texts and padding, and one text, of whose targets only some count."""
    rng = np.random.default_rng(5)
    tokens = rng.integers(3, 272, (2, 24)).astype(np.int32)
    segments = np.array([[0] * 10 + [1] * 9 + [-1] * 5, [0] * 24], np.int32)
    positions = np.array([[*range(10), *range(9), *range(5)], [*range(24)]], np.int32)
    targets = np.where(rng.random((2, 24)) < 0.6, np.roll(tokens, -1, 1), -1).astype(np.int32)
    targets[0, [9, 18, 19, 20, 21, 22, 23]] = targets[1, 23] = -1
    return Batch(tokens, positions, segments, targets)


def some(pairs: dict[str, Pair]) -> dict[str, Pair]:
    """Adapters in the middle of training: B is no longer zero."""
    rng = np.random.default_rng(6)
    return {name: Pair(a, rng.standard_normal(b.shape).astype(np.float32) / 20) for name, (a, b) in pairs.items()}


@pytest.mark.parametrize("name", [name for name in DECODERS if name not in MIXTURES])
def test_backends_agree_on_the_gradient(name: str, tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.gguf", name, types=lambda tensor: "Q8_0" if "attn" in tensor else "Q4_1")
    found = {}
    for backend in ("numpy", "xla", "cpu") if name in KERNELS else ("numpy", "xla"):
        with soberano.load(tmp_path / "m.gguf", backend=backend) as model:
            run = loss_and_grad(model.home, name, model.config, model.plan, SHAPE, exact=True)
            pairs = some(fresh(model.module, model.config, SHAPE, seed=1))
            value, grads = run(*map_arrays(model.home.asarray, (pairs, model.weights, batch())))
            found[backend] = float(value), map_arrays(model.home.to_numpy, grads)
    right, slopes = found["numpy"]
    for backend in found.keys() - {"numpy"}:
        value, grads = found[backend]
        assert value == pytest.approx(right, rel=1e-5)
        for product, (a, b) in grads.items():
            for ours, theirs in ((a, slopes[product].a), (b, slopes[product].b)):
                error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
                assert error < LIMIT[backend], (backend, product, error)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_of_experts_is_refused(name: str, tmp_path: Path) -> None:
    write_tiny(tmp_path / "m.gguf", name)
    with (
        soberano.load(tmp_path / "m.gguf", backend="numpy") as model,
        pytest.raises(UnsupportedModel, match="mixture of experts, and no gradient passes through one yet"),
    ):
        fresh(model.module, model.config, SHAPE, seed=1)
