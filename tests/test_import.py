"""`import soberano` is free: it loads nothing heavy, prints nothing, opens nothing. Its public names are agreed on."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import soberano

GOLDEN = Path(__file__).parent / "golden" / "api.txt"

PROBE = """
import sys, time
opened = []
watched = ("open", "socket.connect", "subprocess.Popen")
sys.addaudithook(lambda event, args: opened.append((event, args)) if event in watched else None)
started = time.perf_counter()
import soberano
took = time.perf_counter() - started
import json
from pathlib import Path
inside = (str(Path(soberano.__file__).parent), sys.base_prefix, sys.prefix)
def outside(event, args):
    return event != "open" or not (str(args[0]).startswith(inside) or str(args[0]).isdecimal())
print(json.dumps({
    "modules": sorted({m.partition(".")[0] for m in sys.modules}),
    "ours": sorted(m for m in sys.modules if m.startswith("soberano")),
    "outside": [f"{e} {a[0]}" for e, a in opened if outside(e, a)],
    "seconds": took,
}))
"""


def probe() -> dict:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1, "import soberano printed something"
    return json.loads(lines[0])


def test_import_is_free_of_effects():
    seen = probe()
    heavy = {"numpy", "jax", "jaxlib", "cupy", "aiohttp", "tokenizers", "jinja2", "rich", "asyncio", "ctypes"}
    assert not heavy & set(seen["modules"])
    assert seen["ours"] == ["soberano"]
    assert seen["outside"] == []
    assert seen["seconds"] < 0.1 * 10  # 0.1 s is the promise; ten times that on a machine that is busy testing


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(AttributeError, match="load"):
        _ = soberano.nothing_of_that_name
    assert "Model" in dir(soberano)


def signature(name: str) -> str:
    value = getattr(soberano, name)
    if inspect.ismodule(value):
        return f"{name}: module"
    if not callable(value):
        return f"{name}: {type(value).__name__}"
    lines = [f"{name}{inspect.signature(value)}"]
    if inspect.isclass(value):
        for member, what in sorted(vars(value).items()):
            if not member.startswith("_"):
                shape = str(inspect.signature(what)) if inspect.isfunction(what) else ""
                lines.append(f"    .{member}{shape}")
    text = "\n".join(lines).replace("pathlib._local.", "pathlib.")  # where Python 3.13 has Path
    return re.sub(r"<function (\w+) at 0x\w+>", r"\1", text)


def test_public_api_is_the_agreed_one():
    """A change of the public names is a decision: write it down with `python -m tests.test_import`."""
    found = "\n".join(map(signature, soberano.__all__)) + "\n"
    assert found == GOLDEN.read_text(), (
        "the public names changed; if that is meant: python -m tests.test_import, make docs"
    )


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text("\n".join(map(signature, soberano.__all__)) + "\n")
