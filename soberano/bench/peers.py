"""Peers to measure against: each runs in a process of its own, in an environment that has it. Nothing is installed."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from soberano.core.errors import InputError, SoberanoError

SCRIPTS = {
    "llama.cpp": ("llama_cpp", "peer_llama_cpp.py", "llama-cpp-python"),
    "peft": ("peft, transformers, gguf", "peer_peft.py", "peft, transformers, gguf and torch"),
}
"""What a peer's script imports, the script, and what has to be installed for it."""

SETS = {"AMX": "AMX_INT8 = 1", "AVX512": "AVX512 = 1", "AVX2": "AVX2 = 1", "NEON": "NEON = 1"}
"""What llama.cpp's system info says of the instruction sets that decide speed, the best first."""


def command_of(name: str, python: str | None = None) -> list[str]:
    """The command that runs the script of a peer. Raises InputError for a peer that is unknown or not installed."""
    if name not in SCRIPTS:
        raise InputError(f"no peer is called {name!r}; known are {', '.join(SCRIPTS)}")
    module, script, package = SCRIPTS[name]
    python = python or sys.executable
    try:
        missing = subprocess.run([python, "-c", f"import {module}"], capture_output=True, timeout=120).returncode
    except OSError as error:
        raise InputError(f"--peer-python {python} cannot be run: {error.strerror}; name a Python") from None
    if missing:
        raise InputError(
            f"{python} cannot import {module}; install {package} there, or name another Python with --peer-python"
        )
    return [python, str(Path(__file__).parent / script)]


def instruction_set(system: str) -> str:
    """The best instruction set that a peer's system info names; empty where it names none.

    >>> instruction_set("CPU : AVX = 1 | AVX2 = 1 | F16C = 1 | FMA = 1 | REPACK = 1 | ")
    'AVX2'
    """
    return next((name for name, said in SETS.items() if re.search(rf"\b{said}\b", system)), "")


class Process:
    """A peer in a process of its own. `ask` sends a command and waits for the answer."""

    def __init__(self, name: str, python: str | None = None) -> None:
        self._process = subprocess.Popen(
            command_of(name, python),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.name = name

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send one command; the script says which there are. Raises SoberanoError when the peer has died."""
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps(command), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SoberanoError(
                f"{self.name} died at {command.get('do')} with status {self._process.wait()}; run it by hand to see why"
            )
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(timeout=30)
        if self._process.stdout:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Peer(Process):
    """A peer with a model open, to generate with.

    `flash` says in which of its two ways the peer attends at first; `mapped`, whether it maps the file or reads it;
    `exact`, whether its cache holds float32. `adapter` is a LoRA adapter beside the model.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        threads: int,
        context: int,
        python: str | None = None,
        *,
        flash: bool = True,
        mapped: bool = True,
        exact: bool = False,
        adapter: Path | None = None,
    ) -> None:
        super().__init__(name, python)
        how: dict[str, Any] = {"threads": threads, "context": context, "flash": flash, "mapped": mapped, "exact": exact}
        if adapter:
            how["adapter"] = str(adapter)
        self.info = self.ask(do="open", path=str(path), **how)

    @property
    def label(self) -> str:
        """The name, version and instruction set, as rows call it."""
        return " ".join(filter(None, [self.name, self.info["version"], instruction_set(self.info["system"])]))
