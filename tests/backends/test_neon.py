"""The NEON path without an arm64 machine: the kernels, cross-compiled and emulated, against this machine's library.

Results must be equal bit for bit, which is what soberano/backends/simd.h promises. Nothing here says how fast they are.
"""

import re
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from soberano.backends import native
from soberano.core.errors import Unsupported
from soberano.quant import tiles
from soberano.quant.blocks import BlockFormat
from tests.quant.test_tiles import TILED, random_blocks

COMPILER, EMULATOR, LIBRARIES = "aarch64-linux-gnu-g++", "qemu-aarch64", "/usr/aarch64-linux-gnu"
INSTALL = "apt install g++-aarch64-linux-gnu qemu-user"
TARGETS = {
    "multiply": native.ISA_FLAGS["neon"],  # every arm64 processor: bytes are multiplied to int16 and widened
    "dotprod": ("-march=armv8.2-a+dotprod",),  # signed bytes by signed bytes
    "i8mm": ("-march=armv8.6-a",),  # unsigned bytes by signed bytes
}
NO_ARRAYS = {"soberano_isa", "soberano_threads"}
MEASURES = {"soberano_read_all", "soberano_multiply"}  # what they compute does not matter
# On x86 their own tests compare the paths; the packer of many calls that of one.
NOT_YET = {"soberano_nearest", "soberano_rescore", "soberano_pack_many"}
PRODUCTS = {"soberano_pack_tiles", "soberano_linear", "soberano_linear_transposed"}
FILES_OF_PRODUCTS = {"native", "linear", "linear_transposed", "tiles"}
OUTPUTS, INPUTS = 150, 512

needs_tools = pytest.mark.skipif(
    not (shutil.which(COMPILER) and shutil.which(EMULATOR)),
    reason=f"{COMPILER} and {EMULATOR} are not both here; on Debian: {INSTALL}",
)
needs_native = pytest.mark.skipif(not native.state()[0], reason=native.state()[1])


@dataclass(frozen=True)
class Call:
    """A kernel and its arguments, as `native.call` takes them."""

    symbol: str
    what: str
    args: tuple[np.ndarray | int | float, ...]

    @property
    def nbytes(self) -> int:
        return sum(arg.nbytes for arg in self.args if isinstance(arg, np.ndarray))

    def record(self) -> bytes:
        """The call as neon_driver.cc reads it."""
        parts = [struct.pack("<q", len(self.symbol)), self.symbol.encode(), struct.pack("<q", len(self.args))]
        for arg in self.args:
            if isinstance(arg, np.ndarray):
                parts += [struct.pack("<cq", b"a", arg.nbytes), arg.tobytes()]
            else:
                parts.append(struct.pack("<cq", b"i", arg) if isinstance(arg, int) else struct.pack("<cf", b"f", arg))
        return b"".join(parts)

    def answer(self) -> bytes:
        """What the arrays hold after a call of this machine's library."""
        fresh = [arg.copy() if isinstance(arg, np.ndarray) else arg for arg in self.args]
        native.call(self.symbol, *fresh)
        return b"".join(arg.tobytes() for arg in fresh if isinstance(arg, np.ndarray))


