"""Streams of tokens become text without broken characters, and the parts make the whole."""

from hypothesis import given
from hypothesis import strategies as st

from soberano.text.detokenize import Detokenizer

# Bytes that make all kinds of trouble: starts, continuations, overlong forms, surrogates, what no UTF-8 holds.
NASTY = st.lists(
    st.sampled_from(
        [b"a", b"\xc3", b"\xa9", b"\xe2\x82", b"\xac", b"\xf0\x9f", b"\x98\x80", b"\xed\xa0\x80", b"\xc0\x80", b"\xff"]
    )
    | st.binary(max_size=4)
)


@given(NASTY)
def test_parts_make_the_whole(pieces: list[bytes]):
    stream = Detokenizer(pieces.__getitem__)
    text = "".join(stream.push(i) for i in range(len(pieces))) + stream.finish()
    assert text == b"".join(pieces).decode("utf-8", "replace")


@given(st.text(), st.data())
def test_text_comes_out_as_soon_as_it_is_certain(text: str, data: st.DataObject):
    raw = text.encode()
    stream = Detokenizer(lambda i: raw[i : i + 1])
    out = ""
    for i in range(len(raw)):
        out += stream.push(i)
        assert out == raw[: i + 1].decode("utf-8", "ignore")  # all whole characters so far, and nothing else
    assert out == text
    assert stream.finish() == ""


def test_an_unfinished_character_is_told_at_the_end():
    stream = Detokenizer([b"caf", b"\xc3"].__getitem__)
    assert [stream.push(0), stream.push(1), stream.finish()] == ["caf", "", "\ufffd"]
    assert stream.finish() == ""
