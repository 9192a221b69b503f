"""Peers to measure against: each runs in a process of its own, in an environment that has it. Nothing is installed."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from soberano.core.errors import InputError, SoberanoError

SCRIPTS = {"llama.cpp": ("llama_cpp", "peer_llama_cpp.py", "llama-cpp-python")}


class Peer:
    """A peer with a model open. `ask` sends a command and waits for the answer."""

    def __init__(self, name: str, path: Path, threads: int, context: int, python: str | None = None) -> None:
        if name not in SCRIPTS:
            raise InputError(f"no peer is called {name!r}; known are {', '.join(SCRIPTS)}")
        module, script, package = SCRIPTS[name]
        python = python or sys.executable
        found = subprocess.run([python, "-c", f"import {module}"], capture_output=True, timeout=120)
        if found.returncode:
            raise InputError(
                f"{python} cannot import {module}; install {package} there, or name another Python with --peer-python"
            )
        command = [python, str(Path(__file__).with_name(script))]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.name = name
        self.info = self.ask(do="open", path=str(path), threads=threads, context=context)

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

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
