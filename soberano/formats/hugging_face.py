"""A model's folder as Hugging Face lays it out: config.json, weights as safetensors, and files that say more."""

from pathlib import Path
from typing import Any

from soberano.core.errors import FileError
from soberano.formats.json_file import parse_array, parse_object, read_bytes
from soberano.formats.safetensors import INDEX, Safetensors, Shards, read

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


class Folder:
    """The files of a model. Only those that are asked for are read."""

    def __init__(self, path: Path) -> None:
        """Read config.json. Raises FileError where it is missing or malformed."""
        self.path = path
        self.config = self.json(CONFIG)

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return (self.path / name).is_file()

    def json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file. Raises FileError where there is none."""
        return parse_object(read_bytes(self.path / name), str(self.path / name))

    def json_or(self, name: str) -> dict[str, Any]:
        """The object in a JSON file; an empty one where the file is absent."""
        return self.json(name) if self.has(name) else {}

    def array(self, name: str) -> list[Any]:
        """The list in a JSON file. Raises FileError where there is none."""
        return parse_array(read_bytes(self.path / name), str(self.path / name))

    def text(self, name: str) -> str:
        """A text file. Raises FileError where it is missing or no UTF-8."""
        try:
            return read_bytes(self.path / name).decode()
        except UnicodeDecodeError as error:
            raise FileError(f"{self.path / name} is not UTF-8 (byte {error.start}); get the file again") from None

    def weights(self) -> Safetensors | Shards:
        """Open model.safetensors, or the parts that its index names. Raises FileError."""
        index = f"{WEIGHTS}{INDEX}"
        return read(self.path / (index if self.has(index) else WEIGHTS))


def folder_of(path: Path) -> Path | None:
    """The folder of such a model that a path means: itself, or one of its main files. None for other paths."""
    if path.is_dir():
        return path if (path / CONFIG).is_file() else None
    return path.parent if path.suffix == ".safetensors" or path.name == CONFIG else None
