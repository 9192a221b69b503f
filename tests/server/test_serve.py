"""The process: one line when ready, one clear line when it cannot be, and an orderly end."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from soberano.cli.main import main
from soberano.core.errors import InputError
from soberano.core.progress import silent
from soberano.server.app import serve
from soberano.server.engine import Engine
from soberano.server.warm import warm_up
from tests.server.fake import FakeModel
from tests.tiny import write_tiny_llama

PROGRAM = """
from soberano.server.app import serve
from tests.server.fake import FakeModel
model = FakeModel(delay={delay})
serve(model, port={port}, grace_s=10)
print("closed" if model.pages == 4 else "leaked", flush=True)
"""


LOADING = """
import itertools, sys, time
from soberano.server import app
def load(path, progress, **options):
    for done in itertools.count():
        progress("load", done, None, "B")
        time.sleep(0.01)
app.load = load
app.serve("endless.gguf", port=0, progress=lambda *told: print(*told, flush=True))
"""


@contextmanager
def process(port: int = 0, delay: float = 0.0, program: str = PROGRAM) -> Iterator[subprocess.Popen]:
    with subprocess.Popen(
        [sys.executable, "-c", program.format(port=port, delay=delay)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            yield started
        finally:
            started.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")
def test_a_signal_lets_the_answer_that_runs_come_to_its_end():
    with process(delay=0.02) as server:
        line = server.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address and "fake" in line, server.stderr.read()
        body = b'{"prompt": "hi", "stream": true, "max_tokens": 10}'
        asked = urllib.request.Request(f"{address[0]}/v1/completions", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(asked, timeout=20) as reply:
            reply.readline()
            server.send_signal(signal.SIGTERM)
            assert reply.read().endswith(b"data: [DONE]\n\n")
        out, errors = server.communicate(timeout=20)
        assert (server.returncode, out, errors) == (0, "closed\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_a_signal_while_the_model_loads_ends_the_load():
    with process(program=LOADING) as server:
        assert server.stdout.readline().startswith("load"), server.stderr.read()
        server.send_signal(signal.SIGINT)
        _, errors = server.communicate(timeout=20)
    assert (server.returncode, errors) == (0, "")


SLOW = """
import time
from soberano.server import app
from tests.server.fake import FakeModel
class Slow(FakeModel):
    def start(self, prompt, options):
        made = super().start(prompt, options)
        made.step = lambda: time.sleep(0.05) or []
        return made
app.serve(Slow(), port=0, progress=lambda *told: print(*told, flush=True))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_a_signal_while_the_model_warms_up_ends_that():
    with process(program=SLOW) as server:
        assert server.stdout.readline().startswith("warm up"), server.stderr.read()
        server.send_signal(signal.SIGINT)
        out, errors = server.communicate(timeout=20)
    assert (server.returncode, errors) == (0, "") and "Serving" not in out


def test_the_model_is_warm_before_the_display_ends_and_the_address_comes(capsys: pytest.CaptureFixture[str]):
    model, told = FakeModel(), []

    class Ready(Exception):
        pass

    def ready() -> None:
        told.append(
            [(len(p), g.options.temperature, g.closed) for p, g in zip(model.prompts, model.generations, strict=False)]
        )
        raise Ready

    with pytest.raises(Ready):
        serve(model, port=0, on_ready=ready)
    assert told[0][:2] == [(80, 0.8, True), (1, 0.0, True)] and model.pages == 4  # more may follow at once
    assert capsys.readouterr().out == "", "the address comes last"


def test_a_template_that_fails_keeps_no_model_from_being_served():
    model, asked = FakeModel(), []

    def fail(messages: list[dict]) -> list[int]:
        asked.append(messages)
        raise InputError("this template is broken")

    model.chat_tokens = fail
    warm_up(model, silent)
    assert len(asked) == 1 and model.pages == 4


def test_a_context_of_few_tokens_is_warmed_up_too():
    model = FakeModel(context=3)
    warm_up(model, silent)
    assert [len(prompt) for prompt in model.prompts] == [1, 1]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no terminals of this kind")
