"""The machine's peaks: the kernels read every byte that they say they read, and no share is of the wrong arithmetic."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import soberano
from soberano.backends import native
from soberano.backends.plan import Plan
from soberano.bench import peaks
from soberano.bench.roof import Roof
from soberano.core.errors import Unsupported
from tests.tiny import write_tiny_llama

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


def test_the_roof_counts_each_weight_once_and_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiny_llama(tmp_path / "tiny.gguf")
    with soberano.load(tmp_path / "tiny.gguf", backend="numpy") as model:
        roof = Roof(model)
    layer = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 128  # q and output, k and v, the three of the feed-forward layer
    assert roof.operations_per_token == 2 * 2 * layer
    assert roof.bytes_per_token == 4 * (2 * (layer + 2 * 64) + 384 * 64), "as float32, with the two norms; tied output"
    assert roof.bytes_per_seen == 2 * 2 * 2 * 16 * 4, "keys and values of 2 layers, 2 heads of 16, in float32"
    monkeypatch.setattr(peaks, "read_gbs", lambda *_: 1.0)
    monkeypatch.setattr(peaks, "gigaops", lambda *_: {"float32": 1.0})
    roof.measure()
    assert roof.decode_share(1e9 / roof.bytes_per_token, seen=0) == pytest.approx(1.0)
    assert roof.decode_share(1e9 / roof.bytes_per_token, seen=roof.bytes_per_token / 512) == pytest.approx(2.0)
    assert roof.prefill_share(0.5e9 / roof.operations_per_token) == pytest.approx(0.5)
