"""Where the tests find all-MiniLM-L6-v2, or why they skip."""

from pathlib import Path

import pytest

from soberano.core.errors import FileError
from soberano.registry.store import find


def minilm_folder() -> Path:
    """The folder of the pulled model, or skip the test that asks for it."""
    try:
        stored = find("minilm")
    except FileError as damaged:
        pytest.skip(str(damaged))
    if stored is None:
        pytest.skip("no all-MiniLM-L6-v2 here: run `soberano pull minilm`")
    return stored.path.parent
