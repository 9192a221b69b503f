"""Files from outside are attacks: each of these raises our error, quickly, and in little memory.

The cases follow llama.cpp's own list (tests/test-gguf.cpp) and the published holes in GGUF readers: sizes that
overflow, ranges past the end of the file, counts larger than the file.
"""

import functools
import os
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from soberano.core.errors import FileError, SoberanoError, UnsupportedModel
from soberano.formats.gguf import Typed, read, write
from soberano.quant.blocks import format_named
from soberano.quant.encode import encode

U64 = (1 << 64) - 1
STR, ARRAY, U32 = 8, 9, 4


def string(text: bytes | str, length: int | None = None) -> bytes:
    text = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(text) if length is None else length) + text


def pair(key: bytes | str, kind: int, body: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + body


def array(kind: int, count: int, body: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + body


def tensor(
    name: bytes | str = "w", shape: tuple[int, ...] = (4,), ggml: int = 0, offset: int = 0, axes: int | None = None
) -> bytes:
    """An entry of a tensor; `shape` is as in the file, fastest axis first."""
    axes = len(shape) if axes is None else axes
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", axes, *shape, ggml, offset)


def file(
    pairs: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    data: bytes = bytes(64),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_pairs: int | None = None,
    n_tensors: int | None = None,
) -> bytes:
    pairs, tensors = pairs or [], tensors or []
    counts = (len(tensors) if n_tensors is None else n_tensors, len(pairs) if n_pairs is None else n_pairs)
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(pairs + tensors)
    return head + bytes(-len(head) % 32) + data


def nested(depth: int) -> bytes:
    return array(ARRAY, 1, nested(depth - 1)) if depth else array(U32, 0)


ALIGN = "general.alignment"
ATTACKS: dict[str, tuple[bytes, str]] = {
    # the header
    "bad magic": (file(magic=b"FUGG"), "not a GGUF file: it starts with the bytes 46 55 47 47"),
    "version 0": (file(version=0), "GGUF version 0, and versions 2 and 3"),
    "version 1": (file(version=1), "GGUF version 1, of 2023"),
    "version 4": (file(version=4), "GGUF version 4, and versions 2 and 3"),
    "byte-swapped": (file(version=3 << 24), "is a big-endian GGUF file"),
    "-1 tensors": (file(n_tensors=U64), f"claims {U64} tensors"),
    "-1 pairs": (file(n_pairs=U64), f"claims {U64} metadata pairs"),
    "60000 tensors in no bytes": (file(n_tensors=60_000), "60000 tensors take at least"),
    "70000 tensors": (file(n_tensors=70_000, data=bytes(70_000 * 24)), "claims 70000 tensors, and 65536 is the most"),
    "60000 pairs in no bytes": (file(n_pairs=60_000), "60000 metadata pairs take at least"),
    "ends in the magic": (b"GG", "not a GGUF file: it starts with the bytes 47 47"),
    "ends after the magic": (b"GGUF", "the version at byte 4 takes 4 bytes and only 0 are left, 4 are missing"),
    "ends in the counts": (
        file()[:20],
        "the number of metadata pairs at byte 16 takes 8 bytes and only 4 are left, 4 are missing",
    ),
    # metadata
    "key of length -1": (file([string(b"k", U64) + bytes(20)]), f"metadata key 0 claims {U64} bytes"),
    "key past the end": (file([string(b"k", 60_000) + bytes(20)]), "metadata key 0 at byte 32 takes 60000 bytes"),
    "empty key": (file([pair("", U32, bytes(4))]), "metadata key 0 is empty"),
    "key not UTF-8": (file([pair(b"\xff", U32, bytes(4))]), "metadata key 0 is not UTF-8"),
    "key twice": (file([pair("k", U32, bytes(4))] * 2), "'k' is there twice"),
    "unknown kind": (file([pair("k", 13, bytes(4))]), "'k' has kind 13, and kinds go from 0 to 12"),
    "kind -1": (file([pair("k", 0xFFFFFFFF, bytes(4))]), "'k' has kind 4294967295"),
    "string of length -1": (file([pair("k", STR, string(b"", U64))]), f"'k' claims {U64} bytes"),
    "string past the end": (file([pair("k", STR, string(b"", 1 << 20))]), "'k' at byte .* takes 1048576 bytes"),
    "string not UTF-8": (file([pair("k", STR, string(b"a\xc3"))]), "'k' is not UTF-8"),
    "array of -1": (file([pair("k", ARRAY, array(U32, U64))]), f"claims {U64} elements in the value of 'k'"),
    "array of 2**62 that overflows": (file([pair("k", ARRAY, array(U32, 1 << 62))]), f"claims {1 << 62} elements"),
    "array past the end": (file([pair("k", ARRAY, array(U32, 1 << 20))]), "take at least 4194304 bytes"),
    "strings past the end": (file([pair("k", ARRAY, array(STR, 1 << 20))]), "take at least 8388608 bytes"),
    "array of unknown kind": (file([pair("k", ARRAY, array(99, 1))]), "kind 99"),
    "a string of an array past the end": (
        file([pair("k", ARRAY, array(STR, 2, string("ok") + string(b"", 1 << 40)))]),
        "element 1 of the value of 'k' claims 1099511627776 bytes",
    ),
    "a string of an array not UTF-8": (
        file([pair("k", ARRAY, array(STR, 2, string("ok") + string(b"\x80")))]),
        "'k', element 1, is not UTF-8",
    ),
    "nested 5 deep": (file([pair("k", ARRAY, nested(4))]), "nests arrays more than 4 deep"),
    "nested 900 deep": (file([pair("k", ARRAY, nested(900))]), "nests arrays more than 4 deep"),
    "alignment 13": (file([pair(ALIGN, U32, struct.pack("<I", 13))]), "is 13, not a power of two"),
    "alignment 0": (file([pair(ALIGN, U32, struct.pack("<I", 0))]), "is 0, not a power of two"),
    "alignment 4": (file([pair(ALIGN, U32, struct.pack("<I", 4))]), "is 4, not a power of two of 8 or more"),
    "alignment of another kind": (file([pair(ALIGN, 10, struct.pack("<Q", 32))]), "is of kind u64, not u32"),
    # tensors
    "no name": (file(tensors=[tensor("")]), "tensor 0 has no name"),
    "name of 64 bytes": (file(tensors=[tensor("n" * 64)]), "the name of tensor 0 claims 64 bytes, and 63 is the most"),
    "name twice": (file(tensors=[tensor(), tensor(offset=32)]), "'w' is there twice"),
    "5 axes": (file(tensors=[tensor(shape=(1,) * 5)]), "'w' has 5 axes, and 4 is the most"),
    "-1 axes": (file(tensors=[tensor(axes=0xFFFFFFFF)]), "'w' has 4294967295 axes"),
    "negative axis": (file(tensors=[tensor(shape=(U64,))]), "more than any file can hold"),
    "product overflows to 0": (file(tensors=[tensor(shape=(1 << 32, 1 << 32))]), "more than any file can hold"),
    "product overflows to 4": (file(tensors=[tensor(shape=((1 << 62) + 1, 4))]), "more than any file can hold"),
    "bytes overflow": (file(tensors=[tensor(shape=(1 << 62,))]), "more than any file can hold"),
    "huge beside zero": (file(tensors=[tensor(shape=(1 << 62, 1 << 62, 0))]), "more than any file can hold"),
    "sizes that sum past 2**64": (
        file(tensors=[tensor("a", (0x1FFFFFFFFFFFFFC0,)), tensor("b", (0x1FFFFFFFFFFFFFC0,), offset=1 << 63)]),
        "more than any file can hold|are missing",
    ),
    "half a block": (
        file(tensors=[tensor(shape=(33,), ggml=2)]),
        "'w' has rows of 33 weights, and a Q4_0 block has 32",
    ),
    "offset not aligned": (file(tensors=[tensor(offset=1)]), "offset 1, no multiple of the alignment 32"),
    "offset past the end": (file(tensors=[tensor(offset=1 << 40)]), r"1099511627728 bytes \(1.10 TB\) are missing"),
    "offset -32": (file(tensors=[tensor(offset=U64 - 31)]), "are missing"),
    "one weight past the end": (file(tensors=[tensor(shape=(17,))]), "4 bytes .* are missing"),
    "one byte short": (file(tensors=[tensor()], data=bytes(15)), r" 1 bytes \(1 B\) are missing"),
    "no data at all": (file(tensors=[tensor()], data=b""), "16 bytes .* are missing"),
    "overlapping": (file(tensors=[tensor("a", (9,)), tensor("b", offset=32)]), "'a' and 'b' overlap"),
    "the same place": (file(tensors=[tensor("a"), tensor("b")]), "'a' and 'b' overlap"),
    "ends in the tensors": (file(tensors=[tensor()])[:50], "truncated or damaged"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.gguf"


@pytest.fixture
def cheaply() -> Iterator[None]:
    """What runs inside takes less than a second and 16 MB."""
    tracemalloc.start()
    started = time.perf_counter()
    yield
    seconds, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 1
    assert peak < 16_000_000


@pytest.mark.usefixtures("cheaply")
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused(path: Path, name: str) -> None:
    content, match = ATTACKS[name]
    path.write_bytes(content)
    with pytest.raises(FileError, match=match) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(path))


@pytest.mark.usefixtures("cheaply")
@pytest.mark.parametrize(
    ("ggml", "match"),
    [
        (16, r"'blk\.0\.w' has type IQ2_XXS \(ggml type 16\); the types we read are F32, .*Q6_K"),
        (4, r"Q4_2 \(ggml type 4\), which ggml itself has removed"),
        (137, "ggml type 137, which only the fork ik_llama.cpp writes"),
        (0xFFFFFFFF, "ggml type 4294967295, which no version of ggml that we know has"),
    ],
)
def test_a_type_we_do_not_read_is_named(path: Path, ggml: int, match: str) -> None:
    path.write_bytes(file(tensors=[tensor("blk.0.w", ggml=ggml)]))
    with pytest.raises(UnsupportedModel, match=match):
        read(path)


@pytest.mark.usefixtures("cheaply")
def test_many_small_arrays_do_not_add_up(path: Path) -> None:
    """Each array is below the limit, all of them are not: 20 times 300,000 bytes would be 6,000,000 Python objects."""
    body = array(0, 300_000, bytes(300_000))
    path.write_bytes(file([pair(f"k{i}", ARRAY, body) for i in range(20)]))
    with pytest.raises(FileError, match="more than 4194304 elements together"):
        _read_without_counting_lists(path)


def _read_without_counting_lists(path: Path) -> None:
    tracemalloc.stop()  # the lists read so far are within the limit, and are not what this test measures
    try:
        read(path)
    finally:
        tracemalloc.start()


def refused(path: Path, match: str, most: int) -> None:
    """Reading the file raises FileError, and takes at most `most` bytes of memory until then."""
    tracemalloc.start()
    with pytest.raises(FileError, match=match):
        read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < most


def sparse(path: Path, strings: int, length: int) -> None:
    """Write a file of strings that takes no room on the disk. One letter at its end makes each four times as wide."""
    with path.open("wb") as out:
        out.write(b"GGUF" + struct.pack("<IQQ", 3, 0, strings))
        for i in range(strings):
            out.write(string(f"k{i}") + struct.pack("<IQ", STR, length))
            out.seek(length - 4, os.SEEK_CUR)
            out.write("😀".encode())


def test_a_sparse_file_of_giant_strings(path: Path) -> None:
    sparse(path, 6, 1 << 28)
    refused(path, "'k0' claims 268435456 bytes, and 1048576 is the most", 1_000_000)


def test_a_sparse_file_of_many_long_strings(path: Path) -> None:
    sparse(path, 500, 1 << 20)
    refused(path, "lies beyond byte 67108864, and nothing but weights may", 5 << 26)


def test_a_giant_string_in_an_array(path: Path) -> None:
    body = string("ok") + string(bytes(1 << 24))
    path.write_bytes(file([pair("k", ARRAY, array(STR, 2, body))]))
    refused(path, "element 1 of the value of 'k' claims 16777216 bytes", 1_000_000)


@pytest.mark.parametrize("deep", [1, 3])
def test_arrays_of_empty_arrays(path: Path, deep: int) -> None:
    body = array(ARRAY, 70_000, array(U32, 0) * 70_000)
    for _ in range(deep - 1):
        body = array(ARRAY, 1, body)
    path.write_bytes(file([pair("k", ARRAY, body)]))
    refused(path, "hold more than 65536 arrays together", 4_000_000)


def test_the_largest_real_vocabularies_are_read(path: Path) -> None:
    """As Gemma 3: 262,144 tokens with scores and types, 514,906 merges, and a template of a few kilobytes."""
    tokens, merges = 262_144, 514_906
    pairs = [
        pair("tokens", ARRAY, array(STR, tokens, b"".join(string(b"%011d" % i) for i in range(tokens)))),
        pair("scores", ARRAY, array(6, tokens, bytes(4 * tokens))),
        pair("types", ARRAY, array(5, tokens, bytes(4 * tokens))),
        pair("merges", ARRAY, array(STR, merges, b"".join(string(b"%011d %011d" % (i, i)) for i in range(merges)))),
        pair("template", STR, string("x" * 30_000)),
    ]
    path.write_bytes(file(pairs))
    found = read(path).metadata
    assert (len(found["tokens"]), len(found["merges"]), found["merges"][-1]) == (
        tokens,
        merges,
        "00000514905 00000514905",
    )


@pytest.mark.parametrize(
    ("content", "shape"),
    [
        (file(tensors=[tensor(shape=(4, 0))], data=b""), (0, 4)),
        (file(tensors=[tensor(shape=(0, 4))], data=b""), (4, 0)),
        (file(tensors=[tensor(shape=())]), ()),
        (file(tensors=[tensor(shape=(4,))], version=2), (4,)),
        (file(tensors=[tensor(shape=(4,))], data=bytes(99)), (4,)),  # bytes after the weights
        (file(tensors=[tensor(shape=(4,))], data=bytes(16)), (4,)),  # no padding after the last
        (file(tensors=[tensor(shape=(4,), offset=32)]), (4,)),  # a gap
    ],
    ids=["no rows", "no columns", "no axes", "version 2", "bytes behind", "no padding behind", "gap"],
)
def test_what_is_odd_but_sound_is_read(path: Path, content: bytes, shape: tuple[int, ...]) -> None:
    path.write_bytes(content)
    found = read(path)
    assert found.tensors["w"].shape == shape
    assert found.raw("w").shape == (*shape[:-1], 4 * (shape[-1] if shape else 1))


def test_a_file_without_tensors_may_end_without_padding(path: Path) -> None:
    path.write_bytes(file([pair("k", U32, struct.pack("<I", 5))], data=b"")[:41])
    assert read(path).metadata == {"k": 5}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda path: None, "does not exist; check the path"),
        (lambda path: path.mkdir(), "is a folder; give the path of a .gguf file in it"),
        (lambda path: os.mkfifo(path), "is not a regular file"),
        (lambda path: path.write_bytes(b""), "is an empty file"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(60)), "looks like a zip archive, as PyTorch"),
        (lambda path: path.write_bytes(b"<!DOCTYPE html><html>"), "looks like a web page"),
        (lambda path: path.write_bytes(struct.pack("<Q", 2) + b"{}"), "looks like a safetensors file"),
    ],
    ids=["missing", "folder", "pipe", "empty", "zip", "html", "safetensors"],
)
def test_what_is_no_file_of_ours(path: Path, make: Callable[[Path], object], match: str) -> None:
    make(path)
    with pytest.raises(FileError, match=match) as caught:
        read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(path: Path) -> None:
    path.write_bytes(file())
    path.chmod(0)
    with pytest.raises(FileError, match="cannot be read: Permission denied"):
        read(path)


