"""An architecture is known by its file: by its name, and by the contract that it keeps."""

import sys
from pathlib import Path

import pytest

import soberano.models
from soberano.core.errors import UnsupportedModel
from soberano.models import bert, llama
from soberano.models.architecture import architecture, is_encoder, known

CONTRACT = "Config = Weights = Layer = shapes = forward = logits = None\n"


def test_a_new_file_is_found_and_a_helper_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up.py").write_text(CONTRACT)
    (tmp_path / "helper_of_mine.py").write_text("Config = Weights = None\n")
    (tmp_path / "undecided.py").write_text(CONTRACT + "encode = None\n")
    before = known()
    monkeypatch.setattr(soberano.models, "__path__", [*soberano.models.__path__, str(tmp_path)])
    try:
        assert known() == sorted([*before, "made_up"])
        assert architecture("made-up").__name__ == "soberano.models.made_up"
        with pytest.raises(
            UnsupportedModel, match=r"'helper_of_mine', which is not supported yet; known: .*llama, made_up"
        ):
            architecture("helper_of_mine")
    finally:
        for name in ("made_up", "helper_of_mine", "undecided"):
            sys.modules.pop(f"soberano.models.{name}", None)
            vars(soberano.models).pop(name, None)


@pytest.mark.parametrize("name", ["", "nonesuch", "layers", "../llama", "llama.py", "__init__", "x" * 10_000])
def test_what_is_no_architecture(name: str) -> None:
    with pytest.raises(UnsupportedModel, match=r"which is not supported yet; known: .*llama") as refusal:
        architecture(name, "m.gguf")
    assert len(str(refusal.value)) < 160 + len(", ".join(known()))


def test_what_is_known() -> None:
    assert architecture("llama") is llama and not is_encoder(llama)
    assert architecture("bert") is bert and is_encoder(bert)
    assert {"bert", "llama"} <= set(known())


@pytest.mark.parametrize("name", known())
def test_an_architecture_is_a_page(name: str) -> None:
    path = Path(str(architecture(name).__file__))
    assert path.read_text().count("\n") <= 150, f"{path.name}: 150 lines are the end; what differs is another function"
