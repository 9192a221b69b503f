"""Where the tests find Gemma 3 270M, or why they skip."""

from pathlib import Path

import pytest

from soberano.core.errors import FileError
from soberano.registry.store import find


def gemma3_path() -> Path:
    """The pulled model, or skip the test that asks for it."""
    try:
        stored = find("gemma3-270m")
    except FileError as damaged:
        pytest.skip(str(damaged))
    if stored is None:
        pytest.skip("no Gemma 3 270M here: read its terms, then run `soberano pull gemma3-270m`")
    return stored.path
