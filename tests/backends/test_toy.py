"""A third party's home arrives by entry point, runs every op's meaning, and has its one kernel used."""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soberano.ops
from soberano.backends import homes
from soberano.backends.base import Home
from soberano.backends.dispatch import Op
from soberano.backends.tree import leaves, map_arrays
from soberano.core.errors import InputError
from soberano.ops.norm import rms_norm
from soberano.ops.rope import Rotation
from soberano.ops.sample import Sampling
from soberano.quant.tensor import Experts, Stack
from soberano.quant.vectors import vectors
from tests.backends import toy

F32, I32, U32 = np.float32, np.int32, np.uint32


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=shape).astype(F32)


def _cases() -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments of each op. A new op adds a line, and the test below runs it on every home."""
    x, w, logits, pair = draw(2, 8), draw(8), draw(2, 300), (draw(2, 8), draw(3, 8))
    low = ((draw(2, 8), draw(5, 2)), (draw(3, 8), draw(4, 3)))
    seed, place = np.array([[1, 2], [3, 4]], U32), np.array([5, 6], I32)
    lanes, bits = np.array([[0, 9], [3, 2]], I32), np.arange(8, dtype=np.uint8).reshape(2, 4)
    sampling = Sampling(
        np.array([1, 0.5], F32), np.array([0, 7], I32), np.array([0.9, 1], F32), np.array([0, 0.1], F32)
    )
    base = vectors(draw(3, 8), "dot")
    many, few = np.zeros(3, I32), np.arange(3, dtype=I32)
    wide, back = (Experts(Stack((draw(3, *shape),), many, few), 3, 0) for shape in ((6, 8), (8, 6)))
    pages, table, at = draw(1, 2, 1, 4, 4), np.array([[0], [1]], I32), np.array([[0, 1], [2, -1]], I32)
    return {
        "norm.rms_norm": ((x, w), {"eps": 1e-5}),
        "norm.rms_norm_back": ((x, x, w), {"eps": 1e-5}),
        "norm.layer_norm": ((x, w, w), {"eps": 1e-5}),
        "norm.add_layer_norm": ((x, x, w, w), {"eps": 1e-5}),
        "rope.rotation": ((at, 4), {"base": 1e5, "factors": [1.0, 2.0]}),
        "rope.rope": ((draw(2, 2, 3, 6), Rotation(draw(2, 2, 2), draw(2, 2, 2))), {}),
        "activation.relu": ((x,), {}),
        "activation.silu": ((x,), {}),
        "activation.gelu": ((x,), {"form": "erf"}),
        "activation.swiglu": ((x, x), {}),
        "activation.swiglu_back": ((x, x, x), {}),
        "activation.sigmoid": ((x,), {}),
        "activation.clamped_swiglu": ((x, x), {}),
        "activation.geglu": ((x, x), {}),
        "activation.soft_cap": ((x,), {"cap": 2.0}),
        "softmax.softmax": ((x,), {}),
        "softmax.log_softmax": ((x,), {"axis": 0}),
        "softmax.logsumexp": ((x,), {}),
        "topk.top_k": ((x, 3), {}),
        "random.philox": ((np.arange(8, dtype=U32).reshape(2, 4), seed), {}),
        "random.uniform": ((seed, place, 9), {}),
        "random.uniform_at": ((seed, place, lanes), {}),
        "random.gumbel": ((seed, place, 9), {}),
        "random.gumbel_at": ((seed, place, lanes), {}),
        "sample.greedy": ((logits,), {}),
        "sample.sample": ((logits, sampling, seed, place), {}),
        "sample.kept": ((logits, sampling), {}),
        "sample.penalise": ((logits, *[np.ones((2, 300), I32)] * 2, w[:2], w[:2], w[:2], logits), {}),
        "loss.cross_entropy": ((x, np.array([1, -100], I32)), {}),
        "loss.with_slope": ((draw(1), x, x), {}),
        "loss.kl_divergence": ((x, x[::-1].copy()), {}),
        "distance.dot": (pair, {}),
        "distance.cosine": (pair, {}),
        "distance.l2": (pair, {}),
        "distance.hamming": ((bits, bits), {}),
        "knn.nearest": ((x, base, 2), {}),
        "knn.rescore": ((x, base, np.array([[0, 2], [1, 1]], I32)), {}),
        "linear.products": (((draw(5, 8), draw(3, 8)), x), {}),
        "low_rank.low_ranks": ((x, low, (draw(2, 5), draw(2, 4))), {"scales": (0.5, 2.0)}),
        "low_rank.low_ranks_back": (((draw(2, 5), draw(2, 4)), x, low), {"scales": (0.5, 2.0)}),
        "linear.embed": ((draw(5, 8), lanes % 5), {}),
        "linear_transposed.linears_transposed": (((draw(5, 8), draw(3, 8)), draw(2, 5), draw(2, 3)), {}),
        "feed_forward.feed_forward": ((draw(6, 8), draw(6, 8), draw(8, 6), x), {"activation": "gelu"}),
        "experts.route": ((draw(2, 5),), {"count": 2, "normalise": True}),
        "experts.experts": ((wide, wide, back, x, np.array([[2, 0], [1, 2]], I32), draw(2, 2)), {}),
        "self_attention.self_attention": ((draw(2, 3, 2, 4), *[draw(2, 3, 1, 4)] * 2, np.array([3, 1], I32)), {}),
        "causal_attention.causal_attention": (
            (draw(2, 3, 2, 4), *[draw(2, 3, 1, 4)] * 2, np.array([[0, 0, -1], [0, 1, 1]], I32)),
            {"cap": 2.0},
        ),
        "causal_attention.causal_attention_back": (
            (
                *[draw(2, 3, 2, 4)] * 2,
                draw(2, 3, 2, 4),
                *[draw(2, 3, 1, 4)] * 2,
                np.array([[0, 0, -1], [0, 1, 1]], I32),
            ),
            {"window": 2},
        ),
        "pool.pool": ((draw(2, 3, 4), np.array([3, 1], I32)), {"how": "mean"}),
        "attention.write_kv": ((pages, pages, draw(2, 2, 1, 4), draw(2, 2, 1, 4), at, table, 0), {}),
        "attention.attend": (
            (
                draw(2, 2, 2, 4),
                *[draw(2, 2, 1, 4)] * 2,
                Rotation(draw(2, 2, 2), draw(2, 2, 2)),
                *[pages] * 2,
                at,
                table,
                0,
            ),
            {},
        ),
        "attention.attention": ((draw(2, 2, 2, 4), pages, pages, at, table, 0), {}),
    }


CASES = _cases()


def all_ops() -> dict[str, Op]:
    names = [m.name for m in pkgutil.iter_modules(soberano.ops.__path__) if not m.name.endswith(("_jax", "_cupy"))]
    modules = [importlib.import_module(f"soberano.ops.{name}") for name in names]
    return {
        f"{module.__name__.removeprefix('soberano.ops.')}.{name}": value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, Op) and value.meaning.__module__ == module.__name__
    }


OPS = all_ops()


@pytest.fixture
def toy_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """The toy, installed: a distribution's folder on the path, as pip would leave it."""
    info = tmp_path / "toy-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[soberano.backends]\ntoy = tests.backends.toy:HOME\n")
    monkeypatch.syspath_prepend(tmp_path)
    for cached in (homes.home, homes.home_of_type):
        cached.cache_clear()
    yield homes.home("toy")
    monkeypatch.undo()
    for cached in (homes.home, homes.home_of_type):
        cached.cache_clear()


