import sys

from soberano.cli import _terminal
from soberano.cli._terminal import progress, table


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
        show("a [bracket] [/red] \x1b[2J", 1, 2, "bytes")
    assert "\x1b[2J" not in capsys.readouterr().err


def test_tables_line_up():
    lines = table([["a", 1], ["long", 200]], head=["x", "n"], right=[1]).splitlines()
    assert {len(line) for line in lines} == {9}
