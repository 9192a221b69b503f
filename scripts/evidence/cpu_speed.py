"""Speed, memory and cold start on a CPU against llama.cpp: each line with its target, and whether it holds.

    scripts/peers/llama_cpp.sh FOLDER        once: builds the peers
    export PEER_PYTHON=FOLDER/llama-native/bin/python PEER_AVX512_PYTHON=FOLDER/llama-avx512/bin/python \
           PEER_AVX2_PYTHON=FOLDER/llama-avx2/bin/python PEER_BINARY=FOLDER/llama-native/bin/llama-completion
    make evidence TOPIC=cpu_speed                                everything: half an hour, on an idle machine
    scripts/evidence/cpu_speed.py depth cold-start               some of it
    RESULTS=benchmarks/results make evidence TOPIC=cpu_speed     also adds the rows

What needs a peer that is not named is skipped, and said. REPEAT is how many rounds count (default 3).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soberano.bench import synthetic
from soberano.core.settings import settings
from soberano.registry.store import resolve

Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A number that must not be smaller than a limit."""

    what: str
    value: float
    least: float
    unit: str = "x"

    def show(self) -> bool:
        holds = self.value >= self.least
        shown, least = (f"{v:.0%}" if self.unit == "%" else f"{v:.2f}x" for v in (self.value, self.least))
        print(f"  {self.what:58}{shown:>8}  (at least {least})  {'holds' if holds else 'MISS'}", flush=True)
        return holds


def environment(isa: str) -> dict[str, str]:
    return os.environ | ({"SOBERANO_ISA": isa} if isa else {})


