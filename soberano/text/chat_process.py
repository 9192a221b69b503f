"""Keep the process that renders chat templates: start it when needed, limit it, end it when it exceeds that."""

import json
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from soberano.core.errors import FileError, InputError, SoberanoError

_WORKER = Path(__file__).with_name("chat_worker.py")
_BLAME = "the template is hostile, or the conversation too large for it"
_START = 30.0  # seconds that an interpreter may need to come up on a busy machine


@dataclass(frozen=True)
class Limits:
    """What one rendering may use."""

    seconds: float = 2.0  # by the clock
    memory: int = 512 << 20  # bytes of address space of the whole worker
    output: int = 1 << 20  # characters, beyond four times the input


class Renderer:
    """One worker process: started by the first request, kept warm, ended by `close` or with this object.

    Threads may share it; they take turns. A worker that exceeds its limits is ended; the next request gets a new one.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._finalizer: Any = None

    def render(self, source: str, values: dict[str, Any]) -> str:
        """Render a template. `values` must be JSON.

        Raises InputError with the template's own words where it calls raise_exception, and for messages it cannot
        render or not within the limits; FileError for a template that is malformed or asks for what is forbidden.
        """
        try:
            body = json.dumps(values)
        except (TypeError, ValueError) as why:
            raise InputError(f"the values for the chat template are not JSON: {why}") from None
        most = self.limits.output + 4 * len(body)
        request = json.dumps({"source": source, "most": most}).encode()[:-1] + b', "values": ' + body.encode() + b"}\n"
        with self._lock:
            # JSON escapes a character to 12 bytes at most; the worker keeps to `most`, unless it is no longer ours.
            reply = _parsed(self._ask(request, 12 * most + 4096))
            if reply is None or reply.get("error") == "limit":
                self._stop()
        if reply is None:
            raise InputError(
                f"the chat template was stopped: it did not finish within {self.limits.seconds:g} s and "
                f"{self.limits.memory >> 20} MiB; {_BLAME}"
            )
        return _text_or_error(reply)

    def close(self) -> None:
        """End the worker. Closing twice is fine; a later request starts a new one."""
        with self._lock:
            self._stop()

    def _ask(self, request: bytes, most: int) -> bytes:
        """One exchange with a worker; with a new one where the old one died of something else before it had this."""
        try:
            return self._exchange(self._running(), request, self.limits.seconds, most)
        except OSError:
            self._stop()
        try:
            return self._exchange(self._running(), request, self.limits.seconds, most)
        except OSError:
            return b""

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        process = subprocess.Popen(
            [sys.executable, "-I", str(_WORKER), *_homes_of("jinja2", "markupsafe")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=sys.platform != "win32",  # Ctrl-C is for the parent
        )
        self._process = process
        self._finalizer = weakref.finalize(self, _end, process)
        first = json.dumps({"memory": self.limits.memory, "seconds": self.limits.seconds}).encode() + b"\n"
        try:
            ready = _parsed(self._exchange(process, first, _START, 4096))
        except OSError:
            ready = None
        if ready is None:
            self._stop()
            raise SoberanoError(
                f"the process that renders chat templates does not start (exit code {process.returncode}); "
                f"try `{sys.executable} -I {_WORKER}` to see why"
            )
        return process

    def _exchange(self, process: "subprocess.Popen[bytes]", line: bytes, seconds: float, most: int) -> bytes:
        """Write a line, read a line; empty when the worker died, or was ended because time was up.

        Raises OSError when it was dead before it had the whole line.
        """
        assert process.stdin is not None and process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            process.kill()

        clock = threading.Timer(seconds, end)
        clock.daemon = True
        clock.start()
        try:
            process.stdin.write(line)
            process.stdin.flush()
            return process.stdout.readline(most)
        except OSError:
            if not late.is_set():
                raise
            return b""
        finally:
            clock.cancel()
            clock.join()
            if late.is_set():  # perhaps only when the answer was in: the next request must not meet a dying worker
                self._stop()

    def _stop(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._process = self._finalizer = None


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        try:
            if pipe is not None:
                pipe.close()
        except OSError:  # what was still to be written has no reader
            pass
    process.wait()


def _homes_of(*packages: str) -> list[str]:
    """The folders that hold these packages, found without importing them."""
    specs = [find_spec(name) for name in packages]
    return list(dict.fromkeys(str(Path(spec.origin).parents[1]) for spec in specs if spec and spec.origin))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        reply = json.loads(line)
    except ValueError:
        return None
    return reply if isinstance(reply, dict) else None


def _text_or_error(reply: dict[str, Any]) -> str:
    text, error, message = (reply.get(key, "") for key in ("text", "error", "message"))
    if not error and isinstance(text, str):
        return text
    if error == "raised":
        raise InputError(str(message))
    if error == "refused":
        raise FileError(f"the chat template (tokenizer.chat_template) is not harmless: {message}")
    if error == "syntax":
        raise FileError(f"the chat template (tokenizer.chat_template) is malformed: {message}")
    if error == "limit":
        raise InputError(f"the chat template was stopped: {message}; {_BLAME}")
    raise InputError(f"the chat template cannot render these messages: {message}")
