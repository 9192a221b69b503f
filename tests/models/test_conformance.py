"""The list that every decoder gets by existing: a tiny random model, every backend, every path, one answer.

The answer is llama.cpp's: tests/golden/decoders/<architecture>.json holds its logits. What only one of them needs to
show, because models and generations are the same for all, is in test_llama.py.
"""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soberano
from soberano.bench.score import distance, logits
from soberano.core.errors import FileError, UnsupportedModel
from soberano.formats import gguf
from soberano.models.architecture import architecture, is_encoder, known
from soberano.models.model import Model
from soberano.models.options import Options
from soberano.models.step import Chunk
from tests.conftest import forget_programs
from tests.tiny_decoders import GOLDEN, recipe, write_tiny

DECODERS = [name for name in known() if not is_encoder(architecture(name))]
BACKENDS = ["numpy", "xla", "cpu"]
CLOSE = {"numpy": 5e-5, "xla": 5e-5, "cpu": 3e-2}
"""How far logits that spread over some units may be from llama.cpp's; cpu's keys and values are float16."""

LONG = np.random.default_rng(1).integers(3, 272, 250).tolist()
TOKENS = LONG[:100]


@pytest.fixture(scope="module", params=DECODERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def tiny(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(name) / "tiny.gguf"
    write_tiny(path, name)
    return path


@pytest.fixture(scope="module", params=BACKENDS)
def model(request: pytest.FixtureRequest, name: str, tiny: Path) -> Iterator[Model]:
    with soberano.load(tiny, backend=request.param, context=recipe(name)["context"], sequences=3) as found:
        yield found
    forget_programs()


def all_logits(model: Model, tokens: list[int], single: bool = False) -> np.ndarray:
    return np.concatenate(list(logits(model, tokens, single=single)))


def written(model: Model, prompt: list[int]) -> list[int]:
    options = Options(max_tokens=8, temperature=0, ignore_eos=True)
    return [token for piece in model.start(prompt, options) for token in piece.tokens]


def test_every_golden_file_has_its_architecture() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.json")) == DECODERS


def test_logits_are_llama_cpps(name: str, model: Model) -> None:
    told = recipe(name)
    expected = np.frombuffer(base64.b64decode(told["logits"]), "<f4").reshape(len(told["positions"]), -1)
    found = all_logits(model, told["tokens"], single=True)[told["positions"]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=max(CLOSE[model.plan.backend], told.get("close", 0)))


def test_decode_equals_prefill(model: Model) -> None:
    tokens = TOKENS if model.plan.backend == "numpy" else LONG  # nearly the whole context, in several chunks
    together, single = all_logits(model, tokens), all_logits(model, tokens, single=True)
    if model.plan.isa == "amx":  # other arithmetic for prompts: see soberano.backends.plan.Role
        found = distance([single], [together])
        if hasattr(model.config, "experts"):  # where two are nearly as good, rounding chooses the other: a jump
            assert found.agreement > 0.9
        else:
            assert found.kl_mean < 1e-3
    elif model.plan.native:
        np.testing.assert_array_equal(single, together)
    else:  # float32 sums in another order
        np.testing.assert_allclose(single, together, rtol=0, atol=2e-4)


def test_a_sequence_does_not_notice_others(model: Model) -> None:
    """Nor where its pages lie: they come back, and are given out again in another order."""
    expected = [written(model, TOKENS[i:]) for i in range(3)]
    options = Options(max_tokens=8, temperature=0, ignore_eos=True)
    running = [model.start(TOKENS[i:], options) for i in (2, 1, 0)]
    seen: list[list[int]] = [[], [], []]
    while not all(g.done for g in running):
        for tokens, generation in zip(seen, running, strict=True):
            tokens.extend(t for piece in generation.step() for t in piece.tokens)
    for generation in running:
        generation.close()
    assert seen == expected[::-1]


def feed(model: Model, pages: list[list[int]], rows: list[list[int]], start: int) -> np.ndarray:
    """Run tokens of some sequences, all from position `start` on, as one chunk of a prompt -> logits (B, T, V)."""
    width = model.programs.table_width(start + len(rows[0]), model.context)
    tables = np.concatenate([model.programs.table(each, width) for each in pages])
    positions = np.broadcast_to(np.arange(start, start + len(rows[0]), dtype=np.int32), (len(rows), len(rows[0])))
    arrays = (np.array(rows, np.int32), positions, tables, np.zeros(len(rows), np.int32))
    return model.home.to_numpy(model.forward(Chunk(*map(model.home.asarray, arrays)), "prompt", every=True))


def assert_same(model: Model, found: np.ndarray, expected: np.ndarray) -> None:
    """To the bit where our kernels compute; elsewhere sums may go in another order."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=0 if model.plan.native else 2e-4)


def test_chunks_equal_the_whole_and_batches_equal_rows(model: Model) -> None:
    """And a cache that is cut back and grown again equals a new one."""
    pages = [model.pages.take(96) for _ in range(2)]
    ours, theirs = TOKENS[:96], TOKENS[1:97]
    whole = [feed(model, pages[:1], [row], 0)[0] for row in (ours, theirs)]
    assert_same(model, feed(model, pages[1:], [ours[:48]], 0)[0], whole[0][:48])
    assert_same(model, feed(model, pages[1:], [ours[48:]], 48)[0], whole[0][48:])
    feed(model, pages[1:], [theirs[:48]], 48)  # what it holds from position 48 on is another text now
    assert_same(model, feed(model, pages[1:], [ours[48:]], 48)[0], whole[0][48:])
    both = feed(model, pages, [ours, theirs], 0)
    assert_same(model, both, np.stack(whole))
    for each in pages:
        model.pages.give_back(each)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_backends_agree_on_packed_weights(name: str, backend: str, tmp_path: Path) -> None:
    def kind(tensor: str) -> str:
        return ("Q8_0", "Q4_1", "F16", "Q5_0")[sum(map(ord, tensor)) % 4]

    write_tiny(tmp_path / "m.gguf", name, types=kind)
    with soberano.load(tmp_path / "m.gguf", backend="numpy") as reference:
        expected = all_logits(reference, TOKENS)
    with soberano.load(tmp_path / "m.gguf", backend=backend) as model:
        found = distance([expected], [all_logits(model, TOKENS, single=True)])
    assert found.kl_mean < 1e-5 and found.agreement > 0.95, found


def test_half_a_model_is_refused_by_name(name: str, tiny: Path, tmp_path: Path) -> None:
    with gguf.read(tiny) as file:
        metadata = {key: gguf.Typed(file.kinds[key], value) for key, value in file.metadata.items()}
        tensors = {each: (info.format, np.array(file.raw(each))) for each, info in file.tensors.items()}
    prefix = metadata["general.architecture"].value
    layer = next(each for each in tensors if each.startswith("blk.1."))

    def load(metadata: Any, tensors: Any) -> None:
        gguf.write(tmp_path / "changed.gguf", metadata, tensors)
        soberano.load(tmp_path / "changed.gguf", backend="numpy")

    with pytest.raises(FileError, match=f"{layer} is missing"):
        load(metadata, {each: raw for each, raw in tensors.items() if each != layer})
    with pytest.raises(UnsupportedModel, match=r"blk\.0\.surprise\.weight"):
        load(metadata, tensors | {"blk.0.surprise.weight": tensors["output_norm.weight"]})
    with pytest.raises(UnsupportedModel, match=f"{prefix}.attention.surprise"):
        load(metadata | {f"{prefix}.attention.surprise": gguf.Typed("f32", 0.5)}, tensors)
    with pytest.raises(FileError, match=f"{prefix}.embedding_length"):
        load({key: value for key, value in metadata.items() if key != f"{prefix}.embedding_length"}, tensors)
