"""The kernels' promise: every instruction set and every thread count gives the same bits.

Nor does the optimiser change any: `auto` is what this machine is served with, the others are built with -O1, in a cache
of their own, which takes half the time.
"""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from soberano.backends import native

SETTINGS = (("auto", 2), ("auto", 1), ("auto", 5), ("avx512", 2), ("avx2", 2), ("portable", 2))

pytestmark = pytest.mark.skipif(not native.state()[0], reason=native.state()[1])


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], dict[str, Any]]:
    """What `tests.ops.bits` prints under each setting that this processor can run."""
    found, folder = {}, tmp_path_factory.mktemp("kernels")
    compiler = folder / "c++"
    compiler.write_text('#!/bin/sh\nexec c++ "$@" -O1\n')
    compiler.chmod(0o755)
    quick = {"SOBERANO_CXX": str(compiler), "SOBERANO_CACHE": str(folder)} if shutil.which("c++") else {}
    for isa, threads in SETTINGS:
        env = os.environ | {"SOBERANO_ISA": isa, "SOBERANO_THREADS": str(threads), "SOBERANO_NATIVE": "require"}
        env |= quick if isa != "auto" else {}
        command = [sys.executable, "-m", "tests.ops.bits"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        if isa != "auto" and "needs" in done.stderr:
            continue  # this processor lacks it
        assert done.returncode == 0, done.stderr
        found[isa, threads] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("program", ["products", "cached", "windows", "causal", "search"])
def test_every_instruction_set_and_thread_count_gives_the_same_bits(program: str, sums: dict) -> None:
    assert len(sums) > 3 and len({found[program] for found in sums.values()}) == 1, sums


def test_of_bfloat16_every_thread_count_and_every_path_but_the_matrix_unit(sums: dict) -> None:
    """The matrix unit adds in an order of its own."""
    for matrix_unit in (True, False):
        same = {found["search_bfloat16"] for found in sums.values() if (found["isa"] == "amx") is matrix_unit}
        assert len(same) <= 1, sums
