"""Every environment variable that the project reads: name, meaning, default. Nothing else reads os.environ."""

import functools
import os
import stat
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
            "help": "instruction set of the native kernels: auto, amx, avx512, avx2, neon or portable",
            "of": "auto amx avx512 avx2 neon portable",
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

    debug: bool = field(default=False, metadata={"help": "1 shows the traceback of an internal error"})

    def cache_home(self) -> Path:
        """The folder that the user means for the cache, whether or not it can be used."""
        return Path(self.cache) if self.cache else _user_cache() / "soberano"

    def cache_dir(self) -> Path:
        """A private folder that can be written, made on first use: `cache_home`, or a temporary one in its place."""
        return _usable(self.cache_home())[0]

    def cache_reason(self) -> str:
        """Why `cache_dir` is not `cache_home`; empty where it is."""
        return _usable(self.cache_home())[1]

    def cache_dirs(self) -> list[Path]:
        """Where to look for what is cached: a read-only cache may well be full, one open to others is not asked."""
        home = self.cache_home()
        return list(dict.fromkeys([*([] if _open_to_others(home) else [home]), self.cache_dir()]))


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
def _usable(wanted: Path) -> tuple[Path, str]:
    """(`wanted`, a temporary folder of this user, or one that only this process knows; why it is not `wanted`)."""
    why = _refusal(wanted)
    if not why:
        return wanted, ""
    spare = Path(tempfile.gettempdir()) / f"soberano-{_user()}"
    return (Path(tempfile.mkdtemp(prefix="soberano-")) if _refusal(spare) else spare), why


def _refusal(folder: Path) -> str:
    """Why `folder`, which is made if it is missing, is not to be used; empty if nothing speaks against it."""
    why = _open_to_others(folder)
    if why:
        return why
    try:
        for step in (*reversed(folder.absolute().parents), folder):
            if not step.exists():
                step.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return _open_to_others(folder)  # again: somebody may have been there first
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror})"


def _open_to_others(folder: Path) -> str:
    """Why what lies in `folder` may be a stranger's; empty if nothing says so, or nothing is there.

    Kernels and programs are loaded from it, so nobody but this user (and root) may write into it. Below a folder that
    everybody may write to, as the temporary one, that holds for each step of the path; a link right in such a folder
    is not followed, any other leads to a path that is looked at in the same way.
    """
    if not hasattr(os, "getuid"):
        return ""
    try:
        paths = dict.fromkeys([folder.absolute(), folder.resolve()])
    except (OSError, RuntimeError):  # Python 3.12 and older say RuntimeError
        return f"{folder} is a link that leads to itself; remove it"
    for path in paths:
        shared = everybodys = False  # whether some step so far, or the last one, takes files from everybody
        for step in (*reversed(path.parents), path):
            try:
                found, link = step.stat(), step.is_symlink()
            except OSError:
                break  # nothing is there, or a link to nothing, which `mkdir` refuses
            if everybodys and link:
                return f"{step} is a link in a folder that everybody can write to; remove it"
            writable = found.st_mode & 0o022
            if step != path and found.st_mode & stat.S_ISVTX:  # another /tmp: nobody replaces what is not his own there
                writable = 0
            if (shared or step == path) and found.st_uid not in (0, os.getuid()):
                return f"{step} belongs to another user"
            if (shared or step == path) and writable:
                return f"{step} can be written by others; run: chmod go-w {step}"
            everybodys = step == Path(tempfile.gettempdir()) or bool(found.st_mode & stat.S_IWOTH)
            shared = shared or everybodys
    return ""


def child_environment(**changes: str) -> dict[str, str]:
    """The environment for a child process, with a few variables changed."""
    return {**os.environ, **changes}


def variables() -> list[tuple[str, Any, str]]:
    """(environment variable, default, help) of every setting, in order."""
    return [(f"SOBERANO_{f.name.upper()}", f.default, f.metadata["help"]) for f in fields(Settings)]


def choices(name: str) -> list[str]:
    """The values that a setting of a fixed list can have.

    >>> choices("native")
    ['auto', 'off', 'require']
    """
    (of,) = (f.metadata["of"] for f in fields(Settings) if f.name == name)
    return of.split()


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
            if not text.isdecimal() or len(text) > 4:
                raise InputError(f"{name}={text!r} is not a whole number from 0 to 9999; set it to one, or unset it")
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
