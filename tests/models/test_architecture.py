"""An architecture is known by its file: by its name, and by the contract that it keeps."""

import sys
from pathlib import Path

import pytest

import soberano.models
from soberano.core.errors import UnsupportedModel
from soberano.models import llama
from soberano.models.architecture import architecture, known

CONTRACT = "Config = Weights = Layer = shapes = forward = None\n"


def test_a_new_file_is_found_and_a_helper_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up.py").write_text(CONTRACT)
    (tmp_path / "helper_of_mine.py").write_text("Config = Weights = None\n")
    monkeypatch.setattr(soberano.models, "__path__", [*soberano.models.__path__, str(tmp_path)])
    try:
        assert known() == ["llama", "made_up"]
        assert architecture("made-up").__name__ == "soberano.models.made_up"
        with pytest.raises(
            UnsupportedModel, match="'helper_of_mine', which is not supported yet; known: llama, made_up"
        ):
            architecture("helper_of_mine")
    finally:
        for name in ("made_up", "helper_of_mine"):
            sys.modules.pop(f"soberano.models.{name}", None)
            vars(soberano.models).pop(name, None)


@pytest.mark.parametrize("name", ["", "nonesuch", "layers", "../llama", "llama.py", "__init__", "x" * 10_000])
def test_what_is_no_architecture(name: str) -> None:
    with pytest.raises(UnsupportedModel, match="which is not supported yet; known: llama") as refusal:
        architecture(name, "m.gguf")
    assert len(str(refusal.value)) < 200


def test_llama() -> None:
    assert architecture("llama") is llama and known() == ["llama"]