def any_halves(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Finite float16 of every size, subnormal ones and signed zeros among them."""
    halves = rng.integers(0, 1 << 16, shape, dtype=np.uint16).view(np.float16)
    return np.where(np.isfinite(halves), halves, np.float16(0))


def any_floats(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """float32 of every kind, NaN and infinities among them; half of them are between two neighbours in float16."""
    floats = rng.integers(0, 1 << 32, shape, dtype=np.uint32).view(np.float32)
    halves = any_halves(shape, rng)
    further = (halves.view(np.uint16) + 1).view(np.float16)  # the next away from zero
    between = (halves.astype(np.float32) + further.astype(np.float32)) / 2
    return np.where(rng.random(shape) < 0.5, floats, between)


def of_weights(kind: type[BlockFormat], rng: np.random.Generator) -> Iterator[Call]:
    raw = random_blocks(kind, OUTPUTS, INPUTS, rng)
    packed = tiles.pack(kind, raw)
    yield Call("soberano_pack_tiles", kind.name, (raw, np.zeros_like(packed), OUTPUTS, INPUTS, kind.ggml))
    layout = tiles.layout_of(kind)
    extreme = packed.view(layout.dtype).copy()
    for name in {"d", "m"} & set(layout.dtype.names or ()):
        extreme[name] = any_halves(extreme[name].shape, rng)
    for what, weight in (("", packed), (", scales of every size", extreme.view(np.uint8))):
        for tokens in range(1, 10):
            x, y = rng.normal(size=(tokens, INPUTS)).astype(np.float32), np.zeros((tokens, OUTPUTS), np.float32)
            x[0, :32] = 0  # a group of zeros has no scale
            args = (x, weight, y, tokens, INPUTS, OUTPUTS, layout.kind)
            yield Call("soberano_linear", f"{kind.name}, {tokens} tokens{what}", args)
            y = rng.normal(size=(tokens, OUTPUTS)).astype(np.float32)
            args = (y, weight, np.zeros_like(x), tokens, INPUTS, OUTPUTS, layout.kind)
            yield Call("soberano_linear_transposed", f"{kind.name}, {tokens} tokens{what}", args)


def of_norms(rng: np.random.Generator) -> Iterator[Call]:
    for width in (16, 37, 576):
        x, weight = rng.normal(size=(5, width)).astype(np.float32), rng.normal(size=width).astype(np.float32)
        yield Call("soberano_rms_norm", f"5 rows of {width}", (x, weight, np.zeros_like(x), 5, width, 1e-5))


def of_attention(rng: np.random.Generator) -> Iterator[Call]:
    pages, kv_heads, page = 12, 2, 32
    for width, heads, positions in (
        (64, 6, [[383]]),
        (64, 6, [[0, 5, 200, 380], [-1, 127, 128, 300]]),
        (80, 2, [[31, 32, 255], [-1, -1, 256]]),
    ):
        where = np.array(positions, np.int32)
        batch, new = where.shape
        table = np.stack([rng.permutation(pages) for _ in range(batch)]).astype(np.int32)
        keys = rng.normal(size=(pages, kv_heads, width, page)).astype(np.float16)
        values = rng.normal(size=(pages, kv_heads, page, width)).astype(np.float16)
        q = 3 * rng.normal(size=(batch, new, heads, width)).astype(np.float32)
        what = f"{batch} x {new} tokens, {heads} heads of {width}"
        sizes, none = (batch, new, heads, kv_heads, width, page, pages), np.full(heads, -np.inf, np.float32)
        for window, cap, sinks in ((0, 0.0, none), (100, 5.0, rng.normal(size=heads).astype(np.float32))):
            arrays = (q, keys, values, where, table, sinks, np.zeros_like(q))
            rules = f"{what}, window {window}, cap {cap}"
            yield Call("soberano_attention", rules, (*arrays, *sizes, window, width**-0.5, cap))
        k, v = (any_floats((batch, new, kv_heads, width), rng) for _ in range(2))
        arrays = (keys, values, k, v, where, table)
        yield Call("soberano_write_kv", what, (*arrays, batch, new, kv_heads, width, page, pages))


def calls(rng: np.random.Generator) -> list[Call]:
    """Every call that is compared."""
    return [*(call for kind in TILED for call in of_weights(kind, rng)), *of_norms(rng), *of_attention(rng)]


def compile_driver(flags: tuple[str, ...], sources: list[Path], folder: Path) -> Path:
    """The driver and the kernels of some files in one program for arm64."""
    import jax

    program, driver = folder / "driver", Path(__file__).with_name("neon_driver.cc")
    include = [f"-I{native.PACKAGE.parent}", f"-isystem{jax.ffi.include_dir()}"]
    command = [COMPILER, *native.FLAGS, "-Wno-psabi", *flags, *include, driver, *sources, "-o", program]
    subprocess.run(command, check=True, timeout=600)
    return program


def emulate(program: Path, todo: list[Call], folder: Path) -> Iterator[bytes]:
    """What the arrays of each call hold after a run on an emulated processor."""
    (folder / "in").write_bytes(b"".join(call.record() for call in todo))
    command = [EMULATOR, "-cpu", "max", "-L", LIBRARIES, program, folder / "in", folder / "out"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    assert done.stdout == "neon\n"
    left, at = (folder / "out").read_bytes(), 0
    for call in todo:
        yield left[at : (at := at + call.nbytes)]
    assert at == len(left)


@needs_tools
@needs_native
@pytest.mark.parametrize("target", TARGETS)
def test_an_emulated_processor_gives_the_same_bits(target: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """How bytes are multiplied concerns products alone: with the better instructions, only they are compiled again."""
    todo, sources, wrong = calls(rng), native.sources(), []
    if target != "multiply":
        todo = [call for call in todo if call.symbol in PRODUCTS]
        sources = [path for path in sources if path.stem in FILES_OF_PRODUCTS]
    program = compile_driver(TARGETS[target], sources, tmp_path)
    for call, left in zip(todo, emulate(program, todo, tmp_path), strict=True):
        if left != call.answer():
            wrong.append(f"{call.symbol}: {call.what}")
    assert not wrong, f"{len(wrong)} of {len(todo)} calls leave other bits than {native.isa()}: {wrong}"
    for symbol, count in Counter(call.symbol for call in todo).items():
        print(f"NEON, {target}: {symbol} leaves the same bits as {native.isa()} in each of {count} calls")


def test_every_kernel_that_takes_arrays_is_compared(rng: np.random.Generator) -> None:
    entry = re.compile(r'extern "C"[^(]*?(soberano_\w+)\(')
    entries = {name for path in native.sources() for name in entry.findall(path.read_text())}
    compared = {call.symbol for call in calls(rng)}
    assert entries - NO_ARRAYS - MEASURES - NOT_YET == compared, (
        "add a call to this file, and the name to neon_driver.cc"
    )


@pytest.mark.parametrize("machine,isa,other", [("aarch64", "neon", "avx2"), ("x86_64", "avx2", "neon")])
def test_an_instruction_set_belongs_to_a_processor(
    machine: str, isa: str, other: str, setenv: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(native, "cpu_flags", frozenset)  # those of this machine say nothing of that one
    setenv(SOBERANO_ISA=isa)
    assert native.target_flags(isa) == native.ISA_FLAGS[isa]
    setenv(SOBERANO_ISA=other)
    with pytest.raises(Unsupported, match=f"SOBERANO_ISA={other} is for .*, but this is {machine}"):
        native.target_flags(other)
