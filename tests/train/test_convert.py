"""Adapters in PEFT's form and in GGUF's: the same numbers go there and back, and what is not understood is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import soberano
from soberano.cli.main import main
from soberano.core.errors import FileError, InputError, UnsupportedModel
from soberano.core.hashing import sha256
from soberano.formats import gguf, safetensors, safetensors_write
from soberano.models.adapter import Adapter, Pair, read_adapter
from soberano.train.adapters import Shape, fresh
from soberano.train.convert import CONFIG, TENSORS, described, to_gguf
from soberano.train.export import write_gguf, write_peft
from tests.tiny import write_tiny_llama

HEAD = "base_model.model.model.layers"
SHAPE = Shape(rank=3, alpha=5.0, root=True, ranks=(("ffn_", 6),), alphas=(("attn_k", 2.0),))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_llama(path)
    return path


@pytest.fixture
def pairs(base: Path) -> dict[str, Pair]:
    rng = np.random.default_rng(0)
    with gguf.read(base) as file:
        _, module, config = described(file)
    return {
        name: Pair(pair.a, rng.normal(size=pair.b.shape).astype(np.float32))
        for name, pair in fresh(module, config, SHAPE, 0).items()
    }


def read(path: Path, base: Path) -> Adapter:
    with gguf.read(base) as file:
        return read_adapter(path, *described(file))


def products(adapter: Adapter) -> dict[str, np.ndarray]:
    """What each weight gets: scale * B A."""
    return {name: adapter.scales[name] * pair.b @ pair.a for name, pair in adapter.pairs.items()}


def folder_of(folder: Path, base: Path, pairs: dict[str, Pair]) -> Path:
    folder.mkdir()
    with gguf.read(base) as file:
        _, module, config = described(file)
    write_peft(folder, pairs, SHAPE, module=module, config=config, base="tiny")
    return folder


def test_there_and_back(base: Path, pairs: dict[str, Pair], tmp_path: Path) -> None:
    start, there, back = tmp_path / "start.gguf", tmp_path / "peft", tmp_path / "back.gguf"
    write_gguf(start, pairs, SHAPE, architecture="llama", name="a", base_hash=sha256(base))
    for adapter, out in ((start, there), (there, back)):
        assert main(["train", "export", str(adapter), "--model", str(base), "--out", str(out)]) == 0
    first, last = products(read(start, base)), products(read(back, base))
    assert first.keys() == last.keys() and read(back, base).base_hash == sha256(base)
    for name, right in first.items():
        np.testing.assert_allclose(last[name], right, atol=1e-5 * np.abs(right).max(), err_msg=name)
    direct = folder_of(tmp_path / "direct", base, pairs)  # what PEFT makes of both folders is the same
    with safetensors.read(direct / TENSORS) as one, safetensors.read(there / TENSORS) as two:
        assert one.tensors.keys() == two.tensors.keys()
        for name in one.tensors:
            if name.endswith("lora_A.weight"):
                np.testing.assert_array_equal(one.raw(name), two.raw(name))


def test_what_peft_wrote_answers_here(base: Path, pairs: dict[str, Pair], tmp_path: Path) -> None:
    to_gguf(folder_of(tmp_path / "peft", base, pairs), base, tmp_path / "peft.gguf")
    write_gguf(tmp_path / "own.gguf", pairs, SHAPE, architecture="llama", name="a", base_hash=sha256(base))
    said = []
    for name in ("peft", "own"):
        with soberano.load(base, backend="numpy", adapter=tmp_path / f"{name}.gguf") as model:
            said.append("".join(model.generate(list(range(3, 20)), max_tokens=12, temperature=0, ignore_eos=True)))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    "change,kind,why",
    [
        ({"use_dora": True}, UnsupportedModel, "use_dora is True; in GGUF it can only be False"),
        ({"bias": "all"}, UnsupportedModel, "bias is 'all'; in GGUF it can only be 'none'"),
        ({"modules_to_save": ["lm_head"]}, UnsupportedModel, "modules_to_save is"),
        ({"lora_alpha": "much"}, FileError, "lora_alpha of .* is 'much', and must be a number"),
        ({"alpha_pattern": {"(a+)+": 1}}, UnsupportedModel, "alpha_pattern is .*only names of modules are understood"),
    ],
)
def test_a_configuration_that_is_not_understood(
    change: dict[str, Any], kind: type[Exception], why: str, base: Path, pairs: dict[str, Pair], tmp_path: Path
) -> None:
    folder = folder_of(tmp_path / "peft", base, pairs)
    told = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(told | change))
    with pytest.raises(kind, match=why):
        to_gguf(folder, base, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    "name,shape,kind,why",
    [
        ("model.norm.lora_A.weight", (3, 64), UnsupportedModel, "belongs to no product of a layer"),
        (f"{HEAD}.9.self_attn.q_proj.lora_A.weight", (3, 64), InputError, "is of layer 9"),
        (
            f"{HEAD}.0.self_attn.q_proj.lora_A.weight",
            (3, 65),
            InputError,
            "does not fit a weight",
        ),
    ],
)
def test_tensors_that_do_not_fit(
    name: str,
    shape: tuple[int, int],
    kind: type[Exception],
    why: str,
    base: Path,
    pairs: dict[str, Pair],
    tmp_path: Path,
) -> None:
    folder = folder_of(tmp_path / "peft", base, pairs)
    safetensors_write.write(folder / TENSORS, {name: np.zeros(shape, np.float32)}, {})
    with pytest.raises(kind, match=why):
        to_gguf(folder, base, tmp_path / "out.gguf")
    safetensors_write.write(folder / TENSORS, {}, {})
    with pytest.raises(FileError, match="holds no adapter"):
        to_gguf(folder, base, tmp_path / "out.gguf")
