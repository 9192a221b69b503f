"""Beside a peer: both sides are in the rows, the peer at its best, and one that is not there or dies is one line."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from soberano.bench import cold_start, llm, memory, peers
from soberano.bench.case import Ask
from soberano.bench.peers import Peer, instruction_set
from soberano.core.errors import InputError, SoberanoError
from tests.tiny import write_tiny_llama


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    script = str(Path(__file__).with_name("fake_peer.py"))
    monkeypatch.setitem(peers.SCRIPTS, "fake", ("json", script, "nothing"))
    yield


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_tiny_llama(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def test_rows_name_the_peer_and_take_its_best_setting(tiny: Path, tmp_path: Path) -> None:
    if not memory.ROLLUP.exists():
        pytest.skip("this system does not say what memory is private")
    ask = Ask(tiny, backend="numpy", prompt_tokens=20, new_tokens=2, repeat=1, busy=True, against="fake")
    found = llm.run(ask, results=tmp_path)
    rows = {r.case.removeprefix("tiny "): r for r in found.rows}
    assert {r.peer_name for r in rows.values()} == {"fake 9 AVX512", "fake 9 AVX512 from Python"}
    assert rows["prefill 20"].peer == 20.0, "20 tokens in 1 s, with flash attention"
    assert rows["decode 2"].peer == 4.0, "2 tokens in 0.5 s, without"
    assert rows["decode 2, all cores busy: kept"].peer == 100.0
    private = rows["private memory, context 86"]
    assert private.peer == 100.0
    assert private.unit == "MB" and private.ratio and private.ratio == pytest.approx(private.peer / private.ours, 1e-2)  # type: ignore[operator]
    assert rows["cold start to first token"].unit == "s"
    (written,) = tmp_path.glob("*.jsonl")
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    assert [line["case"] for line in lines] == [r.case for r in found.rows]
    assert "fake 9: CPU : AVX = 1" in found.to_text()


def test_memory_is_that_of_the_setting_which_takes_least(tiny: Path) -> None:
    if not memory.ROLLUP.exists():
        pytest.skip("this system does not say what memory is private")
    ask = Ask(tiny, prompt_tokens=2, new_tokens=1)
    assert memory.theirs("fake", tiny, 1, 100, [1] * 3, ask.cases[0], None) == (10**8, 2 * 10**9)


@pytest.mark.parametrize(
    ("system", "name"),
    [
        ("CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 1 | AMX_INT8 = 1 | ", "AMX"),
        ("CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 1 | AVX512_VNNI = 1 | ", "AVX512"),
        ("CPU : AVX2 = 1 | AVX512 = 0 | AMX_INT8 = 0 | ", "AVX2"),
        ("CPU : NEON = 1 | ARM_FMA = 1 | ", "NEON"),
        ("CPU : ", ""),
    ],
)
def test_the_instruction_set_is_the_best_that_the_peer_has(system: str, name: str) -> None:
    assert instruction_set(system) == name


def test_a_peer_that_is_not_there_is_refused(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no peer is called 'vllm'; known are llama"):
        Peer("vllm", tiny, 1, 64)
    with pytest.raises(InputError, match="cannot be run: No such file"):
        Peer("fake", tiny, 1, 64, "/no/such/python")
    monkeypatch.setitem(peers.SCRIPTS, "absent", ("no_such_module", "x.py", "its-package"))
    with pytest.raises(InputError, match="cannot import no_such_module; install its-package there"):
        Peer("absent", tiny, 1, 64)


def test_a_peer_that_dies_is_told_with_its_status(tiny: Path) -> None:
    with Peer("fake", tiny, 1, 64) as peer, pytest.raises(SoberanoError, match="died at sing with status 3"):
        peer.ask(do="sing")


def test_a_cold_start_counts_until_the_first_byte_not_the_end() -> None:
    slow_end = "print('a', flush=True); import time; time.sleep(0.5)"
    times = cold_start.measure({"x": [[sys.executable, "-S", "-c", slow_end]]}, repeat=1)
    assert 0 < times["x"] < 0.5


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import sys; sys.exit('out of luck')", "status 1 and no token: out of luck"),
        ("pass", "status 0 and no token"),
        ("import sys; print('a'); sys.exit('too late')", "status 1 .*: too late"),
    ],
)
def test_a_start_that_gives_no_token_is_no_start(program: str, says: str) -> None:
    with pytest.raises(SoberanoError, match=says):
        cold_start.first_byte_s([sys.executable, "-S", "-c", program])


def test_a_binary_that_is_not_there_is_refused(tiny: Path) -> None:
    with pytest.raises(InputError, match="--peer-binary /no/such is no file"):
        cold_start.program("/no/such", tiny, 1, 64)
