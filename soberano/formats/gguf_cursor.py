"""Walk through bytes that nobody vouches for: numbers, strings, arrays and counts of a GGUF file.

Every count and size is a Python int and is compared with the bytes that are left, and with what a head may have, before
anything is allocated or read, so a lie costs nothing.
"""

import struct
from typing import Any, NoReturn

from soberano.core.errors import FileError
from soberano.formats.gguf_layout import (
    CODES,
    KINDS,
    MAGIC,
    MAX_DEPTH,
    MAX_ELEMENTS,
    MAX_HEAD,
    MAX_NESTED,
    MAX_STRING,
    VERSIONS,
)
from soberano.formats.sniff import HEAD, described

_U32 = struct.Struct("<I").unpack_from
_U64 = struct.Struct("<Q").unpack_from
_LEAST = {"str": 8, "array": 12, **{kind: struct.calcsize("<" + code) for kind, code in CODES.items()}}
"""The least number of bytes that a value of a kind takes."""


class Cursor:
    """A place in the file, and the only code that moves it."""

    def __init__(self, name: str, data: Any, size: int) -> None:
        self.name, self.data, self.size = name, data, size
        self.pos = 0
        self.elements = self.nested = 0  # of all arrays so far, and how many of them are arrays

    def fail(self, what: str) -> NoReturn:
        raise FileError(f"{self.name} is damaged: {what}; get the file again")

    def need(self, count: int, what: str) -> int:
        """Step over `count` bytes and return where they start."""
        start, left = self.pos, self.size - self.pos
        if count > left:
            raise FileError(
                f"{self.name} is truncated or damaged: {what} at byte {start} takes {count} bytes and only {left} are "
                f"left, {count - left} are missing; get the file again"
            )
        if start + count > MAX_HEAD:
            self.fail(f"{what} lies beyond byte {MAX_HEAD}, and nothing but weights may")
        self.pos = start + count
        return start

    def u32(self, what: str) -> int:
        return _U32(self.data, self.need(4, what))[0]

    def u64(self, what: str) -> int:
        return _U64(self.data, self.need(8, what))[0]

    def signature(self) -> int:
        head = bytes(self.data[: min(HEAD, self.size)])
        if not head.startswith(MAGIC):
            raise FileError(f"{self.name} is not a GGUF file: it {described(head)}; give the path of a .gguf file")
        self.need(4, "the magic")
        version = self.u32("the version")
        if version in VERSIONS:
            return version
        if version == 1:
            raise FileError(f"{self.name} is GGUF version 1, of 2023; convert it to version 3 with llama.cpp's tools")
        if int.from_bytes(version.to_bytes(4, "big"), "little") in (1, *VERSIONS):
            raise FileError(f"{self.name} is a big-endian GGUF file, and only little-endian ones are read; convert it")
        raise FileError(
            f"{self.name} is GGUF version {version}, and versions {VERSIONS[0]} and {VERSIONS[-1]} are read; "
            f"update soberano or get the file again"
        )

    def count(self, what: str, most: int, least: int) -> int:
        """A number of things that follow and take at least `least` bytes each."""
        number = self.u64(f"the number of {what}")
        if number > most:
            self.fail(f"it claims {number} {what}, and {most} is the most")
        left = self.size - self.pos
        if number * least > left:
            raise FileError(
                f"{self.name} is truncated or damaged: {number} {what} take at least {number * least} bytes and only "
                f"{left} are left; get the file again"
            )
        return number

    def string(self, what: str, most: int = MAX_STRING) -> str:
        length = self.u64(f"the length of {what}")
        if length > most:
            self.fail(f"{what} claims {length} bytes, and {most} is the most")
        start = self.need(length, what)
        try:
            return self.data[start : self.pos].decode()
        except UnicodeDecodeError as error:
            self.fail(f"{what} is not UTF-8 (byte {start + error.start})")

    def strings(self, count: int, what: str) -> list[str]:
        """`count` strings in a row: the vocabulary is most of the head, so this is the loop that must be quick."""
        out: list[str] = []
        add, data, end, pos = out.append, self.data, min(self.size, MAX_HEAD), self.pos
        for _ in range(count):
            start = pos + 8
            if start > end:
                break
            pos = start + _U64(data, pos)[0]
            if pos > end or pos - start > MAX_STRING:
                break
            try:
                add(data[start:pos].decode())
            except UnicodeDecodeError as error:
                self.fail(f"{what}, element {len(out)}, is not UTF-8 (byte {start + error.start})")
            self.pos = pos
        if len(out) < count:
            self.string(f"element {len(out)} of {what}")  # says what is wrong, with the numbers
        return out

    def value(self, kind: str, what: str, depth: int = 0) -> tuple[Any, str]:
        """A value and its kind in words; of an array also the kind of its elements: "[u32]"."""
        if kind == "str":
            return self.string(what), kind
        if kind == "bool":
            return self.data[self.need(1, what)] != 0, kind
        if kind != "array":
            code = struct.Struct("<" + CODES[kind])
            return code.unpack_from(self.data, self.need(code.size, what))[0], kind
        if depth == MAX_DEPTH:
            self.fail(f"{what} nests arrays more than {MAX_DEPTH} deep")
        inner = self.kind(what)
        count = self.count(f"elements in {what}", MAX_ELEMENTS, least=_LEAST[inner])
        self.elements += count
        if self.elements > MAX_ELEMENTS:
            self.fail(f"its arrays have more than {MAX_ELEMENTS} elements together")
        if inner == "str":
            return self.strings(count, what), "[str]"
        if inner == "array":
            self.nested += count
            if self.nested > MAX_NESTED:
                self.fail(f"its arrays hold more than {MAX_NESTED} arrays together")
            return [self.value(inner, what, depth + 1)[0] for _ in range(count)], "[array]"
        start = self.need(count * _LEAST[inner], what)
        numbers = struct.unpack_from(f"<{count}{CODES[inner]}", self.data, start)
        return [n != 0 for n in numbers] if inner == "bool" else list(numbers), f"[{inner}]"

    def kind(self, what: str) -> str:
        number = self.u32(f"the kind of {what}")
        if number >= len(KINDS):
            self.fail(f"{what} has kind {number}, and kinds go from 0 to {len(KINDS) - 1}")
        return KINDS[number]