@functools.cache
def small_file(folder: Path) -> bytes:
    rng = np.random.default_rng(0)
    kinds = [format_named(name) for name in ("F32", "Q4_1", "Q4_K")]
    metadata = {
        "general.architecture": "llama",
        "tokens": ["a", "bc", "déf"],
        "scores": [0.5, 1.5],
        "flag": True,
        "n": 3,
        "deep": Typed("[array]", [[1, 2], ["x"]]),
    }
    tensors = {f"blk.{k.name}": (k, encode(k, rng.standard_normal((2, 256), np.float32))) for k in kinds}
    write(folder / "small.gguf", metadata, tensors)
    return (folder / "small.gguf").read_bytes()


@given(
    cut=st.integers(0, 1 << 20),
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=6),
    word=st.tuples(st.integers(0, 1 << 20), st.integers(0, U64)) | st.none(),
)
@example(cut=1 << 20, flips=[], word=None)
@settings(max_examples=400, deadline=None)
def test_damage_raises_our_errors_only(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]], word: tuple[int, int] | None
) -> None:
    """Cut, overwrite bytes and put any 64-bit number anywhere in the head: what still opens stays inside the file."""
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(small_file(folder))
    head = 480
    for place, value in flips:
        content[place % head] = value
    if word is not None:
        struct.pack_into("<Q", content, word[0] % head, word[1])
    path = folder / "damaged.gguf"
    path.write_bytes(content[: cut % (2 * len(content))])
    try:
        found = read(path)
    except SoberanoError:
        return
    for name, info in found.tensors.items():
        assert info.offset >= 0
        assert info.nbytes == 0 or info.offset + info.nbytes <= path.stat().st_size
        assert found.raw(name).nbytes == info.nbytes


def test_every_truncation_says_what_is_missing(path: Path, tmp_path: Path) -> None:
    whole = small_file(tmp_path)
    for size in range(1, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(FileError, match=r"not a GGUF file|missing|are left"):
            read(path)
