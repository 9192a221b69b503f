"""`soberano verify` fails when a backend is wrong: in its whole, in one op, in what it writes into the cache."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import soberano
from soberano.bench.score import Distance, distance, nats
from soberano.bench.verify import OpError, PathReport, Report, op_errors, report
from soberano.core.errors import InputError
from soberano.models.model import Model
from soberano.ops import attention
from tests.tiny import write_tiny_llama

GOOD = Distance(10, kl_mean=1e-6, kl_max=1e-5, agreement=1.0, gap_p99=0.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_tiny_llama(path)
    return path


@pytest.fixture(scope="module")
def reference(tiny: Path) -> Iterator[Model]:
    with soberano.load(tiny, backend="numpy") as found:
        yield found


def judged(whole: Distance = GOOD, error: float = 0.0) -> PathReport:
    return PathReport("cpu", "token", "float32", whole, [OpError(0, "attn_q", error)])


@pytest.mark.parametrize(
    "change, says",
    [
        ({"kl_mean": 1.1e-5}, "KL mean at most 1e-05"),
        ({"kl_mean": float("nan")}, "KL mean"),
        ({"agreement": 0.94}, "same best token at least 95%"),
        ({"agreement": float("nan")}, "same best token"),
        ({"gap_p99": 0.31}, "gap at most 0.3"),
        ({"gap_p99": float("nan")}, "gap"),
    ],
)
def test_one_number_out_of_its_limit_fails(change: dict[str, float], says: str) -> None:
    found = Report(Path("m.gguf"), 10, [judged(), judged(replace(GOOD, **change))])
    assert not found.holds and f"! limit: {says}" in found.to_text() and "DOES NOT HOLD" in found.to_text()


@pytest.mark.parametrize("error", [1e-3, float("nan"), float("inf")])
def test_one_op_out_of_its_limit_fails(error: float) -> None:
    backend = judged(error=error)
    backend.ops.append(OpError(0, "attn_q", 1e-9))
    text = Report(Path("m.gguf"), 10, [backend]).to_text()
    assert not backend.holds and f"{error:.0e}!" in text


def test_what_holds() -> None:
    assert Report(Path("m.gguf"), 10, [judged()]).holds
    assert not Report(Path("m.gguf"), 10, []).holds, "nothing was compared, so nothing was shown"


def test_logits_that_are_nan_do_not_hold() -> None:
    right = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    wrong = right.copy()
    wrong[2] = np.nan
    assert judged().holds and not judged(distance([right], [wrong])).holds


def test_nothing_to_compare_is_refused(tiny: Path) -> None:
    with pytest.raises(InputError, match="numpy is the reference, so there is nothing to compare"):
        report(tiny, backends=["numpy"])
    with pytest.raises(InputError, match="0 tokens cannot be compared on"):
        report(tiny, backends=["cpu"], tokens=0)


def test_backends_that_are_right(tiny: Path) -> None:
    told: list[PathReport] = []
    labels: set[str] = set()
    found = report(
        tiny,
        backends=["numpy", "cpu", "xla"],
        tokens=33,
        progress=lambda label, *_: labels.add(label),
        tell=told.append,
    )
    assert told == found.paths and {"numpy: load", "xla: load"} <= {label[: label.find(":") + 6] for label in labels}
    ways = [(path.backend, path.role) for path in found.paths]
    assert found.holds and ways == [(b, r) for b in ("cpu", "xla") for r in ("prompt", "token")], found.to_text()
    for path in filter(lambda path: path.ops, found.paths):
        inside = {o.name for o in path.ops if o.layer == 1}
        assert {"write_kv", "attention", "rope", "attn_q", "ffn_down", "attn_norm"} <= inside
        assert {o.name for o in path.ops if o.layer is None} == {"rotation", "token_embd", "output_norm"}


def test_a_wrong_write_is_found(reference: Model, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meaning = attention.write_kv.meaning

    def shifted(k_pages: object, v_pages: object, *rest: object) -> object:
        keys, values = meaning(k_pages, v_pages, *rest)
        return keys, values if isinstance(values, np.ndarray) else values.at[1, 0, 0, 3].add(1.0)

    with soberano.load(tiny, backend="xla") as other:
        right = [o.error for o in op_errors(reference, other, list(range(3, 23))) if o.name == "write_kv"]
        assert len(right) == 2 and max(right) < 1e-6
        monkeypatch.setattr(attention.write_kv, "meaning", shifted)
        wrong = [o.error for o in op_errors(reference, other, list(range(3, 23))) if o.name == "write_kv"]
    assert min(wrong) > 1e-3


def test_nats_are_those_of_the_next_token() -> None:
    logits = np.log(np.tile([0.5, 0.25, 0.25], (200, 1)).astype(np.float32))
    found = nats(logits, [0, 1] * 100)
    np.testing.assert_allclose(found, np.where(np.arange(199) % 2, np.log(2), np.log(4)), rtol=1e-6)
