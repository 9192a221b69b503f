"""Rows of benchmarks/results: one measurement each, with all that is needed to read it later."""

import datetime
import json
import platform
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from soberano.backends.native import cpu_flags


@dataclass(frozen=True)
class Row:
    """Ours against a named peer, from one run. `ratio` above 1 is ours to the good."""

    commit: str
    date: str
    machine: str
    backend: str
    case: str
    ours: float
    peer: float | None
    peer_name: str | None
    unit: str
    ratio: float | None
    limit_share: float | None = None  # ours as a share of what the machine's memory or arithmetic allows


def machine() -> str:
    """A short name of this machine: processor features that decide speed, and cores."""
    features = [name for name in ("amx_int8", "avx512_vnni", "avx2") if name in cpu_flags()]
    return "-".join([platform.machine(), *(features[:1]), f"{_cores()}c"])


def _cores() -> int:
    from soberano.backends.native import threads

    return threads()


def commit() -> str:
    """The commit of this tree, with + when it has changes; unknown outside of one."""
    try:
        where = Path(__file__).parent
        head = subprocess.run(
            ["git", "rev-parse", "--short=10", "HEAD"], cwd=where, capture_output=True, text=True, timeout=10
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=where, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else "unknown"


def row(
    backend: str,
    case: str,
    ours: float,
    unit: str,
    peer: float | None = None,
    peer_name: str | None = None,
    *,
    smaller_is_better: bool = False,
    limit_share: float | None = None,
) -> Row:
    """Make a row of this moment, machine and commit."""
    ratio = None if peer is None else (peer / ours if smaller_is_better else ours / peer)
    today = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    rounded = [None if v is None else float(f"{v:.4g}") for v in (ours, peer, ratio, limit_share)]
    return Row(
        commit(),
        today,
        machine(),
        backend,
        case,
        rounded[0] or 0.0,
        rounded[1],
        peer_name,
        unit,
        rounded[2],
        rounded[3],
    )


def append(rows: list[Row], folder: Path) -> Path:
    """Add rows to the file of this machine in `folder`, and return its path."""
    path = folder / f"{machine()}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(asdict(r)) + "\n" for r in rows)
    return path
