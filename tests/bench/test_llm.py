"""`soberano bench llm` measures, or says what it cannot measure."""

import sys
from pathlib import Path

import pytest

from soberano.bench import llm
from soberano.core.errors import InputError
from tests.tiny import write_tiny_llama


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_tiny_llama(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def test_it_measures(tiny: Path) -> None:
    found = llm.run(tiny, backend="numpy", prompt_tokens=20, new_tokens=1, repeat=1)
    assert found.prefill_tps > 0 and found.decode_tps > 0 and found.first_token_s > 0
    assert "prefill 20 tok/s" in found.to_text() and found.to_json()["new_tokens"] == 1


@pytest.mark.parametrize("name", ["prompt_tokens", "new_tokens", "repeat"])
@pytest.mark.parametrize("value", [0, -1])
def test_no_run_at_all_is_refused(tiny: Path, name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is {value}; a measurement needs 1 or more"):
        llm.run(tiny, backend="numpy", **{name: value})  # type: ignore[arg-type]


def test_a_context_that_cuts_the_answer_short_is_refused(tiny: Path) -> None:
    with pytest.raises(InputError, match=r"a context of 30 does not hold 20 prompt tokens and 10 new ones; .* 31"):
        llm.run(tiny, backend="numpy", context=30, prompt_tokens=20, new_tokens=10)


def test_where_nobody_knows_the_peak_it_is_unknown(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    found = llm.run(tiny, backend="numpy", prompt_tokens=20, new_tokens=2, repeat=1)
    assert found.peak_rss_bytes is None and "unknown" in found.to_text()
