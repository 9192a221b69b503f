"""Build, load and register the C++ kernels: data until used, one library for every .cc file of the package.

The sources ship inside the wheel. On first use they are compiled for this very machine into a private per-user cache,
under a key of everything that matters (native_cache.py keeps them). A failure is remembered for the life of the
process, the meaning runs instead, and `state()` tells `soberano doctor` why, with the cure.
"""

import ctypes
import functools
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

from soberano.backends import native_cache
from soberano.backends.native_cache import Note
from soberano.core.errors import NativeError, Unsupported
from soberano.core.progress import Progress, silent
from soberano.core.settings import settings

PACKAGE = Path(__file__).resolve().parent.parent
X86, ARM64 = ("x86_64", "amd64"), ("aarch64", "arm64")  # as platform.machine() spells them
_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
ISA_FLAGS = {
    "amx": (*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"),
    "avx512": _AVX512,
    "avx2": _AVX2,
    "neon": ("-march=armv8-a",),  # what every arm64 processor has; `auto` takes dot products too, where they are
    "portable": ("-DSOBERANO_PORTABLE",),
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


def target_flags(isa: str) -> tuple[str, ...]:
    """What an instruction set asks of the compiler. Raises Unsupported for one that this processor does not have."""
    machine = platform.machine().lower()
    if isa == "auto":
        return ("-march=native",) if machine in X86 else ("-mcpu=native",)
    if isa == "portable":
        return ISA_FLAGS[isa]
    wanted, machines = ("arm64", ARM64) if isa == "neon" else ("x86-64", X86)
    if machine not in machines:
        raise Unsupported(
            f"SOBERANO_ISA={isa} is for {wanted}, but this is {platform.machine()}; unset it or use portable"
        )
    if isa == "neon":
        return ISA_FLAGS[isa]
    needed = {flag[2:].replace("-", "") for flag in ISA_FLAGS[isa]}
    present = {name.replace("_", "") for name in cpu_flags()}
    if present and not needed <= present:
        lacks = ", ".join(sorted(needed - present))
        raise Unsupported(
            f"SOBERANO_ISA={isa} needs {lacks}, which this processor does not have; unset it or use portable"
        )
    return ISA_FLAGS[isa]


def key(isa: str) -> str:
    """The key of the kernels for an instruction set. Raises Unsupported for one that this machine does not have.

    With `auto` the compiler asks the processor, so its features are part of the key: moved to another one, a cache has
    nothing for it. What is named is for every processor that has it.
    """
    import jaxlib

    flags = target_flags(isa)
    processor = sorted(cpu_flags()) if isa == "auto" else []
    parts = (*FLAGS, *flags, jaxlib.__version__, platform.machine(), *processor)
    return native_cache.key_of([*sources(), *sorted(PACKAGE.glob("*/*.h"))], parts)


def _version(compiler: str) -> str:
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30)
    return done.stdout.partition("\n")[0]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        last = next((line for line in said if "error" in line), said[0])
        raise Unsupported(
            f"the C++ compiler {command[0]} failed: {last}; set SOBERANO_CXX to another, or SOBERANO_NATIVE=off"
        )


def _compile(compiler: str, isa: str, version: str, target: Path, progress: Progress) -> None:
    import jax

    flags = (*FLAGS, *target_flags(isa))
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
        native_cache.keep(made, target, _note(made, isa, version))
    finally:
        shutil.rmtree(build, ignore_errors=True)


def build(progress: Progress = silent, isa: str | None = None) -> Path:
    """The path of the kernel library for an instruction set (SOBERANO_ISA if None), compiled now if it is not cached.

    Where no compiler is installed, a library of this key serves whose compiler is gone. Raises Unsupported with the
    reason and the cure when there is neither, or the compiler fails.
    """
    isa = isa or settings().isa
    wanted = key(isa)
    try:
        compiler = _compiler()
    except Unsupported:
        ready = None if settings().cxx else native_cache.find(wanted, None)
        if ready is None:
            raise
        return ready
    version = _version(compiler)
    found = native_cache.find(wanted, version)
    if found is None:
        found = native_cache.place(wanted, version)
        try:
            _compile(compiler, isa, version, found, progress)
        except Unsupported:
            if native_cache.find(wanted, version) is None:  # else another process has made it meanwhile
                raise
    return found


def _note(library: Path, asked: str, compiler: str) -> Note:
    import jaxlib

    has = ctypes.CDLL(str(library)).soberano_isa
    has.restype = ctypes.c_char_p
    return Note(has().decode(), asked, compiler, jaxlib.__version__)


def _open(progress: Progress) -> ctypes.CDLL:
    path = build(progress)
    try:
        return ctypes.CDLL(str(path))
    except OSError:  # whole, and yet it cannot be loaded: it was made where the system's libraries are others, say
        path.unlink()
        return ctypes.CDLL(str(build(progress)))


def _load(progress: Progress) -> ctypes.CDLL | str:
    try:
        found = _open(progress)
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
    """The instruction set that the library was compiled for: amx, avx512, avx2, neon or portable."""
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
