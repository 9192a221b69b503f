"""What every test shares: settings that a test may change, and what pytest must not import on this machine."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest

from soberano.core.settings import settings

# Programs for environments with a peer or an oracle.
collect_ignore_glob = ["soberano/bench/peer_*.py", "tests/golden/make_*.py", "tests/golden/oracle_*.py"]
if not find_spec("cupy"):
    collect_ignore_glob += ["soberano/*cupy*.py", "soberano/**/*cupy*.py"]


@pytest.fixture
def setenv(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Change environment variables and have the settings read again: `setenv(SOBERANO_OFFLINE="1", HOME=None)`."""

    def change(**variables: str | None) -> None:
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        settings.cache_clear()

    settings.cache_clear()
    yield change
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture
def cache(setenv: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> str:
    """An empty cache folder of this test's own."""
    folder = str(tmp_path_factory.mktemp("cache"))
    setenv(SOBERANO_CACHE=folder)
    return folder
