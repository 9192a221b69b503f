"""What commands show: progress on stderr, and tables.

Pretty only where a person looks: a pipe gets plain lines, and stdout holds nothing but the answer.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from soberano.core.printable import printable
from soberano.core.progress import Progress
from soberano.core.units import bytes_text, seconds_text

QUIET_S = 2.0  # work that is done sooner shows nothing
LINE_S = 5.0  # into a pipe: at most one line in so many seconds


def amount(count: int, unit: str) -> str:
    """A count with its unit, bytes as people read them."""
    return bytes_text(count) if unit == "bytes" else f"{count:,} {unit}"


def _far(done: int, total: int | None, unit: str, ended: bool) -> str:
    if total is None or ended:
        return amount(done, unit)
    return f"{amount(done, unit)} of {amount(total, unit)}" if unit == "bytes" else f"{done:,} of {total:,} {unit}"


class _Lines:
    """Progress for a pipe or a log: a plain line now and then, and one when something long has ended."""

    def __init__(self) -> None:
        self.label, self.started, self.said = "", 0.0, 0.0

    def __call__(self, label: str, done: int, total: int | None, unit: str) -> None:
        now = time.monotonic()
        if label != self.label:
            self.label, self.started, self.said = label, now, now
        ended = total is not None and done >= total
        if now - self.said < LINE_S and not (ended and now - self.started > QUIET_S):
            return
        self.said = now
        took = f" in {seconds_text(now - self.started)}" if ended else ""
        print(f"{printable(label, lines=False)}: {_far(done, total, unit, ended)}{took}", file=sys.stderr)
        if ended:
            self.label = ""


class _Notes(logging.Handler):
    """Shows what the package has to say while it works, such as the memory that a model will take."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.INFO)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(printable(record.getMessage(), lines=False))


@contextmanager
def _noted(say: Callable[[str], None]) -> Iterator[None]:
    logs, notes = [logging.getLogger(name) for name in ("soberano.models", "soberano.train")], _Notes(say)
    levels = [log.level for log in logs]
    for log in logs:
        log.addHandler(notes)
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.removeHandler(notes)
            log.setLevel(level)


@contextmanager
def progress(*, notes: bool = False) -> Iterator[Progress]:
    """A listener for long work, as the terminal allows: bars on one, lines elsewhere.

    On a terminal, or where `notes` are wanted, what is noted of a load is a line of its own.
    """
    if not sys.stderr.isatty():
        with _noted(lambda line: print(line, file=sys.stderr)) if notes else nullcontext():
            yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),  # a label may hold brackets, and says nothing in them
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    console = Console(stderr=True)
    show = partial(console.print, markup=False, highlight=False)
    with Bars(*columns, console=console, transient=True) as bars, _noted(show):

        def listen(label: str, done: int, total: int | None, unit: str) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(printable(label, lines=False), total=total, amount="")
            far = _far(done, total, unit, ended=False)
            bars.update(tasks[label], completed=done, total=total, amount=far)

        yield listen


def table(rows: Iterable[Sequence[Any]], *, head: Sequence[str] = (), right: Sequence[int] = ()) -> str:
    """Rows as aligned plain text; columns whose number is in `right` are aligned there.

    >>> print(table([["a", 1], ["bbb", 22]], head=["name", "n"], right=[1]))
    name   n
    a      1
    bbb   22
    """
    cells = [[str(c) for c in row] for row in ([head] if head else []) + [list(r) for r in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))] if cells else []
    lines = []
    for row in cells:
        parts = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)
