"""`soberano kernels`: built once, shown, found again without a compiler; and what cannot be built is one line."""

import json
import os
import shutil
import stat
import time
from pathlib import Path

import pytest

from soberano.backends import native, native_cache
from soberano.core.errors import Unsupported
from soberano.core.progress import silent

COMPILER = """#!/bin/sh
[ "$1" = --version ] && echo "fake 1.0" && exit
while [ $# -gt 0 ]; do [ "$1" = -o ] && echo kernels >"$2"; shift; done
"""


@pytest.fixture
def fake(tmp_path: Path, cache: str, setenv, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiler that makes files of one word, and nothing that looks into them."""
    path = tmp_path / "fake-c++"
    path.write_text(COMPILER)
    path.chmod(0o755)
    setenv(SOBERANO_CXX=str(path), SOBERANO_ISA=None)
    monkeypatch.setattr(
        native, "_note", lambda library, asked, version: native_cache.Note("portable", asked, version, "0")
    )
    return path


def test_built_once_then_cached_then_listed(soberano, fake: Path) -> None:
    (first,) = json.loads(soberano("kernels", "build", "--isa", "portable", "--json").out)
    assert first["isa"] == "portable" and first["how"].startswith("built in") and Path(first["path"]).is_file()
    (again,) = json.loads(soberano("kernels", "build", "--isa", "portable", "--json").out)
    assert again["how"] == "was cached" and again["path"] == first["path"]
    (row,) = json.loads(soberano("kernels", "list", "--json").out)
    assert row["isa"] == "portable" and row["serves"] == "SOBERANO_ISA=portable" and row["compiler"] == "fake 1.0"
    assert stat.S_IMODE(Path(first["path"]).parent.stat().st_mode) & 0o077 == 0
    text = soberano("kernels", "list").out
    assert "fake 1.0" in text and row["key"] in text


def test_another_compiler_builds_its_own(soberano, fake: Path) -> None:
    soberano("kernels", "build", "--isa", "portable")
    fake.write_text(COMPILER.replace("1.0", "2.0"))
    assert soberano("kernels", "build", "--isa", "portable").out.count("built in") == 1
    rows = json.loads(soberano("kernels", "list", "--json").out)
    assert {row["compiler"] for row in rows} == {"fake 1.0", "fake 2.0"} and len({row["key"] for row in rows}) == 1


def test_without_a_compiler_what_was_built_serves(
    soberano, fake: Path, setenv, monkeypatch: pytest.MonkeyPatch
) -> None:
    (built,) = json.loads(soberano("kernels", "build", "--isa", "portable", "--json").out)
    setenv(SOBERANO_CXX=None)
    monkeypatch.setenv("PATH", "/no/such")
    assert native.build(isa="portable") == Path(built["path"])
    with pytest.raises(Unsupported, match=r"none of c\+\+, g\+\+, clang\+\+ is found"):
        native.build(isa="auto")
    setenv(SOBERANO_CXX="no-such-compiler")  # named: then it should be there
    with pytest.raises(Unsupported, match="'no-such-compiler' is not found"):
        native.build(isa="portable")


def test_a_named_set_is_for_any_processor_and_auto_for_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {isa: native.key(isa) for isa in ("auto", "portable")}
    monkeypatch.setattr(native, "cpu_flags", lambda: frozenset({"another"}))
    assert native.key("portable") == here["portable"] and native.key("auto") != here["auto"]


def test_what_is_of_no_use_here_is_said(soberano, fake: Path) -> None:
    (built,) = json.loads(soberano("kernels", "build", "--isa", "portable", "--json").out)
    folder = Path(built["path"]).parent
    folder.rename(folder.with_name("0" * 20))
    (row,) = json.loads(soberano("kernels", "list", "--json").out)
    assert row["serves"].startswith("nothing here")


@pytest.mark.parametrize("contents", [b"", b"kern", b"kernelz\n", None])
def test_a_damaged_library_is_built_again(contents: bytes | None, soberano, fake: Path) -> None:
    (built,) = json.loads(soberano("kernels", "build", "--isa", "portable", "--json").out)
    library = Path(built["path"])
    (library if contents is not None else library.with_suffix(".json")).write_bytes(contents or b"")
    assert native_cache.cached() == [] and native_cache.find(native.key("portable"), None) is None
    (again,) = json.loads(soberano("kernels", "build", "--isa", "portable", "--json").out)
    assert again["how"].startswith("built in") and again["path"] == built["path"]
    assert library.read_bytes() == b"kernels\n" and len(native_cache.cached()) == 1


def test_a_library_that_cannot_be_loaded_is_built_again(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def load(path: str) -> str:
        opened.append(path)
        if len(opened) == 1:
            raise OSError("version GLIBC_2.99 not found")
        return "library"

    monkeypatch.setattr(native.ctypes, "CDLL", load)
    made = native.build(isa="auto")
    before = made.stat().st_ino, made.stat().st_mtime_ns
    assert native._open(silent) == "library" and opened == [str(made)] * 2
    assert (made.stat().st_ino, made.stat().st_mtime_ns) != before


def test_what_nobody_uses_goes_when_another_is_built(soberano, fake: Path) -> None:
    (built,) = json.loads(soberano("kernels", "build", "--isa", "auto", "--json").out)
    used = Path(built["path"]).parent
    unused, recent = used.with_name("0" * 20), used.with_name("1" * 20)
    shutil.copytree(used, unused), shutil.copytree(used, recent)
    now = time.time()
    for folder, days in ((used, 31), (unused, 31), (recent, 29)):
        os.utime(folder, (now - days * 86400,) * 2)
    soberano("kernels", "build", "--isa", "auto")  # finds it: a use
    assert unused.is_dir()
    soberano("kernels", "build", "--isa", "portable")
    assert used.is_dir() and recent.is_dir() and not unused.exists()


def test_a_strangers_library_is_none(fake: Path, soberano, monkeypatch: pytest.MonkeyPatch) -> None:
    soberano("kernels", "build", "--isa", "portable")
    assert len(native_cache.cached()) == 1
    monkeypatch.setattr(native_cache, "_ours", lambda path: False)
    assert native_cache.cached() == [] and native_cache.find(native.key("portable"), None) is None


def test_nothing_is_one_line(soberano, cache: str) -> None:
    assert soberano("kernels", "list").out == "no kernels yet; soberano kernels build makes them\n"
    assert json.loads(soberano("kernels", "list", "--json").out) == []


def test_an_unknown_set_is_refused(soberano, cache: str) -> None:
    answer = soberano("kernels", "build", "--isa", "sse9")
    assert answer.status == 2 and "--isa sse9 is none of auto, amx" in answer.err


def test_a_compiler_that_fails_is_one_line(soberano, fake: Path) -> None:
    fake.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo fake && exit\necho 'x.cc:1: error: no' >&2; exit 1\n")
    answer = soberano("kernels", "build", "--isa", "portable")
    assert answer.status == 2 and "error: no" in answer.err and answer.err.count("\n") == 1
