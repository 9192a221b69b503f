"""Where compiled kernels are kept: under a key of what they depend on, with a note on what each of them is.

    <cache>/native/<key>/kernels-<compiler>.so      and .json, the note

The key has sources, flags and jaxlib, and the processor where the flags say "this one". The compiler is no part of
it, so that a machine without one finds what was compiled for it elsewhere.

A library that was cut short, by a power failure or a full disk, kills the process that runs into its missing pages. So
the note has its size and hash, and a library that is not what its note says counts as absent. To check one takes less
than a millisecond.

The time of a key's folder is that of its last use. What nobody has used for 30 days goes when another is built.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from soberano.core import durable
from soberano.core.settings import settings

DAY_S = 24 * 3600
UNUSED_S = 30 * DAY_S
"""How long a library stays that nobody uses."""


@dataclass(frozen=True)
class Note:
    """What a library is: the instruction set it has, the one that was asked for, who compiled it with what."""

    isa: str
    asked: str
    compiler: str
    jaxlib: str
    size: int = 0
    sha256: str = ""


@dataclass(frozen=True)
class Cached:
    """A whole library in the cache."""

    key: str
    path: Path
    note: Note


def key_of(files: Iterable[Path], parts: Iterable[str]) -> str:
    """A key of the names and contents of files, and of some words."""
    seen = hashlib.sha256()
    for path in files:
        seen.update(path.name.encode() + b"\0" + path.read_bytes())
    for part in parts:
        seen.update(part.encode() + b"\0")
    return seen.hexdigest()[:20]


def find(key: str, compiler: str | None) -> Path | None:
    """The whole library of a key that this compiler made, or the newest if None. To find it is to use it."""
    made = "*" if compiler is None else _short(compiler)
    found = next((each.path for each in _whole(f"{key}/kernels-{made}.so")), None)
    if found is not None and _idle(found.parent) > DAY_S:
        with suppress(OSError):  # a read-only cache may well be used
            os.utime(found.parent)
    return found


def place(key: str, compiler: str) -> Path:
    """Where the library of a key goes that this compiler makes; its folder is there afterwards."""
    path = settings().cache_dir() / "native" / key / f"kernels-{_short(compiler)}.so"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def keep(made: Path, library: Path, note: Note) -> None:
    """Give a library that was made on the same disk its place and its note, and drop those that nobody uses.

    The note comes first: no other process sees a library without one.
    """
    note = replace(note, size=made.stat().st_size, sha256=_hash(made))
    beside = made.with_suffix(".json")
    beside.write_text(json.dumps(asdict(note)))
    durable.rename(beside, library.with_suffix(".json"))
    durable.rename(made, library)
    for folder in library.parent.parent.iterdir():
        with suppress(OSError):  # another process may be dropping it
            if folder != library.parent and _ours(folder) and _idle(folder) > UNUSED_S:
                shutil.rmtree(folder)


def cached() -> list[Cached]:
    """Every whole library in the cache, the newest first."""
    return list(_whole("*/kernels-*.so"))


def _whole(pattern: str) -> Iterator[Cached]:
    """The libraries that match, the newest first, without those that are damaged or belong to a stranger."""
    found = [path for home in _homes() for path in home.glob(pattern) if _ours(path)]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            note = Note(**json.loads(path.with_suffix(".json").read_text()))
            if path.stat().st_size == note.size and _hash(path) == note.sha256:
                yield Cached(path.parent.name, path, note)
        except (OSError, ValueError, TypeError):  # the note is absent, cut short, or of another version
            continue


def _idle(folder: Path) -> float:
    return time.time() - folder.stat().st_mtime


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _homes() -> list[Path]:
    return [folder / "native" for folder in settings().cache_dirs()]


def _short(compiler: str) -> str:
    return hashlib.sha256(compiler.encode()).hexdigest()[:8]


def _ours(path: Path) -> bool:
    return not hasattr(os, "getuid") or path.stat().st_uid in (0, os.getuid())
