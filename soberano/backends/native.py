"""Build, load and register the C++ kernels: data until used, one library for every .cc file of the package.

The sources ship inside the wheel. On first use they are compiled for this very machine into a private per-user cache,
under a key of everything that matters: sources, headers, compiler, flags, jaxlib, processor. A failure is remembered
for the life of the process, the meaning runs instead, and `state()` tells `soberano doctor` why, with the cure.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from soberano.core.errors import NativeError, Unsupported
from soberano.core.progress import Progress, silent
from soberano.core.settings import settings

PACKAGE = Path(__file__).resolve().parent.parent
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
X86_FLAGS = {
    "amx": (*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
    "avx512": _AVX512,
    "avx2": _AVX2,
}
# No -ffast-math and no silent contraction: backends/simd.h promises the same bits on every path.
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-pthread", "-w")


def sources() -> list[Path]:
    """Every C++ source of the package, in a fixed order."""
    return sorted(PACKAGE.glob("*/*.cc"))


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The feature flags of this processor as Linux spells them; empty where they cannot be read."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def threads() -> int:
    """How many threads the kernels use: SOBERANO_THREADS, or one per core that this process may run on."""
    if settings().threads:
        return min(settings().threads, 1024)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compiler() -> str:
    named = settings().cxx
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if found is None:
        wanted = f"SOBERANO_CXX={named!r} is not found" if named else "none of c++, g++, clang++ is found"
        raise Unsupported(
            f"no C++ compiler: {wanted}; install one (Debian: apt install g++, macOS: xcode-select --install)"
        )
    return found


def _target_flags() -> tuple[str, ...]:
    isa = settings().isa
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    if isa == "auto":
        return ("-march=native",) if x86 else ("-mcpu=native",)
    if isa == "portable":
        return ()
    if not x86:
        raise Unsupported(
            f"SOBERANO_ISA={isa} is for x86-64, but this is {platform.machine()}; unset it or use portable"
        )
    needed = {flag[2:].replace("-", "") for flag in X86_FLAGS[isa]}
    present = {name.replace("_", "") for name in cpu_flags()}
    if present and not needed <= present:
        lacks = ", ".join(sorted(needed - present))
        raise Unsupported(
            f"SOBERANO_ISA={isa} needs {lacks}, which this processor does not have; unset it or use portable"
        )
    return X86_FLAGS[isa]


def _key(compiler: str, flags: tuple[str, ...]) -> str:
    import jaxlib

    seen = hashlib.sha256()
    for path in [*sources(), *sorted(PACKAGE.glob("*/*.h"))]:
        seen.update(path.name.encode() + b"\0" + path.read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30).stdout.partition(
        "\n"
    )[0]
    for part in (version, *flags, jaxlib.__version__, platform.machine(), *sorted(cpu_flags())):
        seen.update(part.encode() + b"\0")
    return seen.hexdigest()[:20]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        last = next((line for line in said if "error" in line), said[0])
        raise Unsupported(
            f"the C++ compiler {command[0]} failed: {last}; set SOBERANO_CXX to another, or SOBERANO_NATIVE=off"
        )


def _compile(compiler: str, flags: tuple[str, ...], target: Path, progress: Progress) -> None:
    import jax

    include = [f"-I{PACKAGE.parent}", f"-isystem{jax.ffi.include_dir()}"]
    build = Path(tempfile.mkdtemp(prefix=".build-", dir=target.parent))
    try:
        objects, done = [build / f"{source.stem}.o" for source in sources()], 0

        def one(source: Path, output: Path) -> None:
            nonlocal done
            _run([compiler, *flags, *include, "-c", str(source), "-o", str(output)])
            done += 1
            progress("build kernels", done, len(objects), "files")

        progress("build kernels", 0, len(objects), "files")
        with ThreadPoolExecutor(max_workers=threads()) as pool:
            list(pool.map(one, sources(), objects))
        made = build / target.name
        _run([compiler, "-shared", "-pthread", "-o", str(made), *map(str, objects)])
        made.replace(target)
    finally:
        shutil.rmtree(build, ignore_errors=True)


def build(progress: Progress = silent) -> Path:
    """The path of the kernel library, compiled now if the cache does not have it.

    Raises Unsupported with the reason and the cure when there is no compiler, or it fails.
    """
    compiler, flags = _compiler(), (*FLAGS, *_target_flags())
    target = settings().cache_dir() / "native" / _key(compiler, flags) / "soberano-kernels.so"
    if not target.exists():
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _compile(compiler, flags, target, progress)
        except Unsupported:
            if not target.exists():  # else another process has made it meanwhile
                raise
    if hasattr(os, "getuid") and target.stat().st_uid != os.getuid():
        raise Unsupported(f"{target} belongs to another user; set SOBERANO_CACHE to a folder of your own")
    return target


def _load(progress: Progress) -> ctypes.CDLL | str:
    try:
        found = ctypes.CDLL(str(build(progress)))
    except (Unsupported, OSError, subprocess.SubprocessError) as why:
        return str(why)
    found.soberano_isa.restype = ctypes.c_char_p
    found.soberano_threads(ctypes.c_int(threads()))
    return found


_loading = threading.Lock()
_loaded: ctypes.CDLL | str | None = None  # the library, or why there is none: a failure is not tried again


def library(progress: Progress = silent) -> ctypes.CDLL:
    """The kernel library of this process. Raises Unsupported, or NativeError where it is required, with the cure."""
    global _loaded
    if settings().native == "off":
        raise Unsupported("native kernels are off (SOBERANO_NATIVE=off); unset it to have them")
    with _loading:
        if _loaded is None:
            _loaded = _load(progress)
    if isinstance(_loaded, str):
        if settings().native == "require":
            raise NativeError(f"SOBERANO_NATIVE=require, but {_loaded}")
        raise Unsupported(_loaded)
    return _loaded


def isa() -> str:
    """The instruction set that the library was compiled for: amx, avx512, avx2 or portable."""
    return library().soberano_isa().decode()


@functools.cache
def target(symbol: str) -> str:
    """Register the FFI handler `symbol` with XLA's CPU platform, once, and return the name to call it by."""
    import jax

    found = library()
    # The CPU client comes first: a library built against another jaxlib, registered earlier, would keep JAX from
    # starting.
    jax.devices("cpu")
    name = f"soberano.{symbol}"
    try:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(found, symbol)), platform="cpu")
    except Exception as why:  # an ABI that this jaxlib refuses; whatever its class, the meaning must run
        raise Unsupported(
            f"XLA refused the kernel {symbol}: {why}; delete the cache folder, or set SOBERANO_NATIVE=off"
        ) from why
    return name


def call(symbol: str, *args: np.ndarray | int | float) -> None:
    """Call the C function `symbol` of the library: an array goes as a pointer, an int as int64, a float as float32.

    The caller answers for shapes and types. Raises Unsupported where there is no library.
    """

    def pass_on(arg: Any) -> Any:
        if isinstance(arg, np.ndarray):
            assert arg.flags.c_contiguous, f"{symbol}: an array is not contiguous"
            return ctypes.c_void_p(arg.ctypes.data)
        return ctypes.c_int64(arg) if isinstance(arg, int) else ctypes.c_float(arg)

    getattr(library(), symbol)(*map(pass_on, args))


def state() -> tuple[bool, str]:
    """(whether native kernels run, in words why or why not), for `soberano doctor`."""
    try:
        library()
    except (Unsupported, NativeError) as why:
        return False, str(why)
    return True, f"{isa()}, {threads()} threads, {sys.platform} {platform.machine()}"
