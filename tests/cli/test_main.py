"""Every wrong command line gets one clear line and a status; every command is a file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.cli import main as module
from soberano.core.errors import CapacityError, FileError

PACKAGE = Path(module.__file__).parent


def test_every_file_is_a_command_and_every_command_keeps_the_contract():
    files = {p.stem for p in PACKAGE.glob("*.py") if not p.stem.startswith("_")} - {"main"}
    assert set(module.names()) == files >= {"serve", "chat", "run", "pull", "inspect", "doctor", "verify", "bench"}
    for name in module.names():
        command = module.command(name)
        assert command.HELP.strip(".") == command.HELP and len(command.HELP) < 100
        assert callable(command.run) and callable(command.add_arguments)


def test_help_answers_without_heavy_modules():
    code = "import sys; from soberano.cli.main import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert all(name in done.stdout for name in module.names())
    assert not {"jax", "numpy", "aiohttp", "rich", "tokenizers"} & set(done.stderr.split())


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "which command? there are bench"),
        (["ru"], "did you mean run?"),
        (["zzz"], "there are bench, chat"),
        (["run"], "MODEL, PROMPT"),
        (["run", "m", "p", "--nonsense"], "--nonsense"),
        (["run", "m", "p", "--temp", "1"], "--temp"),
        (["run", "m", "p", "--max-token", "5"], "did you mean --max-tokens? see `soberano run --help`"),
        (["bench", "llm", "m", "--repaet", "5"], "did you mean --repeat? see `soberano bench llm --help`"),
        (["run", "m", "capital", "of", "France"], "of France; quote a text of several words"),
        (["pull", "meta-llama/Llama-3.2-1B"], "models of Hugging Face come not by name"),
        (["run", "m", "p", "-n", "few"], "'few'"),
        (["--nonsense"], "'--nonsense'"),
        (["serve"], "which model?"),
        (["run", "nowhere.gguf", "p"], "no file at nowhere.gguf"),
        (["run", "nobody", "p"], "no model is called 'nobody'"),
        (["inspect", "."], "is a folder"),
        (["inspect", "a\x1b[2J\u202eb.gguf"], "a\ufffd[2J\ufffdb"),
        (["run", "m", "p", "--nonsense"], "see `soberano run --help`"),
        (["bench", "llm", "m", "--nonsense"], "see `soberano bench llm --help`"),
        (["run", "/dev/null", "p"], "is a device or a pipe"),
        (["run", "m", "p", "\x1b[2J"], "unrecognised arguments: \ufffd[2J"),
        (["run", "m", "\udcff"], "prompt is not utf-8 text"),
        (["verify", "m", "--tokens", "0"], "'0' is no whole number from 1"),
        (["bench", "llm", "m", "--repeat", "0"], "--repeat"),
        (["bench", "llm", "m", "--new-tokens", "-1"], "--new-tokens"),
        (["bench", "llm", "m", "--prompt-tokens", "9" * 5000], "--prompt-tokens"),
        (["pull", "http://h/x.gguf"], "starts with http:"),
    ],
)
def test_a_wrong_command_line_is_one_line(soberano, cache, argv: list[str], says: str):
    answer = soberano(*argv)
    assert answer.status == 2 and answer.out == ""
    assert answer.err.startswith("soberano: ") and answer.err.count("\n") == 1
    assert says in answer.err


@given(st.lists(st.text(max_size=10), min_size=1, max_size=4))
def test_no_command_line_raises(argv: list[str]):
    if argv[0] not in module.names():
        assert module.main(argv) in (0, 2)


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (FileError("bad\nfile"), 2, "soberano: bad file"),
        (CapacityError("full"), 2, "soberano: full"),
        (PermissionError(13, "Permission denied", "/x"), 2, "soberano: /x: Permission denied; check"),
        (MemoryError(), 2, "not enough memory"),
        (KeyboardInterrupt(), 130, ""),
        (FileError("a \x1b]0;title\x07"), 2, "soberano: a \ufffd]0;title\ufffd"),
        (
            RuntimeError("RESOURCE\nEXHAUSTED"),
            70,
            "soberano: internal error: RuntimeError: RESOURCE EXHAUSTED; run with",
        ),
    ],
)
def test_every_failure_has_its_status(soberano, monkeypatch, error: BaseException, status: int, says: str):
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr("soberano.cli.pull.run", fail)
    answer = soberano("pull", "x")
    assert answer.status == status and says in answer.err and answer.err.count("\n") == 1


def test_the_traceback_of_an_internal_error_is_for_those_who_ask(soberano, setenv, monkeypatch):
    def fail(args: object) -> int:
        raise ZeroDivisionError("oops \x1b[2J")

    monkeypatch.setattr("soberano.cli.pull.run", fail)
    setenv(SOBERANO_DEBUG="1")
    answer = soberano("pull", "x")
    assert answer.status == 70 and "Traceback" in answer.err and "in fail" in answer.err and "\x1b" not in answer.err
    assert answer.err.splitlines()[-1].startswith("soberano: internal error: ZeroDivisionError: oops")
    setenv(SOBERANO_DEBUG="maybe")
    assert "Traceback" not in soberano("pull", "x").err, "a setting that is wrong does not hide the error"


def test_a_reader_that_leaves_is_no_error():
    code = "import sys; from soberano.cli.main import main; sys.exit(main(['pull', '--json']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as done:
        done.stdout.close()
        assert done.wait(timeout=60) == module.BROKEN_PIPE
        assert done.stderr.read() == b""


def test_version(soberano):
    from soberano import __version__

    assert soberano("--version").out == f"soberano {__version__}\n"


def test_python_dash_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "soberano", "pull", "--json"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and json.loads(done.stdout)[0]["name"] == "smollm2"
