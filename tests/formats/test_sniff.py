"""The wrong file is called by its name."""

import gzip
import io
import pickle
import struct
import zipfile

import pytest

from soberano.formats.sniff import HEAD, looks_like


def _zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("archive/data.pkl", b"x")
    return out.getvalue()


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"", "empty"),
        (b"GGUF\x03\0\0\0", "GGUF"),
        (b"tjgg\x03\0\0\0", "before GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (struct.pack("<Q", 2) + b"{}", "safetensors"),
        (_zip(), "PyTorch"),
        *((pickle.dumps({"a": 1}, protocol), "pickle") for protocol in range(2, 6)),
        (gzip.compress(b"x", mtime=0), "gzip"),
        (b"\n  <!doctype HTML><p>", "web page"),
        (b'{"error": "not found"}', "JSON"),
        (bytes(100), "zeros"),
    ],
)
def test_a_file_is_named_by_its_start(head: bytes, what: str) -> None:
    assert what in (looks_like(head[:HEAD]) or "")


def test_noise_is_nothing() -> None:
    assert looks_like(b"\x13\x37 something else") is None
