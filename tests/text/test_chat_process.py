"""Templates are programs by strangers: hostile ones are refused or stopped, in time and memory, and harm nothing."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import soberano.text
from soberano.core.errors import FileError, InputError, SoberanoError
from soberano.text.chat_process import Limits, Renderer

WORKER = Path(soberano.text.__file__).with_name("chat_worker.py")
VALUES = {"messages": [{"role": "user", "content": "Hi"}]}
SMALL = Limits(seconds=0.5, memory=192 << 20, output=100_000)
LINUX = sys.platform == "linux"


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    renderer = Renderer(SMALL)
    yield renderer
    renderer.close()


REFUSED = {
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "attr filter": "{{ ''|attr('__cl'~'ass__') }}",
    "attr filter, folded": "{{ ''|attr('_'~'_class_'~'_') }}",
    "item, folded": "{% set a = '_' %}{{ ''[a ~ '_class_' ~ a].mro() }}",
    "format": "{{ '{0.__class__.__mro__}'.format(1).x.y }}{{ self }}",
    "include": "{% include 'x' %}",
    "import": "{% import 'os' as os %}",
    "from import": "{% from 'os' import path %}",
    "extends": "{% extends 'x' %}",
    "self": "{{ self }}",
    "namespace": "{{ namespace.__init__ }}",
    "changing what it gets": "{{ messages.append(1) }}",
    "globals of ours": "{{ raise_exception.__globals__ }}",
    "frames": "{% macro f() %}{{ caller.__code__ }}{% endmacro %}{{ f() }}",
    "syntax": "{% if %}",
    "unfinished": "{% for a in messages %}",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_template_needs_is_refused(renderer: Renderer, case: str):
    with pytest.raises(FileError, match="chat template"):
        renderer.render(REFUSED[case], VALUES)


BOUNDED = {
    "long range": "{% for a in range(10**9) %}x{% endfor %}",
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "long string": "{{ 'a' * 10**9 }}",
    "long list": "{{ [1] * 10**9 }}",
    "center": "{{ 'x' | center(10**9) }}",
    "percent": "{{ '%1000000000d' | format(1) }}",
    "format": "{{ '{:>1000000000}'.format(1) }}",
    "doubling": "{% set ns = namespace(x='a') %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "replace": "{{ ('a' * 100000) | replace('a', 'b' * 100000) | length }}",
    "power": "{{ (9 ** (9 ** 9)) % 7 }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "nesting": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "output": "{% for a in range(99999) %}aaaaaaaaaaaaaaaa{% endfor %}",
    "dates": "{{ strftime_now('%Y' * 10**6) }}",
}


@pytest.mark.skipif(not LINUX, reason="memory limits are enforced on Linux")
@pytest.mark.parametrize("case", BOUNDED)
def test_what_takes_too_much_is_stopped(renderer: Renderer, case: str):
    began = time.monotonic()
    with pytest.raises(InputError, match="stopped"):
        renderer.render(BOUNDED[case], VALUES)
    assert time.monotonic() - began < 3
    assert renderer.render("{{ messages[0].content }}", VALUES) == "Hi"  # the next one is served


def test_the_walls_hold_without_the_sandbox():
    """Whatever escapes from jinja2 finds no file, no socket, no process and no memory: tried from inside the worker."""
    tries = """
import importlib.util, json, os, sys
import socket, subprocess, ctypes
spec = importlib.util.spec_from_file_location("worker", sys.argv[1])
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
worker.Limits(256 << 20, 2.0)
results = {}
def attempt(name, act):
    try:
        act()
        results[name] = "done"
    except BaseException as why:
        results[name] = type(why).__name__
def all_of_them():
    attempt("read", lambda: open("/etc/passwd").read())
    attempt("write", lambda: os.open("/tmp/x", os.O_CREAT | os.O_WRONLY))
    attempt("socket", lambda: socket.socket())
    attempt("pipe", lambda: os.pipe())
    attempt("memory", lambda: bytearray(1 << 30))
