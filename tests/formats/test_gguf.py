"""GGUF files in and out: our writer, our reader, and both of the gguf package, each against the other."""

import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soberano.core.errors import FileError, InputError
from soberano.formats.gguf import GGUF, Chunks, Typed, read, write
from soberano.quant.blocks import all_formats, format_named
from soberano.quant.encode import encode
from tests.tiny import write_tiny_llama

F32, Q4_0, Q4_K = format_named("F32"), format_named("Q4_0"), format_named("Q4_K")
METADATA: dict[str, Any] = {
    "general.architecture": "llama",
    "a.bool": True,
    "a.u32": 7,
    "a.i32": -7,
    "a.u64": 1 << 63,
    "a.i64": -(1 << 40),
    "a.f32": 0.5,
    "a.empty": "",
    "a.text": "naïve 🦙",
    "a.strings": ["", "a", "ß", "<|x|>"],
    "a.integers": [3, -1, 4],
    "a.floats": [0.25, 1.0],
    "a.bools": [True, False],
    "a.nothing": Typed("[str]", []),
}


def tensors(seed: int = 0) -> dict[str, Any]:
    """A matrix (5, 256) of every format, a vector, a tensor of three axes, one without rows."""
    rng = np.random.default_rng(seed)
    found = {f"{k.name}.weight": (k, encode(k, rng.standard_normal((5, 256), np.float32))) for k in all_formats()}
    found["vector"] = (F32, encode(F32, rng.standard_normal(7, np.float32)))
    found["cube"] = (Q4_0, encode(Q4_0, rng.standard_normal((2, 3, 64), np.float32)))
    found["none"] = (F32, np.zeros((0, 16), np.uint8))
    return found


def plain(value: Any) -> Any:
    return value.value if isinstance(value, Typed) else value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.gguf"


def test_what_is_written_is_read(path: Path) -> None:
    write(path, METADATA, tensors())
    with read(path) as file:
        assert file.version == 3
        assert file.metadata == {key: plain(value) for key, value in METADATA.items()}
        assert list(file.tensors) == list(tensors())
        for name, (kind, raw) in tensors().items():
            info = file.tensors[name]
            assert info.format is kind
            assert info.shape == (*raw.shape[:-1], kind.row_weights(raw.shape[-1]))
            assert info.offset % 32 == 0
            np.testing.assert_array_equal(file.raw(name), raw)
            assert not file.raw(name).flags.writeable


def test_the_reference_reads_what_we_write(path: Path) -> None:
    write(path, {k: v for k, v in METADATA.items() if k != "a.nothing"}, tensors())
    theirs = gguf.GGUFReader(path)
    for key, value in METADATA.items():
        if key != "a.nothing":
            assert theirs.fields[key].contents() == plain(value)
    assert [t.name for t in theirs.tensors] == list(tensors())
    for tensor in theirs.tensors:
        kind, raw = tensors()[tensor.name]
        assert tensor.tensor_type.name == kind.name
        assert tuple(tensor.shape[::-1]) == (*raw.shape[:-1], kind.row_weights(raw.shape[-1]))
        np.testing.assert_array_equal(np.asarray(tensor.data).view(np.uint8).reshape(raw.shape), raw)


def test_we_read_what_the_reference_writes(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint8("b.u8", 255)
    writer.add_int8("b.i8", -128)
    writer.add_uint16("b.u16", 65535)
    writer.add_int16("b.i16", -32768)
    writer.add_float64("b.f64", 0.1)
    writer.add_array("b.tokens", ["Ġthe", "<s>", "é"])
    writer.add_array("b.scores", [0.5, -1.5])
    writer.add_custom_alignment(64)
    raws = {}
    for name, (kind, raw) in tensors().items():
        if raw.size:
            raws[name] = raw
            writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType(kind.ggml))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with read(path) as file:
        assert file.field("b.u8", int) == 255
        assert file.field("b.i8", int) == -128
        assert file.field("b.u16", int) == 65535
        assert file.field("b.i16", int) == -32768
        assert file.field("b.f64", float) == 0.1
        assert file.field("b.tokens", list[str]) == ["Ġthe", "<s>", "é"]
        assert file.field("b.scores", list[float]) == [0.5, -1.5]
        assert file.kinds["b.i16"] == "i16"
        assert all(t.offset % 64 == 0 for t in file.tensors.values())
        for name, raw in raws.items():
            np.testing.assert_array_equal(file.raw(name), raw)