def bench(model: Path, *flags: str, isa: str = "", peer: str = "PEER_PYTHON") -> list[Row]:
    """`soberano bench llm` beside the peer: its rows, without the model's name. None of them where no peer is named."""
    python = os.environ.get(peer)
    if not python:
        print(f"  skipped: {peer} names no Python with a llama_cpp; scripts/peers/llama_cpp.sh builds it")
        return []
    command = [sys.executable, "-m", "soberano", "bench", "llm", str(model), "--json", *flags]
    command += ["--against", "llama.cpp", "--peer-python", python, "--repeat", os.environ.get("REPEAT", "3")]
    if os.environ.get("RESULTS"):
        command += ["--results", os.environ["RESULTS"]]
    done = subprocess.run(command, env=environment(isa), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed with status {done.returncode}")
    found = json.loads(done.stdout)
    print(f"  {found['plan']}; {found['machine']}\n  {found['peer']['label']}: {found['peer']['system']}")
    for row in found["rows"]:
        share = "" if row["limit_share"] is None else f"  {row['limit_share']:.0%} of the machine's limit"
        row["case"] = row["case"].removeprefix(model.stem + " ")
        print(
            f"    {row['case']:44}{row['ours']:10,.4g} {row['unit']:6}{row['peer']:10,.4g}  {row['ratio']:.2f}x{share}"
            f"  {row['peer_name']}"
        )
    return found["rows"]


def case(rows: list[Row], name: str) -> Row:
    """The row of a case."""
    return next(row for row in rows if row["case"] == name)


def speed(model: Callable[[], Path], decode: float, prefill: float, *, isa: str = "", peer: str = "PEER_PYTHON") -> Any:
    """The targets of decode 128 and prefill 512."""

    def lines() -> list[Target]:
        rows = bench(model(), "--only", "speed", isa=isa, peer=peer)
        return rows and [
            Target("decode 128", case(rows, "decode 128")["ratio"], decode),
            Target("prefill 512", case(rows, "prefill 512")["ratio"], prefill),
        ]

    return lines


def smollm2() -> Path:
    return resolve("smollm2")


def made(name: str) -> Path:
    """A synthetic model, written once."""
    path = settings().cache_dir() / "bench" / f"synthetic-{name}.gguf"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        synthetic.write(synthetic.RECIPES[name], path)
    return path


def one_billion() -> list[Target]:
    rows = bench(made("llama-1b"), "--only", "speed")
    if not rows:
        return []
    decode = case(rows, "decode 128")
    return [
        Target("decode 128", decode["ratio"], 1.2),
        Target("decode 128: share of the memory's speed", decode["limit_share"], 0.8, "%"),
        Target("prefill 512", case(rows, "prefill 512")["ratio"], 2.0),
    ]


def depth() -> list[Target]:
    rows = bench(smollm2(), "--only", "speed", "--prompt-tokens", "512", "--depth", "3584")
    if not rows:
        return []
    deep, empty = case(rows, "decode 128 after 4096"), case(rows, "decode 128")
    return [
        Target("decode at context 4096, of that after 512", deep["ours"] / empty["ours"], 0.6, "%"),
        Target("decode at context 4096", deep["ratio"], 1.3),
    ]


def cold_start() -> list[Target]:
    binary = os.environ.get("PEER_BINARY")
    rows = bench(smollm2(), "--only", "cold-start", "--context", "4096", *(["--peer-binary", binary] if binary else []))
    return [Target(f"its time as a share of ours, {row['peer_name']}", row["ratio"], 1 / 3) for row in rows]


def memory() -> list[Target]:
    rows = bench(smollm2(), "--only", "memory", "--context", "4096")
    found = rows and [case(rows, "private memory, context 4096")]
    return [Target("its private memory as a share of ours", row["ratio"], 1 / 1.2) for row in found]


def busy() -> list[Target]:
    rows = bench(smollm2(), "--only", "speed", "--busy")
    found = rows and [case(rows, "decode 128, all cores busy: kept")]
    return [Target("what our decode keeps, against what its keeps", row["ratio"], 1.0) for row in found]


def passes(what: str, *command: str) -> Callable[[], list[Target]]:
    """A command that must succeed on every path: 1 where it does."""

    def lines() -> list[Target]:
        found = []
        for isa in ("amx", "avx512", "avx2", "portable"):
            done = subprocess.run([sys.executable, *command], env=environment(isa), stdout=subprocess.PIPE, text=True)
            if done.returncode:
                print(done.stdout)
            found.append(Target(f"{what}, {isa}", float(done.returncode == 0), 1.0))
        return found

    return lines


OPS = [f"tests/ops/test_{name}.py" for name in ("linear", "attention", "norm", "activation", "rope")]
LINES: dict[str, tuple[str, Callable[[], list[Target]]]] = {
    "amx": ("SmolLM2 Q4_1, llama.cpp with AMX", speed(smollm2, 1.6, 3.0)),
    "avx512": (
        "SmolLM2 Q4_1, no AMX on both sides",
        speed(smollm2, 1.6, 3.0, isa="avx512", peer="PEER_AVX512_PYTHON"),
    ),
    "avx2": ("SmolLM2 Q4_1, AVX2 on both sides", speed(smollm2, 1.0, 1.0, isa="avx2", peer="PEER_AVX2_PYTHON")),
    "gemma": ("Gemma's mix of Q4_K, Q5_0, Q6_K and Q8_0", speed(lambda: made("gemma-mix"), 1.2, 2.0)),
    "gemma3": ("Gemma 3 270M Q4_K_M, pulled with its terms", speed(lambda: resolve("gemma3-270m"), 1.2, 2.0)),
    "1b": ("the shape of Llama 3.2 1B in Q4_K_M", one_billion),
    "parity": ("the parity rule on every path", passes("parity", "scripts/evidence/parity.py")),
    "bits": ("a row alone as in a batch, on 1 thread as on 2", passes("tests", "-m", "pytest", "-q", *OPS)),
    "depth": ("context 4096", depth),
    "cold-start": ("cold start, the whole process, caches warm", cold_start),
    "memory": ("memory at equal context", memory),
    "busy": ("beside other processes on all cores", busy),
}


def main(asked: list[str]) -> int:
    unknown = [name for name in asked if name not in LINES]
    if unknown:
        print(f"no line is called {unknown[0]!r}; there are {', '.join(LINES)}")
        return 2
    good = True
    for name in asked or LINES:
        title, lines = LINES[name]
        print(f"{name}: {title}", flush=True)
        shown = [target.show() for target in lines()]
        good &= all(shown)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
