"""`soberano doctor`: what this machine has, what was chosen and why, and what would help."""

import argparse
import contextlib
import functools
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import TYPE_CHECKING, Any, Literal

from soberano.core.errors import InputError, SoberanoError
from soberano.core.settings import child_environment, settings, variables
from soberano.core.units import bytes_text

if TYPE_CHECKING:
    from soberano.core.progress import Progress

HELP = "show what this machine has, what was chosen and why, and what would help"

State = Literal["ok", "lost", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `lost` still works, with less; `broken` does not. Both say what would help."""

    name: str
    state: State
    value: str
    hint: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="also run this model for a moment, and say what declined"
    )
    parser.add_argument("--backend", metavar="NAME", help="look at this backend instead of SOBERANO_BACKEND")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(args: argparse.Namespace) -> int:
    from soberano.cli._terminal import progress
    from soberano.core.printable import printable

    with progress() as show:
        findings = _settings()
        if findings[0].state == "ok":
            findings += look(args.backend, args.model, show)
    broken = any(f.state == "broken" for f in findings)
    if args.json:
        print(json.dumps({"ok": not broken, "findings": [asdict(f) for f in findings]}, indent=1))
    else:
        print(printable(report(findings)))
    return 1 if broken else 0


def look(backend: str | None, model: str | None, progress: "Progress") -> list[Finding]:
    """Every finding but the settings, in the order in which they depend on each other."""
    checks: list[Callable[[], list[Finding]]] = [_python, _machine, _libraries, _homes, _cache, _models, _network]
    checks += [functools.partial(_native, progress), functools.partial(_plan, backend, progress)]
    if model:
        checks.append(functools.partial(_run, model, backend, progress))
    findings = []
    for check in checks:
        name = getattr(check, "func", check).__name__.strip("_")
        try:
            findings += check()
        except SoberanoError as error:
            findings.append(Finding(name, "broken", str(error)))
        except Exception as error:  # the doctor reports what ails the others, and falls ill of nothing
            findings.append(
                Finding(name, "broken", f"{type(error).__name__}: {error}", "this is a bug; please report it")
            )
    return findings


def report(findings: list[Finding]) -> str:
    """The findings as text, the hints at the end, where a person looks for them."""
    marks = {"ok": " ", "lost": "-", "broken": "!"}
    width = max(len(f.name) for f in findings)
    lines = [f"{marks[f.state]} {f.name:<{width}}  {f.value}" for f in findings]
    hints = [f"{marks[f.state]} {f.name}: {f.hint}" for f in findings if f.hint]
    broken = sum(f.state == "broken" for f in findings)
    lost = sum(f.state == "lost" for f in findings)
    slower = f"{lost} of the things above could be better (marked -)"
    verdict = f"It works; {slower}." if lost else "All is well."
    if broken:
        verb, rest = "is" if broken == 1 else "are", f", and {slower}." if lost else "."
        verdict = f"{broken} of the things above {verb} broken (marked !){rest}"
    return "\n".join([*lines, "", *hints, *([""] if hints else []), verdict])


def _settings() -> list[Finding]:
    try:
        chosen = asdict(settings())
    except InputError as error:
        return [Finding("settings", "broken", str(error))]
    rows = [(name, default, chosen[name.removeprefix("SOBERANO_").lower()]) for name, default, _ in variables()]
    value = ", ".join(f"{n}={v}" for n, d, v in rows if v != d) or "all at their defaults"
    unknown = sorted(
        n
        for n in child_environment()
        if n.startswith("SOBERANO_") and "_TEST_" not in n and n not in {r[0] for r in rows}
    )
    found = [Finding("settings", "ok", value)]
    if unknown:
        near = [(n, get_close_matches(n, [r[0] for r in rows], n=1)) for n in unknown]
        hint = "; ".join(f"{n}: did you mean {c[0]}?" if c else f"{n}: unset it" for n, c in near)
        found.append(
            Finding("unknown", "lost", f"{', '.join(unknown)}: no setting has this name, so nothing reads it", hint)
        )
    return found


def _python() -> list[Finding]:
    from soberano import __version__

    found = f"{platform.python_version()} ({platform.python_implementation()}, {sys.executable})"
    fine = (3, 11) <= sys.version_info[:2] < (3, 14)
    hint = "" if fine else "use Python 3.11, 3.12 or 3.13"
    return [Finding("soberano", "ok", __version__), Finding("python", "ok" if fine else "lost", found, hint)]


def _machine() -> list[Finding]:
    from soberano.backends.native import threads
    from soberano.core.memory import free_memory

    value = (
        f"{platform.system()} {platform.release()} {platform.machine()}, {threads()} of {os.cpu_count()} cores used, "
    )
    return [Finding("machine", "ok", value + f"{bytes_text(free_memory())} of memory free")]


def _libraries() -> list[Finding]:
    found = {name: _version(name) for name in ("numpy", "jax", "jaxlib", "aiohttp", "tokenizers", "jinja2")}
    missing = [name for name, number in found.items() if number is None]
    value = ", ".join(f"{name} {number or 'MISSING'}" for name, number in found.items())
    if missing:
        return [Finding("libraries", "broken", value, f"install {' '.join(missing)}: pip install --upgrade soberano")]
    if found["jax"] != found["jaxlib"]:
        return [
            Finding(
                "libraries", "lost", value, "jax and jaxlib should have the same version: pip install --upgrade jax"
            )
        ]
    return [Finding("libraries", "ok", value)]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _homes() -> list[Finding]:
    from importlib.util import find_spec

    from soberano.backends.homes import home

    findings = []
    for name in ("numpy", "jax", "cupy", *sorted(p.name for p in entry_points(group="soberano.backends"))):
        if name == "cupy" and find_spec("cupy") is None:
            value = "not installed; it is for NVIDIA GPUs (pip install -e '.[cuda13]', in the folder of this project)"
            findings.append(Finding("home cupy", "ok", value))
            continue
        try:
            findings.append(Finding(f"home {name}", "ok", ", ".join(home(name).devices()) or "no device"))
        except Exception as error:  # a driver or a third-party backend may fail with any class
            reason = str(error).partition("\n")[0]
            findings.append(Finding(f"home {name}", "lost", f"{type(error).__name__}: {reason}", "see the message"))
    return findings


def _cache() -> list[Finding]:
    used, why = settings().cache_dir(), settings().cache_reason()
    if not why:
        return [Finding("cache", "ok", str(used))]
    hint = "models and kernels may be gone after a restart; set SOBERANO_CACHE to a folder that only you can write"
    return [Finding("cache", "lost", f"{used}, because {why}", hint)]


def _models() -> list[Finding]:
    from soberano.registry.store import list_models

    names = [f"{s.record.name} ({bytes_text(s.record.size)})" for s in list_models()]
    return [Finding("models", "ok", ", ".join(names) or "none yet; soberano pull smollm2 brings one")]


def _network() -> list[Finding]:
    if settings().offline:
        return [Finding("network", "ok", "SOBERANO_OFFLINE=1: every outbound connection is refused")]
    return [Finding("network", "ok", "only `soberano pull` reaches out")]


def _native(progress: "Progress") -> list[Finding]:
    from soberano.backends import native

    if settings().native != "off":
        with contextlib.suppress(SoberanoError):  # state() holds the reason
            native.library(progress)
    fine, value = native.state()
    if fine:
        return [Finding("kernels", "ok", value)]
    broken = settings().native == "require"
    hint = (
        "models run, several times slower, on the portable meaning of each op" if not broken else "see the reason above"
    )
    return [Finding("kernels", "broken" if broken else "lost", value, hint)]


def _plan(backend: str | None, progress: "Progress") -> list[Finding]:
    from soberano.backends.choose import choose

    plan = choose(backend, progress=progress)
    kernels = f"native {plan.isa}, {plan.threads} threads" if plan.native else "no native kernels"
    value = f"{plan.backend}: {plan.home} arrays on {plan.platform}, {kernels}, weights as {plan.weights}"
    return [Finding("plan", "ok", value), *(Finding("  because", "ok", reason) for reason in plan.reasons)]


def _run(model: str, backend: str | None, progress: "Progress") -> list[Finding]:
    import soberano
    from soberano.backends.dispatch import declined
    from soberano.cli.run import stats
    from soberano.models.encoder import Encoder
    from soberano.models.options import Options
    from soberano.registry.store import resolve

    with soberano.load(resolve(model), backend=backend, progress=progress) as loaded:
        if isinstance(loaded, Encoder) and loaded.ranks:
            said = f"[{loaded.rerank('Once', ['upon a time'])[0].score:.3f} of a pair of texts]"
        elif isinstance(loaded, Encoder):
            said = f"[a vector of {loaded.embed('Once upon a time').size} numbers]"
        else:
            generation: Any = loaded.start("Once upon a time", Options(max_tokens=16, temperature=0, ignore_eos=True))
            for _ in generation:
                pass
            said = stats(generation)
        findings = [Finding("model", "ok", f"{loaded.name} on {loaded.plan.backend} {said}")]
    for op, home, why, times in declined():
        findings.append(Finding("declined", "ok", f"{op} on {home}, {times} times: {why}"))
    return findings
