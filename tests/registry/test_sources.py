from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.core.errors import InputError
from soberano.registry.sources import SOURCES, LocalFile, Source, Url, file_name, parse

HASH = "ab" * 32


def test_the_table_is_pinned_all_the_way_down():
    for name, source in SOURCES.items():
        assert parse(name) is source and source.name == name
        assert source.licence and source.about and source.size
        for pin in [source.sha256, *(m.wheel.sha256 for m in source.members)]:
            assert pin and len(pin) == 64 and set(pin) <= set("0123456789abcdef")
        assert all("==" in m.wheel.requirement and m.wheel.size for m in source.members)
        assert all(not Path(place).is_absolute() and ".." not in place for place, _ in source.beside)
        assert source.use.startswith(("chat {name}", "embed {name}"))
        assert source.licence in ("Apache-2.0", "MIT") or source.terms, "what is not open needs a yes first"


def test_the_three_other_kinds():
    package = parse(f"pypi:some-pkg==1.2.post1/pkg/data/My-Model.gguf#sha256={HASH}")
    assert isinstance(package, Source)
    assert (package.name, package.file) == ("my-model", "My-Model.gguf")
    assert package.parts[0].wheel.requirement == "some-pkg==1.2.post1"
    assert package.parts[0].wheel.sha256 == HASH and package.parts[0].path == "pkg/data/My-Model.gguf"
    assert parse(f"https://host/a.gguf?x=1#sha256={HASH.upper()}") == Url("https://host/a.gguf?x=1", HASH)
    for text in ("file:/a/b.gguf", "file:///a/b.gguf", "/a/b.gguf"):
        found = parse(text)
        assert isinstance(found, LocalFile) and found.path.as_posix() == "/a/b.gguf"
    assert parse("./my#x.gguf") == LocalFile(Path("my#x.gguf"))
    assert parse(f"file:my#x.gguf#sha256={HASH}") == LocalFile(Path("my#x.gguf"), HASH)
    for text in ("file:///a%20b/%C3%A4.gguf", "file://localhost/a%20b/%C3%A4.gguf", "file:/a b/ä.gguf"):
        assert parse(text) == LocalFile(Path("/a b/ä.gguf"))
    assert parse("file:100%25.gguf") == parse("./100%25.gguf") == LocalFile(Path("100%25.gguf"))
    assert parse(f"file:b.gguf#sha256={HASH}") == LocalFile(parse("b.gguf").path, HASH)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("nobody", "pull knows smollm2"),
        ("", "no model is called"),
        ("pypi:a==1/x.gguf", "add #sha256=HASH"),
        (f"pypi:a>=1/x.gguf#sha256={HASH}", "NAME==VERSION"),
        (f"pypi:a==1#sha256={HASH}", "NAME==VERSION"),
        (f"pypi:--index-url==1/x#sha256={HASH}", "NAME==VERSION"),
        (f"pypi:a==1/../..#sha256={HASH}", "plain file name"),
        ("https://h/x.gguf", "add #sha256=HASH"),
        ("https://h/x.gguf#md5=1", "add #sha256=HASH"),
        ("https://h/x.gguf#sha256=1", "64 hexadecimal"),
        ("file://elsewhere/x.gguf", "names the host 'elsewhere'"),
        (f"http://h/x.gguf#sha256={HASH}", "starts with http:"),
        ("hf://x/y", "starts with hf:"),
    ],
)
def test_a_reference_that_lacks_something_says_what(reference: str, says: str):
    with pytest.raises(InputError, match=says):
        parse(reference)


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_our_error(text: str):
    try:
        parse(text)
        parse(f"pypi:{text}#sha256={HASH}")
    except InputError:
        pass


@given(st.text(max_size=80))
def test_a_file_name_never_leaves_its_folder(text: str):
    try:
        name = file_name(text)
    except InputError:
        return
    assert "/" not in name and "\\" not in name and "\0" not in name and not name.startswith((".", "-"))