_LEAVES = st.one_of(
    st.booleans(),
    st.integers(-(1 << 63), (1 << 64) - 1),
    st.floats(width=32, allow_nan=False),
    st.text(max_size=20),
    st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=1, max_size=5),
    st.lists(st.text(max_size=9), min_size=1, max_size=5),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5),
    st.lists(st.lists(st.integers(-9, 9), min_size=1, max_size=3), min_size=1, max_size=3),
)


@given(metadata=st.dictionaries(st.text(min_size=1, max_size=30), _LEAVES, max_size=6))
@settings(max_examples=60, deadline=None)
def test_any_metadata_comes_back_and_a_copy_is_equal(tmp_path_factory: Any, metadata: dict[str, Any]) -> None:
    metadata.pop("general.alignment", None)
    folder = tmp_path_factory.mktemp("any")
    write(folder / "a.gguf", metadata, {"w": tensors()["cube"]})
    with read(folder / "a.gguf") as file:
        assert file.metadata == metadata
        copy = {key: Typed(file.kinds[key], value) for key, value in file.metadata.items()}
        write(folder / "b.gguf", copy, {name: (t.format, file.raw(name)) for name, t in file.tensors.items()})
    assert (folder / "a.gguf").read_bytes() == (folder / "b.gguf").read_bytes()


def test_a_large_tensor_is_written_in_chunks(path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (10, 144), dtype=np.uint8)
    write(path, {}, {"w": (Q4_K, Chunks(raw.shape, lambda: iter((raw[:3], raw[3:]))))})
    np.testing.assert_array_equal(read(path).raw("w"), raw)
    with pytest.raises(InputError, match="432 bytes, and its shape says 1440"):
        write(path, {}, {"w": (Q4_K, Chunks(raw.shape, lambda: iter((raw[:3],))))})


