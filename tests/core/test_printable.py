from hypothesis import given
from hypothesis import strategies as st

from soberano.core.printable import printable

ESCAPES = "\x1b[2J\x9b31m\x07\x7f\u202e\u2066\u200b\u2028\u2029\ud800\x00\r"


def test_what_drives_a_terminal_becomes_a_mark():
    assert printable(ESCAPES) == "�[2J�31m" + "�" * (len(ESCAPES) - 8)


def test_letters_emoji_and_their_joins_stay():
    text = "naïve 日本 👩‍👩‍👧 क्‍ष a\tb\nc"
    assert printable(text) == text


@given(st.text())
def test_one_line_is_one_line(text: str):
    assert len((printable(text, lines=False) or "x").splitlines()) == 1
