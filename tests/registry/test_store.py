from pathlib import Path

import pytest

from soberano.core.errors import FileError
from soberano.registry.pull import pull
from soberano.registry.store import find, list_models, resolve


@pytest.fixture
def stored(cache: str, tmp_path: Path) -> Path:
    path = tmp_path / "Mine.gguf"
    path.write_bytes(b"GGUF mine")
    return pull(str(path)).path


def test_a_path_wins_then_a_stored_name(stored: Path, tmp_path: Path):
    assert resolve(str(tmp_path / "Mine.gguf")) == tmp_path / "Mine.gguf"
    assert resolve("mine") == stored


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("smollm2", "run: soberano pull smollm2"),
        ("smollm", "did you mean smollm2"),
        ("minee", "did you mean mine"),
        ("zzz", r"knows smollm2.*stored here: mine"),
        ("nope.gguf", r"no file at nope.gguf.*stored here: mine"),
        ("some/where", "no file at some/where"),
        ("..", "is a folder"),
        ("", "is a folder"),
    ],
)
def test_a_model_that_is_not_here_says_what_is(stored: Path, model: str, says: str):
    with pytest.raises(FileError, match=says):
        resolve(model)


def test_an_empty_store_says_so(cache: str):
    assert list_models() == []
    with pytest.raises(FileError, match="no model is stored here yet"):
        resolve("zzz")


def test_a_name_is_never_a_path(stored: Path):
    assert find("../models/mine") is None
    assert find(str(stored.parent)) is None


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"name": 1}', "\x00", '{"file": "../../x"}'])
def test_a_record_that_is_not_ours_is_refused(stored: Path, record: str):
    (stored.parent / "model.json").write_text(record)
    with pytest.raises(FileError, match="not a record of ours"):
        resolve("mine")
    assert list_models() == []


def test_a_read_only_cache_is_read(stored: Path, cache: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("soberano.core.settings._usable", lambda wanted: (tmp_path / "elsewhere", "read-only"))
    assert resolve("mine") == stored
