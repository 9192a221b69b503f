"""The list that every encoder must hold, and gets by existing. What is tested: the models of tests/tiny_encoders.py."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.core.errors import FileError, UnsupportedModel
from soberano.models.architecture import architecture, is_encoder, known
from soberano.models.encoder import Encoder
from soberano.models.load import load_encoder
from soberano.ops.distance import unit
from tests.tiny_encoders import CONTEXT, GOLDEN, TEXTS, WIDTH, Tiny

NAMES = sorted(path.stem for path in GOLDEN.glob("*.json"))
FOLDERS = [name for name in NAMES if Tiny(name).config is not None]
BACKENDS = ["numpy", "xla", "cpu", "cpu exact"]
EXACT = 2e-6
"""How far a number of a vector of length 1 may be off in float32."""


def test_every_encoder_is_on_the_list() -> None:
    wanted = {name for name in known() if is_encoder(architecture(name))}
    assert wanted == {name.partition(".")[0] for name in NAMES}, "make a golden file: see tests/golden/make_encoders.py"
    with_folder = {name for name in wanted if hasattr(architecture(name), "HUGGING_FACE")}
    assert with_folder == {name.partition(".")[0] for name in FOLDERS}


@pytest.fixture(scope="module", params=NAMES)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    return Tiny(request.param)


@pytest.fixture(scope="module")
def file(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_gguf(tmp_path_factory.mktemp("tiny") / "m.gguf")


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, file: Path) -> Iterator[Encoder]:
    backend, _, exact = request.param.partition(" ")
    with load_encoder(file, backend=backend, exact=bool(exact)) as found:
        yield found


def limit(model: Encoder) -> float:
    """As EXACT, with what kernels lose: prompts on a matrix unit are products of bfloat16."""
    if not model.plan.native:
        return EXACT
    return 5e-3 if model.plan.isa == "amx" and model.plan.role == "prompt" else 1e-4


def test_vectors_are_those_of_others(tiny: Tiny, model: Encoder) -> None:
    golden = tiny.golden
    found = model.embed(TEXTS)
    assert found.shape == (len(TEXTS), WIDTH) and found.dtype == np.float32
    np.testing.assert_allclose(found, unit(golden["vectors"]), rtol=0, atol=limit(model))
    size = np.linalg.norm(golden["tokens"], axis=1).max()
    np.testing.assert_allclose(model.token_vectors(TEXTS[-1])[::5], golden["tokens"], rtol=0, atol=size * limit(model))


def test_llama_cpp_agrees(tiny: Tiny, model: Encoder) -> None:
    # Its GELU is the tanh form from a table of float16, its keys are float16: 1e-3 of numbers near 1.
    found = model.embed(TEXTS, normalize=False)
    size = np.linalg.norm(found, axis=1).max()
    np.testing.assert_allclose(found, tiny.golden["llama_cpp"], rtol=0, atol=3e-3 + size * limit(model))


LETTERS = st.lists(st.text("ab c", max_size=60), min_size=1, max_size=9)


@given(texts=LETTERS, batch=st.sampled_from([1, 3, 32]))
def test_neither_padding_nor_company_changes_a_vector(model: Encoder, texts: list[str], batch: int) -> None:
    together = model.embed(texts, batch=batch)
    for text, vector in zip(texts, together, strict=True):
        alone = model.embed(text)
        if model.plan.native:
            np.testing.assert_array_equal(alone, vector)
        else:
            np.testing.assert_allclose(alone, vector, rtol=0, atol=EXACT)


def test_what_stands_behind_the_end_is_not_looked_at(model: Encoder, rng: np.random.Generator) -> None:
    tokens, lengths = rng.integers(5, 100, (3, 40)).astype(np.int32), np.array([40, 7, 1], np.int32)
    send = model.home.asarray
    key = model._key._replace(pooling="none")
    before = model.home.to_numpy(model._encode(key, model.weights, send(tokens), send(lengths)))
    for row, length in enumerate(lengths):
        tokens[row, length:] = 9
    after = model.home.to_numpy(model._encode(key, model.weights, send(tokens), send(lengths)))
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(after[row, :length], before[row, :length])


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0"])
def test_every_format_of_weights(tiny: Tiny, kind: str, tmp_path: Path) -> None:
    mixed = {"blk.0.ffn": "F32", "blk.1.attn": "F16", "blk.": kind}
    lost = {"F16": 2e-3, "BF16": 2e-2, "Q8_0": 2e-2}[kind]
    for kinds in (kind, mixed):
        tiny.write_gguf(tmp_path / "m.gguf", kinds)
        for backend in ("numpy", "cpu"):
            with load_encoder(tmp_path / "m.gguf", backend=backend, exact=True) as model:
                wanted = unit(tiny.golden["vectors"])
                np.testing.assert_allclose(model.embed(TEXTS), wanted, rtol=0, atol=lost + limit(model))


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_is_the_same_model(name: str, tmp_path: Path) -> None:
    tiny = Tiny(name)
    tiny.write_gguf(tmp_path / "m.gguf")
    tiny.write_folder(tmp_path / "folder")
    with load_encoder(tmp_path / "m.gguf", backend="numpy") as model:
        wanted = model.embed(TEXTS)
    with load_encoder(tmp_path / "folder", backend="numpy") as model:
        assert model.context == CONTEXT and model.plan.backend == "numpy"
        np.testing.assert_array_equal(model.embed(TEXTS), wanted)


def test_a_long_text_is_cut(model: Encoder) -> None:
    assert len(model.tokens("the " * 1000)) == CONTEXT == model.context
    np.testing.assert_array_equal(model.embed("the " * 1000), model.embed("the " * (CONTEXT - 2)))


def test_half_understood_models_are_refused_by_name(tiny: Tiny, tmp_path: Path) -> None:
    sound = tiny.weights()
    matrix = next(name for name in sound if name.startswith("blk.1.") and sound[name].ndim == 2)
    vector = next(name for name in sound if name.startswith("blk.2.") and sound[name].ndim == 1)
    odd = {"blk.0.adapter.weight": np.zeros((2, 2), np.float32)}
    wide = {matrix: np.concatenate([sound[matrix], sound[matrix]], axis=1)}
    cases: list[tuple[type[Exception], str, dict[str, np.ndarray], dict[str, Any]]] = [
        (UnsupportedModel, "the tensor blk.0.adapter.weight means nothing to", sound | odd, {}),
        (UnsupportedModel, "a_key_of_tomorrow .* means nothing to", sound, {"a_key_of_tomorrow": 1}),
        (UnsupportedModel, "attention.causal is True", sound, {"attention__causal": True}),
        (FileError, "attention.head_count is 5; it must be a divisor of", sound, {"attention__head_count": 5}),
        (FileError, "but the metadata says", sound | wide, {}),
        (FileError, "is missing|means nothing to", {name: sound[name] for name in sound if name != matrix}, {}),
        (FileError, f"{vector} is missing", {name: sound[name] for name in sound if name != vector}, {}),
    ]
    for kind, match, tensors, keys in cases:
        tiny.write_gguf(tmp_path / "m.gguf", "F32", tensors, **keys)
        with pytest.raises(kind, match=match):
            load_encoder(tmp_path / "m.gguf", backend="numpy")
    for fused, parts in {} if tiny.apart else getattr(tiny.module, "FUSED", {}).items():
        twice = sound | {f"blk.0.{parts[0]}.weight": np.zeros((WIDTH, WIDTH), np.float32)}
        tiny.write_gguf(tmp_path / "m.gguf", "F32", twice)
        with pytest.raises(FileError, match=f"the tensor blk.0.{fused}.weight holds blk.0.{parts[0]}.weight, which"):
            load_encoder(tmp_path / "m.gguf", backend="numpy")
