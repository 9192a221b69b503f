"""Files that are there whole or not at all, whenever the power fails."""

import os
from contextlib import suppress
from pathlib import Path


def rename(part: Path, path: Path) -> Path:
    """Give a file that is complete its name, once its contents are on the disk -> `path`. Raises OSError."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    with suppress(OSError):  # Windows cannot do this to a folder, and some network file systems refuse
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return path
