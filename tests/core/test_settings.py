import os
import stat
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.core import settings as module
from soberano.core.errors import InputError
from soberano.core.settings import Settings, read, settings, variables


def test_an_empty_environment_gives_the_defaults():
    assert read({}) == Settings()
    assert read({"SOBERANO_BACKEND": "", "SOBERANO_THREADS": ""}) == Settings()


def test_every_setting_has_a_help_and_a_variable():
    assert [name for name, _, _ in variables()] == [f"SOBERANO_{f.name.upper()}" for f in fields(Settings)]
    assert all(text for _, _, text in variables())


@given(st.text(min_size=1))
def test_a_value_is_taken_or_refused_with_its_name(text: str):
    for name, default, _ in variables():
        try:
            found = read({name: text})
        except InputError as error:
            assert name in str(error) and repr(text) in str(error)
        else:
            assert str(getattr(found, name.removeprefix("SOBERANO_").lower())) in (
                text,
                str(text == "1"),
                str(int_of(text)),
            )
            assert isinstance(default, bool) <= (text in "01")


def int_of(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def test_the_cache_follows_the_user(setenv, tmp_path: Path):
    setenv(SOBERANO_CACHE=None, XDG_CACHE_HOME=None, HOME=str(tmp_path))
    assert settings().cache_dir() == tmp_path / ".cache" / "soberano"
    assert stat.S_IMODE(settings().cache_dir().stat().st_mode) == 0o700
    setenv(XDG_CACHE_HOME=str(tmp_path / "xdg"))
    assert settings().cache_dir() == tmp_path / "xdg" / "soberano"
    setenv(XDG_CACHE_HOME="relative/is/ignored")
    assert settings().cache_dir() == tmp_path / ".cache" / "soberano"
    setenv(SOBERANO_CACHE=str(tmp_path / "named"))
    assert settings().cache_dir() == tmp_path / "named"


def test_a_folder_that_cannot_be_written_is_still_looked_into(setenv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module._writable.cache_clear()
    wall = tmp_path / "wall"
    wall.write_text("a file where a folder is wanted, which also stops root")
    setenv(SOBERANO_CACHE=str(wall / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert settings().cache_dir().name.startswith("soberano-")
    assert settings().cache_dirs() == [wall / "cache", settings().cache_dir()]


def test_the_temporary_cache_is_never_a_strangers(setenv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module._writable.cache_clear()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "trap").mkdir()
    (tmp_path / f"soberano-{os.getuid()}").symlink_to(tmp_path / "trap")
    (tmp_path / "wall").write_text("")
    setenv(SOBERANO_CACHE=str(tmp_path / "wall" / "cache"))
    assert settings().cache_dir() not in (tmp_path / f"soberano-{os.getuid()}", tmp_path / "trap")
    assert list((tmp_path / "trap").iterdir()) == []
