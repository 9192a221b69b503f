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


def test_a_value_of_a_list_is_taken_and_another_is_told_the_list():
    assert read({"SOBERANO_ISA": "neon"}).isa == "neon"
    with pytest.raises(InputError, match="'sse' is none of auto, amx, avx512, avx2, neon, portable"):
        read({"SOBERANO_ISA": "sse"})


def int_of(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


@pytest.mark.parametrize("text", ["-1", "1.5", "10000", "9" * 5000])
def test_numbers_have_a_bound(text: str):
    with pytest.raises(InputError, match="SOBERANO_THREADS"):
        read({"SOBERANO_THREADS": text})


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
    module._usable.cache_clear()
    wall = tmp_path / "wall"
    wall.write_text("a file where a folder is wanted, which also stops root")
    setenv(SOBERANO_CACHE=str(wall / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert settings().cache_dir().name.startswith("soberano-")
    assert settings().cache_dirs() == [wall / "cache", settings().cache_dir()]


def test_the_temporary_cache_is_never_a_strangers(setenv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    module._usable.cache_clear()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "trap").mkdir()
    (tmp_path / f"soberano-{os.getuid()}").symlink_to(tmp_path / "trap")
    (tmp_path / "wall").write_text("")
    setenv(SOBERANO_CACHE=str(tmp_path / "wall" / "cache"))
    assert settings().cache_dir() not in (tmp_path / f"soberano-{os.getuid()}", tmp_path / "trap")
    assert list((tmp_path / "trap").iterdir()) == []


@pytest.fixture
def everybodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setenv) -> Path:
    """A temporary folder as /tmp is, and a user without a HOME."""
    module._usable.cache_clear()
    folder = tmp_path / "tmp"
    folder.mkdir()
    folder.chmod(0o1777)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr(Path, "home", no_home)
    setenv(SOBERANO_CACHE=None, XDG_CACHE_HOME=None, HOME=None)
    return folder


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_without_a_home_the_cache_is_private_to_its_last_step(everybodys: Path):
    mask = os.umask(0)
    try:
        found = settings().cache_dir()
    finally:
        os.umask(mask)
    assert found == everybodys / f"cache-{os.getuid()}" / "soberano" and settings().cache_reason() == ""
    assert [stat.S_IMODE(p.stat().st_mode) for p in (found, found.parent)] == [0o700, 0o700]


@pytest.mark.parametrize(
    ("spoilt", "how"),
    [
        ("cache-{}", "a link"),
        *[
            (s, h)
            for s in ("cache-{}", "cache-{}/soberano")
            for h in ("open to all", "open to a group", "a stranger's")
        ],
    ],
)
def test_no_step_below_the_temporary_folder_may_be_a_strangers(
    everybodys: Path, spoilt: str, how: str, monkeypatch: pytest.MonkeyPatch
):
    step = everybodys / spoilt.format(os.getuid())
    step.parent.mkdir(mode=0o700, exist_ok=True)
    target = everybodys.parent / "elsewhere" if how == "a link" else step
    target.mkdir(mode=0o700)
    if how == "a link":
        step.symlink_to(target)
    elif how == "a stranger's":
        owned_by_a_stranger(step, monkeypatch)
    else:
        step.chmod(0o777 if how == "open to all" else 0o770)
    assert settings().cache_dir() == everybodys / f"soberano-{os.getuid()}"
    assert settings().cache_dirs() == [settings().cache_dir()], "nothing is looked for where a stranger may write"
    assert str(step) in settings().cache_reason()
    assert list(target.iterdir()) == [], "nor is anything left there"


def owned_by_a_stranger(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `folder` belong to another user, as far as `Path.stat` tells: only root could make it so."""
    found = Path.stat

    def stat_(self: Path, **options):
        result = found(self, **options)
        return os.stat_result([*result[:4], os.getuid() + 1, *result[5:]]) if self == folder else result

    monkeypatch.setattr(Path, "stat", stat_)


@pytest.mark.parametrize(("mode", "says"), [(0o777, "chmod go-w"), (0o720, "chmod go-w"), (None, "another user")])
def test_a_cache_that_others_can_write_is_refused(
    everybodys: Path, tmp_path: Path, setenv, mode: int | None, says: str, monkeypatch: pytest.MonkeyPatch
):
    home = tmp_path / "home"
    home.mkdir()
    setenv(SOBERANO_CACHE=str(home))
    if mode is None:
        owned_by_a_stranger(home, monkeypatch)
    else:
        home.chmod(mode)
    assert settings().cache_dir() == everybodys / f"soberano-{os.getuid()}"
    assert str(home) in settings().cache_reason() and says in settings().cache_reason()


def test_a_link_that_the_user_made_is_followed_and_its_end_is_checked(everybodys: Path, tmp_path: Path, setenv):
    (tmp_path / "disk").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    setenv(SOBERANO_CACHE=str(tmp_path / "link"))
    assert settings().cache_dir() == tmp_path / "link"
    module._usable.cache_clear()
    (tmp_path / "disk").chmod(0o777)
    assert settings().cache_dir() != tmp_path / "link"


def test_a_link_to_itself_is_no_cache(everybodys: Path, tmp_path: Path, setenv):
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    setenv(SOBERANO_CACHE=str(tmp_path / "ring" / "cache"))
    assert settings().cache_dir() == everybodys / f"soberano-{os.getuid()}"