def test_a_write_that_fails_leaves_the_old_file_and_no_other(path: Path) -> None:
    write(path, {"a": 1}, {})

    def broken() -> Any:
        yield np.zeros((1, 144), np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(path, {"a": 2}, {"w": (Q4_K, Chunks((2, 144), broken))})
    assert read(path).metadata == {"a": 1}
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208 (also hidden ones)


def test_a_file_that_is_in_use_can_be_replaced(path: Path) -> None:
    """The new file gets the name; whoever has the old one mapped keeps reading the old bytes."""
    write(path, {}, tensors(seed=0))
    with read(path) as old:
        write(path, {}, tensors(seed=1))
        np.testing.assert_array_equal(old.raw("cube"), tensors(seed=0)["cube"][1])
        np.testing.assert_array_equal(read(path).raw("cube"), tensors(seed=1)["cube"][1])


@pytest.mark.parametrize(
    ("metadata", "found", "match"),
    [
        ({"k": object()}, {}, "'k' cannot hold .*object"),
        ({"k": 1 << 64}, {}, "more than 64 bits"),
        ({"k": 1e300}, {}, "'k' cannot hold 1e\\+300"),
        ({"k": []}, {}, "list of nothing .* say it with Typed"),
        ({"k": [1, "a"]}, {}, "list of int, str"),
        ({"k": Typed("u8", 256)}, {}, "'k' cannot hold"),
        ({"k": Typed("u7", 1)}, {}, "'u7' is no kind"),
        ({"k": Typed("[u7]", [1])}, {}, "'\\[u7\\]' is no kind"),
        ({"": 1}, {}, "metadata key '' has 0 bytes"),
        ({}, {"n" * 64: (F32, np.zeros(4, np.uint8))}, "has 64 bytes; 1 to 63"),
        ({}, {"w": (F32, np.zeros((1, 1, 1, 1, 4), np.uint8))}, "1 to 4 axes"),
        ({}, {"w": (F32, np.zeros(4, np.float32))}, "float32, not uint8"),
        ({}, {"w": (Q4_0, np.zeros(17, np.uint8))}, "a row of 17 bytes"),
    ],
)
def test_the_writer_refuses(path: Path, metadata: dict[str, Any], found: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        write(path, metadata, found)
    assert not path.exists()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be written: No such file"):
        write(tmp_path / "missing" / "a.gguf", {}, {})


def test_arrays_outlive_the_file_object(path: Path) -> None:
    write(path, {}, tensors())
    file = read(path)
    held = file.raw("cube")
    file.close()
    file.close()
    np.testing.assert_array_equal(held, tensors()["cube"][1])
    with pytest.raises(InputError, match="is closed"):
        file.raw("cube")


def test_a_field_is_there_and_of_its_kind_or_the_error_names_it(path: Path) -> None:
    write(path, METADATA, {})
    file: GGUF = read(path)
    assert file.field("a.u32", int) == 7
    assert file.field("a.u32", float) == 7.0
    assert type(file.field("a.u32", float)) is float
    assert file.field("a.bool", bool) is True
    assert file.field("missing", str, default="x") == "x"
    assert file.field("missing", str, default=None) is None
    with pytest.raises(FileError, match="lacks the metadata key 'missing'"):
        file.field("missing", int)
    with pytest.raises(FileError, match=r"'a\.text' is of kind str, and should be int"):
        file.field("a.text", int)
    with pytest.raises(FileError, match=r"'a\.bool' is of kind bool, and should be int"):
        file.field("a.bool", int)
    with pytest.raises(FileError, match=r"'a\.strings' is of kind \[str\], and should be list\[int\]"):
        file.field("a.strings", list[int], default=[])
    with pytest.raises(FileError, match="no tensor 'w'"):
        file.raw("w")


def test_the_tiny_llama_is_a_whole_model(path: Path) -> None:
    write_tiny_llama(path, types=lambda name: "Q6_K" if "ffn_down" in name else "Q4_0", width=256, layers=3, tied=False)
    file = read(path)
    assert file.tensors["blk.2.ffn_down.weight"].shape == (256, 512)
    assert file.tensors["blk.2.ffn_down.weight"].format.name == "Q6_K"
    assert file.tensors["output.weight"].shape == (384, 256)
    tokens = file.field("tokenizer.ggml.tokens", list[str])
    assert len(tokens) == len(set(tokens)) == len(file.field("tokenizer.ggml.token_type", list[int])) == 384
    for merge in file.field("tokenizer.ggml.merges", list[str]):
        left, right = merge.split(" ")
        assert {left, right, left + right} <= set(tokens)


def resident(path: Path) -> int:
    """How many bytes of a file this process has in memory by its maps."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    sizes = [int(next(each for each in lines if each.startswith("Rss:")).split()[1])
             for line in lines if line.endswith(str(path))]  # fmt: skip
    return 1024 * sum(sizes)


def test_pieces_are_the_whole_matrix_in_order(path: Path) -> None:
    write_tiny_llama(path)
    with read(path) as file:
        whole = file.raw("token_embd.weight")
        for rows in (1, 100, 384, 1000):
            seen = [(start, np.array(part)) for start, part in file.pieces("token_embd.weight", rows)]
            assert [start for start, _ in seen] == list(range(0, 384, rows))
            np.testing.assert_array_equal(np.concatenate([part for _, part in seen]), whole)


@pytest.mark.parametrize("shape", [(40,), (3, 40), (2, 3, 40)])
def test_pieces_are_of_all_matrices_of_a_tensor(shape: tuple[int, ...], path: Path, rng: np.random.Generator) -> None:
    numbers = rng.normal(size=shape).astype(np.float32)
    write(path, {}, {"x": (F32, encode(F32, numbers))})
    with read(path) as file:
        for _ in range(2):  # what was given back is read again
            seen = [np.array(part) for _, part in file.pieces("x", 4)]
            np.testing.assert_array_equal(np.concatenate(seen).view(np.float32), numbers.reshape(-1, 40))


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="this system does not say what a map holds")
def test_one_piece_is_in_memory_at_a_time(path: Path) -> None:
    write(path, {}, {"m": (F32, np.zeros((64, 2**20), np.uint8))})  # 64 MB
    with read(path) as file:
        held = [resident(path) for _, part in file.pieces("m", 8) if part.sum() == 0]
        assert len(held) == 8 and max(held) <= 9 * 2**20 and resident(path) <= 2**20
