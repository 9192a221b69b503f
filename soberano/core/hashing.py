"""The SHA-256 of files: what says which file an adapter was trained on."""

import hashlib
from pathlib import Path

from soberano.core.errors import FileError
from soberano.core.progress import Progress, silent

_PIECE = 2**20


def sha256(path: Path, progress: Progress = silent) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises FileError if it cannot be read."""
    seen, done = hashlib.sha256(), 0
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                seen.update(piece)
                done += len(piece)
                progress("hash", done, total, "bytes")
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror or error}") from None
    return seen.hexdigest()
