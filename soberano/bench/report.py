"""What `soberano bench llm` found: rows for benchmarks/results, numbers by name for programs, a table for a person."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from soberano.bench.rows import Row
from soberano.core.units import bytes_text


@dataclass
class LlmResult:
    """What was found: rows as they go into benchmarks/results, and the numbers that programs ask for by name.

    Speeds are medians over the runs, from an empty context; None where speed was not measured.
    """

    model: str
    plan: str
    prompt_tokens: int
    new_tokens: int
    repeat: int
    context: int
    prefill_tps: float | None = None
    decode_tps: float | None = None
    load_s: float | None = None
    first_token_s: float | None = None
    peak_rss_bytes: int | None = None  # of this process; None also where the system does not say
    machine: str = ""
    peer: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The numbers by name."""
        return asdict(self)

    def to_text(self) -> str:
        """A table for a person."""
        lines = [f"{self.model}: {self.plan}, context {self.context}", *filter(None, [self.machine])]
        stem = Path(self.model).stem + " "
        lines.append(f"{'':36}{'soberano':>16}{'peer':>16}{'ratio':>9}")
        for r in self.rows:
            line = f"{r.case.removeprefix(stem):36}{_value(r.ours, r.unit):>16}"
            line += f"{_value(r.peer, r.unit):>16}" if r.peer is not None else f"{'':16}"
            line += f"{r.ratio:8.2f}x" if r.ratio is not None else f"{'':9}"
            line += f"  {r.limit_share:.0%} of the machine's limit" if r.limit_share is not None else ""
            lines.append(line + (f"  {r.peer_name}" if r.peer_name else ""))
        if self.load_s is not None and self.first_token_s is not None:
            theirs = f"{self.peer['load_s']:14.2f} s" if self.peer else ""
            lines.append(f"{'load':36}{self.load_s:14.2f} s{theirs}")
            lines.append(f"{'first token after load':36}{self.first_token_s:14.2f} s")
            peak = "unknown" if self.peak_rss_bytes is None else bytes_text(self.peak_rss_bytes)
            lines.append(f"{'peak memory of this process':36}{peak:>16}")
        if self.peer:
            lines.append(f"{self.peer['name']} {self.peer['version']}: {self.peer['system']}")
        return "\n".join(lines)


def _value(number: float | None, unit: str) -> str:
    return f"{number:,.{0 if number >= 1000 else 1 if number >= 10 else 2}f} {unit}" if number is not None else ""
