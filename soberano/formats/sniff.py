"""Say what a file is that is not what it should be: people pass the wrong one more often than a damaged one."""

from collections.abc import Callable

HEAD = 512
"""How many bytes of the start `looks_like` wants."""

_SIGNS: list[tuple[str, Callable[[bytes], bool]]] = [
    ("an empty file", lambda head: not head),
    ("a GGUF file", lambda head: head.startswith(b"GGUF")),
    ("a model of the time before GGUF (GGML)", lambda head: head[:4] in (b"lmgg", b"tjgg", b"fmgg", b"algg")),
    ("a Git LFS pointer, not the file itself", lambda head: head.startswith(b"version https://git-lfs")),
    ("a safetensors file", lambda head: head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000),
    ("a zip archive, as PyTorch writes its checkpoints", lambda head: head.startswith(b"PK\x03\x04")),
    ("a Python pickle, as old PyTorch checkpoints are", lambda head: head[:1] == b"\x80" and head[1:2] <= b"\x05"),
    ("a PDF document", lambda head: head.startswith(b"%PDF")),
    ("a gzip archive", lambda head: head.startswith(b"\x1f\x8b")),
    ("a web page", lambda head: head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html"))),
    ("JSON", lambda head: head.lstrip()[:1] in (b"{", b"[")),
    ("zeros: perhaps a download that never finished", lambda head: not head.strip(b"\0")),
]


def looks_like(head: bytes) -> str | None:
    """What a file is that starts with `head`, in words, or None if nothing fits.

    >>> looks_like(b"<!DOCTYPE html><title>Sign in</title>")
    'a web page'
    """
    return next((what for what, fits in _SIGNS if fits(head)), None)


def described(head: bytes) -> str:
    """What to say of a file that is not what it should be.

    >>> described(b"%PDF-1.7"), described(b"\\x01\\x02\\x03\\x04\\x05")
    ('looks like a PDF document', 'starts with the bytes 01 02 03 04')
    """
    like = looks_like(head)
    return f"looks like {like}" if like else f"starts with the bytes {head[:4].hex(' ') or 'of an empty file'}"
