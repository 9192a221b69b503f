"""`soberano bench ops`: shares that cannot lie, and a word for who asks for a case that there is none of."""

import json

import pytest

from soberano.backends.plan import Plan
from soberano.bench import ops
from soberano.bench.ops import OpCase, OpsResult
from soberano.bench.peaks import Arithmetic
from soberano.cli.main import main

READ = 10.0  # GB/s
PEAK: dict[Arithmetic, float] = {"float32": 100.0, "bytes": 400.0}  # billions of operations per second


@pytest.mark.parametrize(
    ("case", "share"),
    [
        (OpCase("half the memory", 1.0, 5 * 10**9, 1e9), "50% of memory"),
        (OpCase("all the memory", 1.0, 10 * 10**9, 1e9), "100% of memory"),
        (OpCase("more than memory gives", 1.0, 24 * 10**9, 1e9), "in cache"),
        (OpCase("a quarter of the arithmetic", 1.0, 10**6, 25e9), "25% of float32"),
        (OpCase("the same of bytes", 1.0, 10**6, 25e9, "bytes"), "6% of bytes"),
        (OpCase("narrower than float32", 1.0, 10**6, 250e9), "beyond float32"),
    ],
    ids=lambda value: value.name if isinstance(value, OpCase) else "",
)
def test_a_share_is_of_the_limit_that_binds_and_never_above_it(case: OpCase, share: str):
    assert case.share(READ, PEAK).strip() == share


def test_a_device_is_not_compared_with_the_memory_of_its_host():
    case = OpCase("linear", 1.0, 5 * 10**9, 1e9)
    on = [
        OpsResult(Plan("cuda", "jax", platform=platform), READ, PEAK, [case]).to_text() for platform in ("cpu", "gpu")
    ]
    assert "50% of memory" in on[0] and "%" not in on[1]


def test_the_limits_are_measured_in_the_run_that_names_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ops, "SECONDS", 0.0)
    monkeypatch.setattr(ops, "MEMORY", 2**20)
    result = ops.run(backend="numpy", only="rms_norm 576, 1 row")
    assert [case.name for case in result.cases] == ["rms_norm 576, 1 row"]
    assert result.read_gbs > 0.1 and result.gigaops["float32"] > 0.1
    head = result.to_text().splitlines()[0]
    assert f"{result.plan.threads} threads" in head and f"memory {result.read_gbs:.1f} GB/s" in head
    assert f"float32 {result.gigaops['float32'] / 1e3:.2f} Top/s" in head
    said = json.loads(json.dumps(result.to_json()))
    assert {"read_gbs", "gigaops"} <= set(said) and said["cases"][0]["share"]


def test_a_case_that_there_is_none_of_is_a_line_that_names_the_cases(capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "ops", "--backend", "numpy", "--only", "nothing"]) == 2
    said = capsys.readouterr().err
    assert "no case has 'nothing' in its name" in said and "greedy 49152" in said and "linear Q4_K" in said