all_of_them()
without_hook, results = results, {}
sys.addaudithook(worker.refuse_events)
all_of_them()
attempt("system", lambda: os.system("true"))
attempt("process", lambda: subprocess.Popen(["true"]))
attempt("library", lambda: ctypes.CDLL(None))
attempt("import", lambda: __import__("wave"))
attempt("more files", lambda: worker.resource.setrlimit(worker.resource.RLIMIT_NOFILE, (99, 99)))
print(json.dumps([without_hook, results]))
"""
    if not LINUX:
        pytest.skip("the limits of the system are tested on Linux")
    done = subprocess.run([sys.executable, "-I", "-c", tries, str(WORKER)], capture_output=True, text=True, check=True)
    limits, hook = json.loads(done.stdout)
    assert limits == {
        "read": "OSError",
        "write": "OSError",
        "socket": "OSError",
        "pipe": "OSError",
        "memory": "MemoryError",
    }
    assert hook.pop("memory") == "MemoryError"
    assert hook.pop("pipe") == "OSError"
    assert set(hook.values()) == {"Refused"}, hook


def test_a_template_speaks_for_itself(renderer: Renderer):
    with pytest.raises(InputError, match=r"^Only user and assistant, please$"):
        renderer.render("{{ raise_exception('Only user and ' + 'assistant, please') }}", VALUES)
    with pytest.raises(InputError, match=r"cannot render these messages: UndefinedError.*'tool'"):
        renderer.render("{{ tool.name }}", VALUES)
    with pytest.raises(InputError, match="not JSON"):
        renderer.render("", {"messages": {1, 2}})


def test_a_worker_that_dies_is_replaced(renderer: Renderer):
    assert renderer.render("{{ 1 }}", {}) == "1"
    assert renderer._process is not None
    first = renderer._process
    first.kill()
    first.wait()
    assert renderer.render("{{ 2 }}", {}) == "2"
    assert renderer._process is not first


def test_a_worker_whose_death_nobody_has_seen_is_replaced(renderer: Renderer, monkeypatch: pytest.MonkeyPatch):
    renderer.render("", {})
    first = renderer._process
    assert first is not None
    first.kill()
    first.wait()
    monkeypatch.setattr(first, "poll", lambda: None)  # as in the moment before the system has ended it
    assert renderer.render("{{ messages[0].content }}", VALUES) == "Hi"
    assert renderer._process is not first


def test_a_clock_that_rings_when_the_answer_is_in_harms_nobody(renderer: Renderer, monkeypatch: pytest.MonkeyPatch):
    renderer.render("", {})

    class Late(threading.Timer):
        def cancel(self) -> None:
            self.function()
            super().cancel()

    with monkeypatch.context() as patch:
        patch.setattr(threading, "Timer", Late)
        assert renderer.render("{{ 1 }}", {}) == "1"
    assert renderer._process is None, "it was ended, so it is not kept"
    assert renderer.render("{{ 2 }}", {}) == "2"


def test_a_worker_that_never_starts_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "worker.py").write_text("")
    monkeypatch.setattr("soberano.text.chat_process._WORKER", tmp_path / "worker.py")
    with pytest.raises(SoberanoError, match=r"does not start \(exit code 0\); try"):
        Renderer(SMALL).render("", {})


def test_a_worker_is_kept_and_goes_with_its_owner():
    renderer = Renderer(SMALL)
    assert renderer._process is None  # nothing is started before it is needed
    renderer.render("a", {})
    process = renderer._process
    renderer.render("b", {})
    assert process is not None
    assert renderer._process is process
    del renderer
    assert process.wait(10) is not None


def test_closing_is_no_end():
    renderer = Renderer(SMALL)
    renderer.close()
    assert renderer.render("a", {}) == "a"
    renderer.close()
    renderer.close()
    assert renderer.render("b", {}) == "b"
    renderer.close()


def test_threads_take_turns(renderer: Renderer):
    answers: dict[int, str] = {}

    def work(i: int) -> None:
        for _ in range(20):
            answers[i] = renderer.render("{{ n }}" * (i + 1), {"n": i})

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: str(i) * (i + 1) for i in range(4)}


def test_texts_of_any_kind_pass_through(renderer: Renderer):
    text = "ünï 你好 😀 \x00\x1b\u2028 <b> & \" ' \\ \ufdd0 \ud800"
    assert renderer.render("{{ t }}", {"t": text}) == text


ALONE = """
import sys; sys.path.insert(0, sys.argv[1])
from soberano.text.chat_process import Renderer
print(Renderer().render("{{ x | tojson }}", {"x": "<ok>"}))
"""


@pytest.mark.parametrize("prefix", ["", "unshare"], ids=["plain", "no network"])
def test_it_needs_no_home_and_no_network(prefix: str, tmp_path: Path):
    before = [found, "--user", "--net"] if prefix and (found := shutil.which(prefix)) else []
    if prefix and (not before or subprocess.run([*before, "true"], capture_output=True, check=False).returncode):
        pytest.skip("this machine does not allow an empty network namespace")
    root = str(WORKER.parents[2])
    done = subprocess.run(
        [*before, sys.executable, "-c", ALONE, root],
        env={"HOME": "/proc/nowhere", "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == '"<ok>"\n', done.stderr
