"""`soberano train lora` from the shell: an adapter that `run` takes, and wrong data in one line."""

import json
from pathlib import Path

import pytest

from soberano.cli.main import main
from soberano.formats import gguf, safetensors
from tests.tiny import write_tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_tiny_llama(path)
    return path


def test_an_adapter_is_made_and_taken(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = tmp_path / "data.jsonl", tmp_path / "adapter"
    data.write_text("".join(json.dumps({"prompt": "the dog", "completion": " is a fox"}) + "\n" for _ in range(8)))
    how = ["--epochs", "6", "--context", "32", "--rank", "4", "--rate", "0.02", "--accumulate", "1", "--json"]
    assert main(["train", "lora", str(tiny), str(data), "--out", str(out), "--backend", "cpu", *how]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["held_out_loss"]["after"] < card["held_out_loss"]["before"] / 2
    assert json.loads((out / "card.json").read_text()) == card
    with gguf.read(out / "adapter.gguf") as file, safetensors.read(out / "adapter_model.safetensors") as peft:
        assert file.metadata["soberano.base.sha256"] == card["base"]["sha256"]
        assert len(file.tensors) == len(peft.tensors) == 2 * 2 * 7  # A and B, layers, products
    told = ["run", str(tiny), "the dog", "--temperature", "0", "-n", "4", "--backend", "cpu"]
    assert main([*told, "--adapter", str(out / "adapter.gguf")]) == 0
    assert capsys.readouterr().out.startswith(" is a fox")
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG") and (out / "loss.jsonl").exists()
    merged = tmp_path / "merged.gguf"
    assert main(["train", "merge", str(tiny), str(out / "adapter.gguf"), "--out", str(merged), "--type", "F16"]) == 0
    table = capsys.readouterr().out
    assert "ffn_down" in table and "of the update is in the file" in table
    assert main(["run", str(merged), *told[2:]]) == 0 and capsys.readouterr().out.startswith(" is a fox")
    write_tiny_llama(tmp_path / "other.gguf", seed=1)
    told[1] = str(tmp_path / "other.gguf")
    assert main([*told, "--adapter", str(out / "adapter.gguf")]) == 2
    assert "was trained on the file with SHA-256" in capsys.readouterr().err
    assert main([*told, "--adapter", str(tiny)]) == 2
    assert "is no LoRA adapter" in capsys.readouterr().err


def test_wrong_data_is_one_line(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "a"}\nnot json\n')
    assert main(["train", "lora", str(tiny), str(data), "--out", str(tmp_path / "out"), "--backend", "numpy"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{data}:2 is not JSON" in line and not (tmp_path / "out").exists()
