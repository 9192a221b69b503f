"""A tiny model on disk, the demo model where it is present, and a way to run command lines in this process."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from soberano.cli.main import main
from tests.tiny import write_tiny_llama


class Answer(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    write_tiny_llama(path, types={"attn": "F32", "ffn": "F32", "embd": "F32"})
    return path


@pytest.fixture
def soberano(capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run `soberano ...` here: status, standard output, standard error."""

    def run(*argv: str | Path) -> Answer:
        capfd.readouterr()
        status = main([str(a) for a in argv])
        return Answer(status, *capfd.readouterr())

    return run
