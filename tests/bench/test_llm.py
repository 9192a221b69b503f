"""`soberano bench llm` measures what it was asked for, both sides alike, or says what it cannot measure."""

import json
import sys
from pathlib import Path

import pytest

from soberano.bench import llm, memory
from soberano.bench.case import Ask, Case
from soberano.bench.report import LlmResult
from soberano.bench.rows import Row, row
from soberano.bench.speed import Runs, Times
from soberano.core.errors import InputError
from tests.tiny import write_tiny_llama
from tests.tiny_encoders import Tiny


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_tiny_llama(tmp_path / "tiny.gguf", context=2048)
    return tmp_path / "tiny.gguf"


def test_it_measures(tiny: Path) -> None:
    found = llm.run(Ask(tiny, backend="numpy", prompt_tokens=20, new_tokens=1, repeat=1))
    assert found.prefill_tps and found.decode_tps and found.first_token_s and found.machine
    assert [r.case for r in found.rows] == ["tiny prefill 20", "tiny decode 1"]
    assert all(r.peer is None and r.limit_share and r.limit_share > 0 for r in found.rows)
    text, numbers = found.to_text(), json.loads(json.dumps(found.to_json()))
    assert "prefill 20 " in text and "of the machine's limit" in text
    wanted = {"prefill_tps", "decode_tps", "load_s", "first_token_s", "peak_rss_bytes", "new_tokens", "rows"}
    assert wanted <= set(numbers) and numbers["rows"][0]["case"] == "tiny prefill 20"


@pytest.mark.parametrize("form", ["folder", "file"])
def test_an_encoder_is_refused_in_words_that_fit_it(form: str, tmp_path: Path) -> None:
    tiny = Tiny("bert")
    path = tiny.write_folder(tmp_path / "m") if form == "folder" else tiny.write_gguf(tmp_path / "m.gguf")
    with pytest.raises(InputError, match="is an encoder: it turns texts into vectors and writes none; use `soberano"):
        llm.run(Ask(path, backend="numpy"))


def test_deep_in_a_context_and_on_busy_cores(tiny: Path) -> None:
    ask = Ask(tiny, backend="numpy", prompt_tokens=4, new_tokens=2, depth=512, repeat=1, busy=True)
    cases = [r.case.removeprefix("tiny ") for r in llm.run(ask).rows]
    assert cases == [
        "prefill 4",
        "decode 2",
        "prefill 4 after 512",
        "decode 2 after 516",
        "decode 2, all cores busy",
        "decode 2, all cores busy: kept",
    ]


@pytest.mark.parametrize("name", ["prompt_tokens", "new_tokens", "repeat"])
@pytest.mark.parametrize("value", [0, -1])
def test_no_run_at_all_is_refused(tiny: Path, name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} is {value}; a measurement needs 1 or more"):
        Ask(tiny, **{name: value})  # type: ignore[arg-type]


def test_a_context_that_cuts_the_answer_short_is_refused(tiny: Path) -> None:
    with pytest.raises(InputError, match=r"a context of 30 does not hold 20 prompt tokens and 10 new ones; .* 31"):
        Ask(tiny, context=30, prompt_tokens=20, new_tokens=10)
    with pytest.raises(InputError, match=r"20 prompt tokens and 10 new ones after 512; .* 543"):
        Ask(tiny, context=542, prompt_tokens=20, new_tokens=10, depth=512)


@pytest.mark.parametrize("depth", [1, 700, -512])
def test_a_depth_at_which_no_chunk_begins_is_refused(tiny: Path, depth: int) -> None:
    with pytest.raises(InputError, match=f"--depth is {depth}; .* chunks of 512, so give a multiple"):
        Ask(tiny, depth=depth)


def test_what_makes_no_sense_is_refused(tiny: Path) -> None:
    with pytest.raises(InputError, match="--only luck is no part"):
        Ask(tiny, parts=("luck",))
    with pytest.raises(InputError, match="asks for it"):
        Ask(tiny, peer_python="/usr/bin/python3")


def test_parts_default_to_speed_alone_and_to_all_beside_a_peer(tiny: Path) -> None:
    def parts(ask: Ask) -> list[bool]:
        return [ask.does(part) for part in ("speed", "memory", "cold-start")]

    assert parts(Ask(tiny)) == [True, False, False]
    assert parts(Ask(tiny, against="llama.cpp")) == [True, True, True]
    assert parts(Ask(tiny, against="llama.cpp", parts=("memory",))) == [False, True, False]


def test_where_nobody_knows_the_peak_it_is_unknown(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    found = llm.run(Ask(tiny, backend="numpy", prompt_tokens=20, new_tokens=2, repeat=1))
    assert found.peak_rss_bytes is None and "unknown" in found.to_text()


@pytest.mark.skipif(not memory.ROLLUP.exists(), reason="this system does not say what memory is private")
def test_memory_and_cold_start_alone(tiny: Path) -> None:
    parts = ("memory", "cold-start")
    found = llm.run(Ask(tiny, backend="numpy", prompt_tokens=20, new_tokens=2, repeat=1, context=100, parts=parts))
    private, peak, start = found.rows
    assert private.case == "tiny private memory, context 100" and private.unit == "MB"
    assert 10 < private.ours <= peak.ours < 2000 and 0.05 < start.ours < 60
    assert found.prefill_tps is None and "load" not in found.to_text()


def test_where_memory_is_not_told_that_is_said(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ROLLUP", tiny / "nowhere")
    with pytest.raises(InputError, match="this system lacks; leave it out with --only speed"):
        llm.run(Ask(tiny, backend="numpy", prompt_tokens=4, new_tokens=1, parts=("memory",)))


def test_of_a_peers_settings_each_number_takes_the_best_by_its_median() -> None:
    runs = Runs(Case(0, 100, 10))
    for setting, prefill, decode in (
        ("flash", 1, 5),
        ("flash", 2, 1),
        ("flash", 3, 5),
        ("plain", 4, 4),
        ("plain", 1, 4),
    ):
        runs.add(Times(prefill, decode), setting)
    assert runs.prefill_tps == 100 / 2, "the median of flash, not the fastest run"
    assert runs.decode_tps == 10 / 4, "plain writes faster"


def test_a_smaller_number_is_a_ratio_above_one() -> None:
    less = row("cpu", "m cold start", 0.5, "s", 1.0, "peer", smaller_is_better=True)
    assert less.ratio == 2.0 and row("cpu", "m decode", 50, "tok/s", 100, "peer").ratio == 0.5


def table(rows: list[Row]) -> list[str]:
    return LlmResult("m.gguf", "cpu", 1, 1, 1, 10, rows=rows).to_text().splitlines()


def test_the_table_has_a_line_for_each_row_with_its_peer() -> None:
    rows = [
        row("cpu", "m decode 8", 12345.6, "tok/s", 1000.0, "peer 1", limit_share=0.5),
        row("cpu", "m cold start", 0.5, "s"),
    ]
    lines = table(rows)[2:]
    assert " ".join(lines[0].split()) == "decode 8 12,350 tok/s 1,000 tok/s 12.35x 50% of the machine's limit peer 1"
    assert " ".join(lines[1].split()) == "cold start 0.50 s"
