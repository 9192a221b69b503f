"""Loading the matrices of experts: whatever their formats and the plan, expert e of layer i is what the file says."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from soberano.backends import native
from soberano.backends.homes import home
from soberano.backends.plan import Plan, Weights
from soberano.backends.tree import map_arrays
from soberano.core.errors import FileError
from soberano.core.progress import silent
from soberano.formats import gguf
from soberano.models.weights import find_weights, load_weights, weight_bytes
from soberano.ops.linear import linear
from soberano.quant.blocks import all_formats, format_named
from soberano.quant.encode import encode
from soberano.quant.tensor import Choice, Experts, QTensor

L, X, OUTPUTS, INPUTS = 3, 5, 24, 512  # layers, experts, outputs (no whole panels), inputs


class Layer(NamedTuple):
    ffn_up_exps: Any
    ffn_up_exps_bias: Any


class Top(NamedTuple):
    blk: Layer


MODULE = SimpleNamespace(
    Layer=Layer,
    Weights=Top,
    shapes=lambda c: {"ffn_up_exps": (X, OUTPUTS, INPUTS), "ffn_up_exps_bias": (X, OUTPUTS)},
    __name__="made_up",
)
CONFIG = SimpleNamespace(layers=L)
NUMPY = home("numpy")
EXPECTED: dict[Weights, type] = {"tiles": QTensor, "blocks": QTensor, "dense": np.ndarray}


def write(path: Path, kinds: list[str], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Experts of random weights, layer by layer of these formats -> (what they decode to, biases)."""
    tensors, weights, biases = {}, [], rng.normal(size=(L, X, OUTPUTS)).astype(np.float32)
    for i, kind in enumerate(map(format_named, kinds)):
        raw = encode(kind, rng.normal(size=(X, OUTPUTS, INPUTS)).astype(np.float32))
        tensors[f"blk.{i}.ffn_up_exps.weight"] = (kind, raw)
        tensors[f"blk.{i}.ffn_up_exps.bias"] = (format_named("F32"), encode(format_named("F32"), biases[i]))
        weights.append(kind.dequantize(NUMPY, raw))
    gguf.write(path, {"general.architecture": "made-up"}, tensors)
    return np.stack(weights), biases


def load(path: Path, form: Weights) -> tuple[Layer, int]:
    """The layers of a plan that wants weights in this form, and the bytes that were promised for them."""
    with gguf.read(path) as file:
        found = find_weights(file, MODULE, CONFIG)
        plan = Plan("cpu", "numpy", native=form == "tiles", weights=form)
        return load_weights(file, MODULE, found, plan, NUMPY, silent).blk, weight_bytes(found, form)


def check(blk: Layer, weights: np.ndarray, biases: np.ndarray) -> None:
    x = np.eye(INPUTS, dtype=np.float32)
    for i in range(L):
        layer, bias = blk.ffn_up_exps.layer(NUMPY, i), blk.ffn_up_exps_bias.layer(NUMPY, i)
        assert isinstance(layer, Experts) and layer.shape == (X, OUTPUTS, INPUTS)
        np.testing.assert_array_equal(bias, biases[i])
        for e in range(X):
            np.testing.assert_array_equal(linear(layer.expert(NUMPY, e), x).T, weights[i, e])


@pytest.fixture(params=["tiles", "blocks", "dense"])
def form(request: pytest.FixtureRequest) -> Weights:
    if request.param == "tiles" and not native.state()[0]:
        pytest.skip(native.state()[1])
    return request.param


@pytest.mark.parametrize("kind", [kind.name for kind in all_formats()])
def test_experts_of_one_format(kind: str, form: Weights, tmp_path: Path, rng: np.random.Generator) -> None:
    weights, biases = write(tmp_path / "m.gguf", [kind] * L, rng)
    blk, promised = load(tmp_path / "m.gguf", form)
    check(blk, weights, biases)
    plain = form == "blocks" and format_named(kind).plain
    view = blk.ffn_up_exps.layer(NUMPY, 1).expert(NUMPY, 2)
    assert isinstance(view, np.ndarray if plain else EXPECTED[form])
    if isinstance(view, QTensor):
        assert view.data is blk.ffn_up_exps.matrices.members[0].data, "an expert is no copy"
    made: list[int] = []
    map_arrays(lambda array: made.append(array.nbytes), blk)
    tables = 2 * 4 * (L * X + L)  # a tag and a slot, for each expert of each layer, and for each layer's biases
    assert sum(made) - tables == promised


@pytest.mark.parametrize("kinds", [["Q4_K", "Q6_K", "Q4_K"], ["F16", "Q8_0", "MXFP4"], ["Q5_0", "BF16", "F32"]])
def test_formats_that_differ_from_layer_to_layer(
    kinds: list[str], form: Weights, tmp_path: Path, rng: np.random.Generator
) -> None:
    weights, biases = write(tmp_path / "m.gguf", kinds, rng)
    blk, _ = load(tmp_path / "m.gguf", form)
    check(blk, weights, biases)
    assert isinstance(blk.ffn_up_exps.layer(NUMPY, 0).expert(NUMPY, 0), np.ndarray if form == "dense" else Choice)


@pytest.mark.parametrize(
    "shape,says",
    [
        ((X, OUTPUTS), r"\(5, 24\)"),
        ((X + 1, OUTPUTS, INPUTS), r"\(6, 24, 512\)"),
        ((X, INPUTS, OUTPUTS), r"\(5, 512, 24\)"),
    ],
)
def test_a_wrong_shape_is_refused_by_name(shape: tuple[int, ...], says: str, tmp_path: Path) -> None:
    plain = format_named("F32")
    tensors = {
        f"blk.{i}.ffn_up_exps.{part}": (plain, encode(plain, np.zeros(size, np.float32)))
        for i in range(L)
        for part, size in (("weight", shape if i == 1 else (X, OUTPUTS, INPUTS)), ("bias", (X, OUTPUTS)))
    }
    gguf.write(tmp_path / "m.gguf", {"general.architecture": "made-up"}, tensors)
    says = rf"blk\.1\.ffn_up_exps\.weight is {says}, but the metadata says"
    with gguf.read(tmp_path / "m.gguf") as file, pytest.raises(FileError, match=says):
        find_weights(file, MODULE, CONFIG)


def test_a_traced_layer_and_expert(rng: np.random.Generator, tmp_path: Path) -> None:
    jax = home("jax")
    weights, _ = write(tmp_path / "m.gguf", ["Q4_0", "Q5_1", "Q4_0"], rng)
    blk, _ = load(tmp_path / "m.gguf", "blocks")
    experts, x = map_arrays(jax.asarray, blk.ffn_up_exps), jax.asarray(rng.normal(size=(1, INPUTS)).astype(np.float32))
    product: Callable[..., Any] = jax.compile(
        lambda experts, x, i, e: linear(experts.layer(jax, i).expert(jax, e), x, impl="meaning")
    )
    for i, e in ((0, 4), (1, 0), (2, 3)):
        found = product(experts, x, np.int32(i), np.int32(e))
        np.testing.assert_allclose(found[0], np.asarray(x)[0] @ weights[i, e].T, rtol=1e-4, atol=1e-4)
