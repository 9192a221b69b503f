"""Every environment variable that the project reads: name, meaning, default. Nothing else reads os.environ."""

import functools
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from soberano.core.errors import InputError

BACKENDS = "auto cpu cuda xla numpy, or the name of an installed soberano.backends entry point"


@dataclass(frozen=True)
class Settings:
    """The environment, read once. Each field is one variable: `backend` is SOBERANO_BACKEND."""

    backend: str = field(default="auto", metadata={"help": f"which backend runs models: {BACKENDS}"})
    native: str = field(
        default="auto", metadata={"help": "native kernels: auto, off, or require", "of": "auto off require"}
    )
    isa: str = field(
        default="auto",
        metadata={
            "help": "instruction set of the native kernels: auto, avx512, avx2 or portable",
            "of": "auto avx512 avx2 portable",
        },
    )
    threads: int = field(default=0, metadata={"help": "threads of the native kernels; 0 means one per available core"})
    cxx: str = field(default="", metadata={"help": "the C++ compiler; empty means the first of c++, g++, clang++"})
    cache: str = field(
        default="",
        metadata={
            "help": "folder for models, compiled kernels and programs; empty means soberano in the user's cache folder"
        },
    )
    offline: bool = field(default=False, metadata={"help": "1 refuses every outbound connection"})
    shared: str = field(default="../shared", metadata={"help": "test data that is too large for the tree (tests only)"})

    def cache_home(self) -> Path:
        """The folder that the user means for the cache, whether or not it can be written."""
        return Path(self.cache) if self.cache else _user_cache() / "soberano"

    def cache_dir(self) -> Path:
        """A folder that can be written, made on first use: `cache_home`, or a temporary one where that is read-only."""
        return _writable(self.cache_home())

    def cache_dirs(self) -> list[Path]:
        """Where to look for what is cached: a read-only cache may well be full."""
        return list(dict.fromkeys([self.cache_home(), self.cache_dir()]))


def _user_cache() -> Path:
    named = os.environ.get("XDG_CACHE_HOME", "")
    if Path(named).is_absolute():  # the XDG specification: relative values are to be ignored
        return Path(named)
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # no HOME, and this user is in no password file, as in many containers
        return Path(tempfile.gettempdir()) / f"cache-{_user()}"


def _user() -> str:
    return str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")


@functools.cache
def _writable(wanted: Path) -> Path:
    """`wanted` if it can be written, else a temporary folder of this user, else one that only this process knows."""
    if _can_write(wanted):
        return wanted
    spare = Path(tempfile.gettempdir()) / f"soberano-{_user()}"
    # Compiled kernels are loaded from here, and the temporary folder is everybody's: take no folder of a stranger.
    if (
        _can_write(spare)
        and not spare.is_symlink()
        and (not hasattr(os, "getuid") or spare.stat().st_uid == os.getuid())
    ):
        return spare
    return Path(tempfile.mkdtemp(prefix="soberano-"))


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def child_environment(**changes: str) -> dict[str, str]:
    """The environment for a child process, with a few variables changed."""
    return {**os.environ, **changes}


def variables() -> list[tuple[str, Any, str]]:
    """(environment variable, default, help) of every setting, in order."""
    return [(f"SOBERANO_{f.name.upper()}", f.default, f.metadata["help"]) for f in fields(Settings)]


def read(environ: Mapping[str, str]) -> Settings:
    """Parse the environment. Raises InputError for a value that a variable cannot have.

    >>> read({"SOBERANO_THREADS": "2"}).threads
    2
    """
    values: dict[str, Any] = {}
    for f in fields(Settings):
        name = f"SOBERANO_{f.name.upper()}"
        text = environ.get(name, "")
        if not text:
            continue
        if f.type is bool or isinstance(f.default, bool):
            if text not in ("0", "1"):
                raise InputError(f"{name}={text!r} is neither 0 nor 1; set it to one of them")
            values[f.name] = text == "1"
        elif isinstance(f.default, int):
            if not text.isdecimal():
                raise InputError(f"{name}={text!r} is not a whole number of 0 or more; set it to one, or unset it")
            values[f.name] = int(text)
        else:
            choices = f.metadata.get("of", "").split()
            if choices and text not in choices:
                raise InputError(f"{name}={text!r} is none of {', '.join(choices)}; set it to one of them")
            values[f.name] = text
    return Settings(**values)


@functools.cache
def settings() -> Settings:
    """The settings of this process, read from the environment at the first call."""
    return read(os.environ)
