import sys
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from soberano.cli import _terminal
from soberano.cli._terminal import printable, progress, table


@given(st.text())
def test_printable_text_drives_no_terminal(text: str):
    shown = printable(text)
    assert len(shown) == len(text)
    assert not any(unicodedata.category(c) == "Cc" for c in shown if c not in "\n\t")
    assert printable(shown) == shown
    assert all(a == b for a, b in zip(text, shown, strict=True) if a.isalnum())


def test_a_pipe_gets_few_plain_lines(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_terminal.time, "monotonic", lambda: now[0])
    with progress() as show:
        for done in range(101):
            now[0] += 0.1
            show("load", done * 10**6, 10**8, "bytes")
        show("quick", 1, 1, "files")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2, "one after five seconds, one at the end, none for what was quick"
    assert lines[0].startswith("load: 5") and lines[0].endswith(" MB of 100 MB")
    assert lines[1].startswith("load: 100 MB in ")


def test_a_terminal_gets_bars(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress() as show:
        show("load", 1, 3, "files")
        show("load", 3, 3, "files")


def test_tables_line_up():
    lines = table([["a", 1], ["long", 200]], head=["x", "n"], right=[1]).splitlines()
    assert {len(line) for line in lines} == {9}
