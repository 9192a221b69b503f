"""The process: one line when ready, one clear line when it cannot be, and an orderly end."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

PROGRAM = """
import sys
from soberano.server.app import serve
from tests.server.fake import FakeModel
model = FakeModel(delay={delay})
status = serve(model, port={port}, grace_s=10)
print("closed" if model.pages == 4 else "leaked", flush=True)
sys.exit(status)
"""


LOADING = """
import itertools, sys, time
from soberano.server import app
def load(path, progress, **options):
    for done in itertools.count():
        progress("load", done, None, "B")
        time.sleep(0.01)
app.load = load
sys.exit(app.serve("endless.gguf", port=0, progress=lambda *told: print(*told, flush=True)))
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


def test_a_port_that_is_taken_is_one_clear_line():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with process(port) as server:
            out, errors = server.communicate(timeout=20)
    assert server.returncode == 1 and out == "closed\n"
    assert len(errors.splitlines()) == 1 and f"port {port}" in errors and "--port" in errors


def test_a_model_that_cannot_be_loaded_is_one_clear_line(capsys: pytest.CaptureFixture[str]):
    from soberano.server.app import serve

    assert serve("/no/such/model.gguf", port=0) == 1
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1 and "/no/such/model.gguf" in errors
