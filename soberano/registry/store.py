"""The models on this machine: one folder a model, with its file and a record of where it came from.

<cache>/models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
<cache>/models/smollm2/model.json
"""

import difflib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from soberano.core.errors import FileError
from soberano.core.settings import settings
from soberano.registry.sources import SOURCES

RECORD = "model.json"


@dataclass(frozen=True)
class Record:
    """What is known about a stored model: written when it was pulled, never guessed later."""

    name: str
    file: str
    size: int  # bytes
    sha256: str
    licence: str
    source: str
    pulled: str  # UTC, ISO 8601

    def to_json(self) -> str:
        """The record as its file holds it."""
        return json.dumps(asdict(self), indent=1) + "\n"


@dataclass(frozen=True)
class Stored:
    """A model of the store: its record, and where its file is."""

    record: Record
    path: Path


def models_dir() -> Path:
    """The folder that new models are put into; made when it is missing."""
    folder = settings().cache_dir() / "models"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def find(name: str) -> Stored | None:
    """The stored model of that name, or None. Raises FileError when it is there but damaged."""
    for cache in settings().cache_dirs():
        folder = cache / "models" / name
        if Path(name).name != name or not (folder / RECORD).is_file():  # a name is never a path
            continue
        record = _read(folder / RECORD)
        path = folder / record.file
        size = path.stat().st_size if path.is_file() else None
        if size != record.size:
            found = "is missing" if size is None else f"has {size:,} bytes instead of {record.size:,}"
            raise FileError(f"the stored model {name} is damaged: {path} {found}; run: soberano pull {record.source}")
        return Stored(record, path)
    return None


def list_models() -> list[Stored]:
    """Every stored model that is whole, by name."""
    names = {p.parent.name for cache in settings().cache_dirs() for p in cache.glob(f"models/*/{RECORD}")}
    found = []
    for name in sorted(names):
        try:
            stored = find(name)
        except FileError:
            continue
        if stored:
            found.append(stored)
    return found


def resolve(model: str) -> Path:
    """The file, or the folder, behind MODEL: a path, or the name of a stored model. Raises FileError that says what is.

    The size of a stored model is compared here; its hash was when it was pulled.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if (path / "config.json").is_file():
            return path
        raise FileError(f"{model!r} is a folder without config.json; give the .gguf file inside it")
    if path.exists():
        raise FileError(f"{model!r} is a device or a pipe, no plain file; give a .gguf file")
    looks_like_path = path.name != model or path.suffix in (".gguf", ".bin", ".safetensors")
    if looks_like_path:
        raise FileError(f"no file at {model}; check the path{_here()}")
    stored = find(model)
    if stored:
        return stored.path
    if model in SOURCES:
        raise FileError(f"the model {model} is not on this machine yet; run: soberano pull {model}")
    close = difflib.get_close_matches(model, [*SOURCES, *(s.record.name for s in list_models())], n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise FileError(
        f"no model is called {model!r}, and no file; {hint}soberano pull knows {', '.join(SOURCES)}{_here()}"
    )


def _here() -> str:
    names = [s.record.name for s in list_models()]
    return f"; stored here: {', '.join(names)}" if names else "; no model is stored here yet"


def _read(path: Path) -> Record:
    try:
        record = Record(**json.loads(path.read_text(encoding="utf-8")))
        whole = isinstance(record.size, int) and isinstance(record.file, str) and Path(record.file).name == record.file
    except (OSError, ValueError, TypeError):
        whole = False
    if not whole:
        name = path.parent.name
        raise FileError(f"{path} is not a record of ours; remove its folder and run: soberano pull {name}")
    return record