def test_on_a_terminal_the_address_is_the_last_that_is_drawn_until_stopped(tmp_path: Path):
    """A real terminal for both outputs: bars may come before the address, nothing after it, and the cursor shows."""
    import pty

    write_tiny_llama(tmp_path / "tiny.gguf")
    command = [sys.executable, "-m", "soberano", "serve", str(tmp_path / "tiny.gguf"), "--port", "0"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=theirs) as server:
        os.close(theirs)
        try:
            seen, deadline = _drawn(ours, b"Ctrl-C stops.", 60.0)
            assert deadline, seen
            later, _ = _drawn(ours, b"never", 0.7)
            server.send_signal(signal.SIGINT)
            last, _ = _drawn(ours, b"stopped", 20.0)
        finally:
            server.kill()
            os.close(ours)
    assert seen.rfind(b"\x1b[?25h") >= seen.rfind(b"\x1b[?25l"), "the cursor is shown again"
    assert later.strip() == b"" and last.split() == [b"stopped"]


def _drawn(terminal: int, until: bytes, seconds: float) -> tuple[bytes, bool]:
    """What a terminal shows until these bytes have come, and whether they have."""
    import select

    seen, end = b"", time.monotonic() + seconds
    while until not in seen and (left := end - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            try:
                seen += os.read(terminal, 65536)
            except OSError:  # the other side has ended
                break
    return seen, until in seen


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that `soberano serve ARGUMENTS` ends with, and status 2, as every refused command does."""
    assert main(["serve", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("soberano: ") and said.err.count("\n") == 1
    return said.err


def test_a_port_that_is_taken_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write_tiny_llama(tmp_path / "tiny.gguf")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused(capsys, str(tmp_path / "tiny.gguf"), "--port", str(port))
    assert f"cannot listen on 127.0.0.1 port {port}: the address is already in use; choose another with --port" in said
    assert "make demo PORT=" in said and said.count("127.0.0.1") == 1 and "(" not in said


@pytest.mark.parametrize("host", ["..", "x" * 70 + ".example", "256.0.0.1.2"])
def test_a_host_that_is_none_is_one_clear_line(host: str):
    with pytest.raises(InputError, match="cannot listen on"):
        serve(FakeModel(), host, 0)


def test_a_model_that_cannot_be_loaded_is_the_line_that_run_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"GGUF" + b"\xff" * 100)
    said = refused(capsys, str(junk), "--port", "0")
    assert main(["run", str(junk), "hi"]) == 2
    assert capsys.readouterr().err == said


def test_an_error_from_a_file_cannot_drive_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = (tmp_path / "tiny.gguf", tmp_path / "evil.gguf")
    write_tiny_llama(file[0])
    file[1].write_bytes(file[0].read_bytes().replace(b"output_norm.weight", b"output_\x1b[2Jm.weight"))
    assert "\x1b" not in refused(capsys, str(file[1]), "--port", "0")


def test_a_name_from_a_file_cannot_drive_the_terminal():
    with process(program=PROGRAM.replace("serve(", "model.name = 'x\\x1b[2J'; serve(")) as server:
        line = server.stdout.readline()
        server.terminate()
    assert "Serving x\ufffd[2J at http" in line and "\x1b" not in line


@pytest.mark.parametrize(
    ("arguments", "name"),
    [(["stored"], "stored"), (["{path}"], "a file"), (["{path}", "--name", "mine"], "mine"), (["--demo"], "smollm2")],
)
def test_clients_know_the_model_as_what_was_typed(
    arguments: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "a file.gguf"
    write_tiny_llama(path)
    monkeypatch.setattr("soberano.registry.store.resolve", lambda model: path)
    monkeypatch.setattr("soberano.server.app.load", lambda path, **options: FakeModel())

    async def at_once(engine: Engine, *_: object) -> None:
        engine.start()
        engine.loaded.result(10)
        print("known as", engine.name)

    monkeypatch.setattr("soberano.server.app._until_told", at_once)
    assert main(["serve", *(one.format(path=path) for one in arguments), "--port", "0"]) == 0
    said = capsys.readouterr()
    assert said.out == f"known as {name}\n" and said.err == "stopped\n"
