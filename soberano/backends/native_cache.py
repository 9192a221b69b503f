"""Where compiled kernels are kept: under a key of what they depend on, with a note on what each of them is.

    <cache>/native/<key>/kernels-<compiler>.so      and .json, the note

The key has sources, flags and jaxlib, and the processor where the flags say "this one". The compiler is no part of
it, so that a machine without one finds what was compiled for it elsewhere.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from soberano.core.settings import settings


@dataclass(frozen=True)
class Note:
    """What a library is: the instruction set it has, the one that was asked for, who compiled it with what."""

    isa: str
    asked: str
    compiler: str
    jaxlib: str


@dataclass(frozen=True)
class Cached:
    """A library in the cache; `note` is None where it has none that can be read."""

    key: str
    path: Path
    size: int
    note: Note | None


def key_of(files: Iterable[Path], parts: Iterable[str]) -> str:
    """A key of the names and contents of files, and of some words."""
    seen = hashlib.sha256()
    for path in files:
        seen.update(path.name.encode() + b"\0" + path.read_bytes())
    for part in parts:
        seen.update(part.encode() + b"\0")
    return seen.hexdigest()[:20]


def find(key: str, compiler: str | None) -> Path | None:
    """The library of a key that this compiler made, or the newest if None; one that belongs to a stranger is none."""
    made = "*" if compiler is None else _short(compiler)
    found = [path for home in _homes() for path in home.glob(f"{key}/kernels-{made}.so") if _ours(path)]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def place(key: str, compiler: str) -> Path:
    """Where the library of a key goes that this compiler makes; its folder is there afterwards."""
    path = settings().cache_dir() / "native" / key / f"kernels-{_short(compiler)}.so"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def write_note(library: Path, note: Note) -> None:
    """Put a note beside a library."""
    library.with_suffix(".json").write_text(json.dumps(asdict(note)))


def cached() -> list[Cached]:
    """Every library in the cache, the newest first."""
    found = [path for home in _homes() for path in home.glob("*/kernels-*.so") if _ours(path)]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return [Cached(path.parent.name, path, path.stat().st_size, _note(path)) for path in found]


def _note(library: Path) -> Note | None:
    try:
        return Note(**json.loads(library.with_suffix(".json").read_text()))
    except (OSError, ValueError, TypeError):  # absent, cut short, or of another version
        return None


def _homes() -> list[Path]:
    return [folder / "native" for folder in settings().cache_dirs()]


def _short(compiler: str) -> str:
    return hashlib.sha256(compiler.encode()).hexdigest()[:8]


def _ours(path: Path) -> bool:
    return not hasattr(os, "getuid") or path.stat().st_uid in (0, os.getuid())
