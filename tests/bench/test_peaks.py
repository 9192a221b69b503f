"""The machine's peaks: the kernels read every byte that they say they read, and no share is of the wrong arithmetic."""

from dataclasses import replace

import numpy as np
import pytest

from soberano.backends import native
from soberano.backends.plan import Plan
from soberano.bench import peaks
from soberano.core.errors import Unsupported

NUMPY = Plan("numpy", "numpy")


@pytest.fixture(scope="module")
def cpu() -> Plan:
    try:
        return Plan("cpu", "jax", native=True, isa=native.isa(), threads=native.threads(), weights="tiles")
    except Unsupported as why:
        pytest.skip(str(why))


@pytest.mark.parametrize("count", [1, 7, 4096, 100_003])
def test_the_reader_reads_all_but_a_few_words_at_the_seams(cpu: Plan, count: int, rng: np.random.Generator) -> None:
    data, total = rng.integers(1, 1000, count, dtype=np.uint64), np.zeros(1, np.uint64)
    native.call("soberano_read_all", data, total, data.nbytes)
    shares = 4 * native.threads()
    assert int(data.sum()) - int(total[0]) <= 1000 * (8 * shares + shares), "a share reads whole lines of 8 words"
    assert total[0] <= data.sum()


def test_every_arithmetic_that_a_plan_may_name_has_a_peak(cpu: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "SECONDS", 0.001)
    found = peaks.gigaops(cpu)
    assert {peaks.arithmetic_of(cpu, "prompt"), peaks.arithmetic_of(cpu, "token"), "float32"} <= set(found)
    assert ("bf16 tiles" in found) == (cpu.isa == "amx") and min(found.values()) > 0.1
    assert peaks.read_gbs(cpu, np.ones(2**20)) > 0.1


def test_without_kernels_numpy_is_the_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(peaks.gigaops(NUMPY)) == {"float32"} and peaks.read_gbs(NUMPY, np.ones(2**18)) > 0.1
    assert peaks.arithmetic_of(NUMPY, "prompt") == "float32"


def test_the_arithmetic_follows_the_role_where_there_is_a_matrix_unit() -> None:
    amx = Plan("cpu", "jax", native=True, isa="amx")
    assert peaks.arithmetic_of(amx, "prompt") == "bf16 tiles" and peaks.arithmetic_of(amx, "token") == "bytes"
    assert peaks.arithmetic_of(replace(amx, isa="avx2"), "prompt") == "bytes"
