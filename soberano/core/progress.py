"""How long work says how far it is, without knowing who listens.

A long function takes `progress: Progress = silent` and calls it as `progress("repack", done, total, "tensors")`.
The command line draws a bar from that; a library user may pass a function of their own.
"""

from typing import Protocol


class Progress(Protocol):
    """Called as often as the work likes; `total` is None while nobody knows it.

    `unit` is a plural: tensors, files, tokens. Counts of "bytes" are shown as people read them, in kB, MB and GB.
    """

    def __call__(self, label: str, done: int, total: int | None, unit: str) -> None: ...


def silent(label: str, done: int, total: int | None, unit: str) -> None:
    """The listener that does not care."""
