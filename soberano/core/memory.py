"""How much memory this process can still take: what the machine has free, and what its container leaves it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

UNKNOWN = 1 << 62
"""Said where the system says nothing."""


def free_memory(root: Path = Path("/")) -> int:
    """Bytes that can still be taken, as far as the system says; a large number where it does not.

    `root` is where the system's own files are found, for tests.
    """
    return min([_of_machine(root), *_of_groups(root)])


def peak_memory() -> int | None:
    """The most bytes that this process has held so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows has no such module
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _of_machine(root: Path) -> int:
    try:
        return _table(root / "proc/meminfo")["MemAvailable:"] * 1024
    except (OSError, KeyError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    except (AttributeError, ValueError, OSError):
        return UNKNOWN


def _of_groups(root: Path) -> Iterator[int]:
    """What each limit of a control group that this process is in leaves, version 2 and version 1.

    A limit holds for all groups below it. A container may not see the path that the system tells it, as what it sees
    begins at its own group: so every folder on the way is asked, the first included, and those that are not there are
    left out. Pages of files are not counted as taken, since the system gives them up when it has to.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, limit, used = root / "sys/fs/cgroup", "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            top, limit, used = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        inside = Path(path.lstrip("/"))
        for folder in (inside, *inside.parents):
            try:
                most, taken = int((top / folder / limit).read_text()), int((top / folder / used).read_text())
                pages = _table(top / folder / "memory.stat")
            except (OSError, ValueError):  # not there, or "max"
                continue
            prefix = "total_" if controllers else ""  # of version 1: with the groups below
            files = sum(pages.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
            yield max(0, most - max(0, taken - files))


def _table(path: Path) -> dict[str, int]:
    """The first number of each line, by its first word."""
    return {words[0]: int(words[1]) for words in map(str.split, path.read_text().splitlines()) if len(words) > 1}