def place(home: Home, tree: Any) -> Any:
    """Copy every array of a tree to a home; numbers and options stay."""
    return map_arrays(lambda leaf: home.asarray(np.array(leaf)) if isinstance(leaf, np.ndarray) else leaf, tree)


def test_every_op_has_a_case() -> None:
    assert sorted(OPS) == sorted(CASES), "a new op needs a line in _cases, with small arguments"


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_meaning_runs(toy_home: Home, name: str) -> None:
    arguments, options = CASES[name]
    expected = OPS[name](*place(homes.home("numpy"), arguments), impl="meaning", **options)
    actual = OPS[name](*place(toy_home, arguments), impl="meaning", **options)
    flat = leaves(actual)
    assert all(isinstance(part, toy.ToyArray) for part in flat), "an array left its home"
    for part, other in zip(flat, leaves(expected), strict=True):
        assert np.array_equal(toy_home.to_numpy(part), other, equal_nan=True)


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_meaning_compiles_on_jax(name: str) -> None:
    """The meaning may not ask for the values of arrays: under jit there are none."""
    jax = pytest.importorskip("jax")
    arguments, options = CASES[name]
    traced = [i for i, argument in enumerate(arguments) if not isinstance(argument, int)]

    def run(*arrays: Any) -> Any:
        whole = list(arguments)
        for i, array in zip(traced, arrays, strict=True):
            whole[i] = array
        return OPS[name](*whole, impl="meaning", **options)

    here = place(homes.home("jax"), tuple(arguments[i] for i in traced))
    expected = OPS[name](*place(homes.home("numpy"), arguments), impl="meaning", **options)
    shapes = jax.tree.map(lambda part: (part.shape, part.dtype), jax.eval_shape(run, *here))
    assert shapes == jax.tree.map(lambda part: (part.shape, part.dtype), expected)


def test_the_one_kernel_is_used(toy_home: Home) -> None:
    toy.KERNEL_CALLS.clear()
    x, w = place(toy_home, (draw(2, 8), draw(8)))
    assert (rms_norm(x, w, eps=1e-5) == 42).all()
    assert (rms_norm(x, w, eps=1e-5, impl="kernel") == 42).all()
    assert len(toy.KERNEL_CALLS) == 2
    assert not (rms_norm(x, w, eps=1e-5, impl="meaning") == 42).any()


def test_an_op_outside_the_shared_names_is_caught(toy_home: Home) -> None:
    with pytest.raises(AttributeError, match="fft is not among the names"):
        _ = toy_home.xp.fft
    jnp = pytest.importorskip("jax.numpy")
    assert [name for name in toy.PORTABLE if not (hasattr(np, name) and hasattr(jnp, name))] == []


def test_without_the_entry_point_there_is_no_toy() -> None:
    with pytest.raises(InputError, match="no backend is called 'toy'; there are auto, cpu, cuda, xla, numpy"):
        homes.home("toy")
    with pytest.raises(TypeError, match="no array, only ToyArray"):
        homes.home_of(toy.toy(draw(2)))
