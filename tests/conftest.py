"""Fixtures that the tests of arrays share: `home`, one test body on every home that is present, and `rng`, its numbers.

A seed is fixed and printed in the header; SOBERANO_TEST_SEED=7 tries another. JAX runs on the CPU unless JAX_PLATFORMS
says otherwise, and no compiled program outlives the process.
"""

import os
import sys
import zlib
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from soberano.backends import homes
from soberano.backends.base import Home

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

SEED = int(os.environ.get("SOBERANO_TEST_SEED", "20260"))
HOMES = ("numpy", "jax", "cupy")

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("default", deadline=None, max_examples=25, suppress_health_check=_SLOW)
settings.register_profile("ci", deadline=None, max_examples=25, suppress_health_check=_SLOW, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_report_header() -> str:
    present = [name for name in HOMES if find_spec(name)]
    return f"soberano: seed {SEED} (SOBERANO_TEST_SEED), homes {', '.join(present)}"


@pytest.fixture(scope="session", params=HOMES)
def home(request: pytest.FixtureRequest) -> Home:
    """Each home that is present. The others are skipped, and the summary says why."""
    name = request.param
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    found = homes.home(name)
    if name == "cupy":
        try:
            found.devices()
        except Exception as why:  # CUDA's own error class can only be named where CuPy is installed
            pytest.skip(f"cupy finds no device: {why}")
    return found


def forget_programs() -> None:
    """Drop what JAX has compiled so far: the programs of a hundred tiny models would fill gigabytes."""
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture(autouse=True, scope="module")
def _programs_end_with_their_file() -> Iterator[None]:
    yield
    forget_programs()


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of this test's own: the same in every run, alone or with others."""
    return np.random.default_rng([SEED, zlib.crc32(request.node.name.encode())])
