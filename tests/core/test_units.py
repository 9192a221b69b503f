import pytest
from hypothesis import given
from hypothesis import strategies as st

from soberano.core.errors import InputError
from soberano.core.units import bytes_text, parse_bytes, seconds_text


@given(st.integers(0, 10**15))
def test_bytes_survive_print_and_parse_to_three_digits(count: int):
    text = bytes_text(count)
    assert abs(parse_bytes(text) - count) <= max(0.006 * count, 0)
    assert len(text) <= 8 or count > 10**15


def test_bytes_have_no_fourth_digit():
    assert [bytes_text(n) for n in (0, 999, 1000, 99_950_000, 999_600)] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "100 MB",
        "1.00 MB",
    ]


@given(st.text())
def test_parse_bytes_answers_or_raises_ours(text: str):
    try:
        assert isinstance(parse_bytes(text), int)
    except InputError as error:
        assert repr(text) in str(error)


@pytest.mark.parametrize("text", ["inf", "nan", "-5", "1e400GB", "GB", ""])
def test_numbers_that_are_no_sizes_are_refused(text: str):
    with pytest.raises(InputError):
        parse_bytes(text)


@given(st.floats(0, 1e6))
def test_seconds_read_like_speech(seconds: float):
    text = seconds_text(seconds)
    assert text.endswith((" µs", " ms", " s")) and "e" not in text and "1000" not in text
