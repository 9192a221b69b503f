"""What only models with experts have to show; the list that all decoders get is in test_conformance.py."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soberano
from soberano.bench.score import distance, logits
from soberano.core.errors import FileError
from soberano.formats import gguf
from soberano.models import mixtral
from tests.tiny_decoders import write_tiny

TOKENS = np.random.default_rng(1).integers(3, 272, 60).tolist()


def answer(path: Path, backend: str) -> np.ndarray:
    with soberano.load(path, backend=backend) as model:
        return np.concatenate(list(logits(model, TOKENS, single=True)))


@pytest.mark.parametrize("backend", ["xla", "cpu"])
def test_gpt_oss_as_it_was_published(backend: str, tmp_path: Path) -> None:
    """Experts in MXFP4, the rest in bfloat16 or Q8_0."""

    def kind(tensor: str) -> str:
        return "MXFP4" if "_exps" in tensor else "Q8_0" if "attn" in tensor else "BF16"

    write_tiny(tmp_path / "m.gguf", "gpt_oss", types=kind)
    with gguf.read(tmp_path / "m.gguf") as file:
        assert file.tensors["blk.0.ffn_up_exps.weight"].format.name == "MXFP4"
    found = distance([answer(tmp_path / "m.gguf", "numpy")], [answer(tmp_path / "m.gguf", backend)])
    assert found.kl_mean < 1e-5 and found.agreement > 0.95, found


def changed(path: Path, name: str, **keys: Any) -> Path:
    """The tiny model `name` with other values of keys; None: without the key. Two underscores stand for a dot."""
    write_tiny(path / "m.gguf", name)
    with gguf.read(path / "m.gguf") as file:
        metadata = {key: gguf.Typed(file.kinds[key], value) for key, value in file.metadata.items()}
        tensors = {each: (info.format, np.array(file.raw(each))) for each, info in file.tensors.items()}
    for key, value in keys.items():
        full = f"{metadata['general.architecture'].value}.{key.replace('__', '.')}"
        kind = metadata.pop(full).kind
        if value is not None:
            metadata[full] = gguf.Typed(kind, value)
    gguf.write(path / "m.gguf", metadata, tensors)
    return path / "m.gguf"


@pytest.mark.parametrize(
    "name,keys,says",
    [
        ("mixtral", {"expert_used_count": 9}, "llama.expert_used_count is 9; it must be at most 8"),
        ("mixtral", {"expert_used_count": None}, "the key llama.expert_used_count is missing"),
        ("mixtral", {"expert_count": 4}, r"ffn_gate_inp.weight is \(8, 64\), but the metadata says \(4, 64\)"),
        ("qwen3moe", {"expert_count": None}, "the key qwen3moe.expert_count is missing"),
        ("qwen3moe", {"expert_feed_forward_length": 48}, r"ffn_gate_exps.weight is \(12, 32, 64\)"),
        ("gpt_oss", {"attention__sliding_window": None}, "the key gpt-oss.attention.sliding_window is missing"),
    ],
)
def test_wrong_numbers_are_refused_by_name(name: str, keys: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=says):
        soberano.load(changed(tmp_path, name, **keys), backend="numpy")


def test_llama_with_experts_is_mixtral(tmp_path: Path) -> None:
    with soberano.load(changed(tmp_path, "mixtral"), backend="numpy") as model:
        assert model.module is mixtral and model.architecture == "llama"


def test_an_expert_is_as_wide_as_its_share_where_the_file_is_silent(tmp_path: Path) -> None:
    """As llama.cpp reads qwen2moe: feed_forward_length over the experts of a token."""
    path = changed(tmp_path, "qwen2moe", expert_feed_forward_length=None)  # 96 / 3 is what it was
    write_tiny(tmp_path / "told.gguf", "qwen2moe")
    np.testing.assert_array_equal(answer(path, "numpy"), answer(tmp_path / "told.gguf", "numpy"))
