"""How long a whole process takes from its start to the first token: ours, and a peer's from Python and as a program."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from soberano.bench.peers import command_of, instruction_set
from soberano.core.errors import InputError, SoberanoError
from soberano.core.progress import Progress, silent
from soberano.core.settings import child_environment

PROMPT = "Once upon a time"


def measure(commands: dict[str, list[list[str]]], *, repeat: int, progress: Progress = silent) -> dict[str, float]:
    """Start commands in turns, by name; the median seconds of each to the first byte that it prints.

    Of several commands under one name, settings of a peer, the best one counts. One start of each comes before,
    uncounted: files are in memory then, and caches warm.
    """
    times: dict[tuple[str, int], list[float]] = {}
    for i in range(repeat + 1):
        for name, ways in commands.items():
            for way, command in enumerate(ways):
                seconds = first_byte_s(command)
                if i:
                    times.setdefault((name, way), []).append(seconds)
        progress("cold start", i, repeat, "rounds")
    return {
        name: min(statistics.median(times[name, way]) for way in range(len(ways))) for name, ways in commands.items()
    }


def first_byte_s(command: list[str]) -> float:
    """Seconds from the start of a command to the first byte on its standard output.

    Python may keep the bytecode of what it imports, as where a package is installed: in a shell that forbids it every
    start would compile our sources again. Raises SoberanoError when it fails or prints nothing.
    """
    env = child_environment(PYTHONDONTWRITEBYTECODE="")
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        started = time.perf_counter()
        with subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as process:
            assert process.stdout
            first = os.read(process.stdout.fileno(), 1)
            seconds = time.perf_counter() - started
            process.stdout.read()
        if process.returncode or not first:
            errors.seek(0)
            said = errors.read().strip().splitlines() or ["no message"]
            raise SoberanoError(f"{command[0]} ended with status {process.returncode} and no token: {said[-1]}")
    return seconds


def ours(path: Path, backend: str | None, context: int) -> list[list[str]]:
    """`soberano run` of one token."""
    command = [sys.executable, "-m", "soberano", "run", str(path), PROMPT, "-n", "1", "--temperature", "0"]
    return [[*command, "--context", str(context), *(["--backend", backend] if backend else [])]]


def from_python(name: str, path: Path, threads: int, context: int, python: str | None) -> list[list[str]]:
    """The peer's library doing the same in a fresh Python, with and without flash attention."""
    command = [*command_of(name, python), "first", str(path), PROMPT, str(threads), str(context)]
    return [[*command, flash] for flash in ("flash", "plain")]


def program(binary: str, path: Path, threads: int, context: int) -> list[list[str]]:
    """llama-completion, or another of llama.cpp's programs that takes its options, doing the same."""
    if not Path(binary).is_file():
        raise InputError(f"--peer-binary {binary} is no file; name a llama-completion, as scripts/peers builds it")
    command = [binary, "-m", str(path), "-p", PROMPT, "-n", "1", "-t", str(threads), "-c", str(context), "--temp", "0"]
    command += ["--no-display-prompt", "-no-cnv", "--no-warmup", "--simple-io"]
    return [[*command, "-fa", flash] for flash in ("on", "off")]


def program_set(command: list[str]) -> str:
    """The instruction set that a program of llama.cpp says it has; it is run once for that."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    return instruction_set(done.stdout + done.stderr)
